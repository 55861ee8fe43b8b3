"""What a file is that was taken for an MRC file, by its first bytes or its name."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

_PACKED = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Of files that a program has packed."""
_TO_MRC = "convert it to an MRC file ({})"
_MAGIC = {
    b"II*\0": ("a TIFF file", "tif2mrc of IMOD"),
    b"MM\0*": ("a TIFF file", "tif2mrc of IMOD"),
    b"II+\0": ("a large TIFF file", "tif2mrc of IMOD"),
    b"MM\0+": ("a large TIFF file", "tif2mrc of IMOD"),
    b"\x89PNG\r\n": ("a PNG picture", "e2proc2d.py of EMAN2"),
    b"\x89HDF\r\n": ("an HDF5 file, as EMAN2 writes them", "e2proc2d.py in.hdf out.mrcs, of EMAN2"),
    b"\0\0\0\3": ("a DM3 file of DigitalMicrograph", "dm2mrc of IMOD"),
    b"\0\0\0\4": ("a DM4 file of DigitalMicrograph", "dm2mrc of IMOD"),
}
_DM_SUFFIXES = (".dm3", ".dm4")
_IMAGIC_SUFFIXES = (".hed", ".img")
_SPIDER_FORMS = (1.0, 3.0, -11.0, -12.0, -21.0, -22.0)  # images, volumes and their transforms, word 5


def packed_by(begins: bytes) -> str | None:
    """The program that packed a file which begins so: gzip, bzip2, xz or zstd."""
    return next((name for magic, name in _PACKED.items() if begins.startswith(magic)), None)


def name_foreign(path: Path, begins: bytes) -> str | None:
    """What the file is and what to do, to follow its name in a message; None where it is of no known kind.

    Parameters
    ----------
    begins: its first bytes, of which 24 or more are looked at; of MRC files it may be wrong.
    """
    packer = packed_by(begins)
    if packer is not None:
        return f"is packed by {packer}; unpack it ({unpack_command(path, packer)}) and give the unpacked file"
    suffix = path.suffix.lower()
    for magic, (what, how) in _MAGIC.items():
        if begins.startswith(magic) and (magic[0] != 0 or suffix in _DM_SUFFIXES or _is_dm(begins)):
            if suffix == ".eer":
                return (
                    "is an EER movie, not a stack of particles; give the stacks that were extracted from it"
                )
            return f"is {what}; {_TO_MRC.format(how)}"
    if is_spider(begins):
        return f"is a SPIDER file; {_TO_MRC.format('e2proc2d.py of EMAN2, or bimg of Bsoft')}"
    if suffix in _IMAGIC_SUFFIXES:
        return f"is an IMAGIC file; {_TO_MRC.format('e2proc2d.py in.hed out.mrcs, of EMAN2')}"
    if _is_text(begins):
        line = begins.decode("ascii").strip().partition("\n")[0].strip()[:40]
        return f"is text ({line!r}), not images; was it downloaded in part, or as a pointer to the data?"
    return None


def unpack_command(path: Path, packer: str) -> str:
    """Shell command that unpacks the file beside itself, whatever its suffix."""
    packed = path.suffix.lower() in PACKED_SUFFIXES
    target = path.with_suffix("") if packed else path.with_name(f"unpacked_{path.name}")
    return f"{packer} -dc {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def is_spider(begins: bytes) -> bool:
    """Whether a file that begins so is of SPIDER (https://spider.wadsworth.org/spider_doc/spider/docs/image_doc.html)."""
    # Floats: slices, rows, form (word 5), columns (12), and the header's records, bytes and bytes a record.
    if len(begins) < 96:
        return False
    for order in "<>":
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            words = np.frombuffer(begins[:96], f"{order}f4").astype(np.float64)
        n_slices, n_rows, form, n_columns, n_records, header_bytes, record_bytes = words[
            [0, 1, 4, 11, 12, 21, 22]
        ]
        sized = all(0 < size < 1e6 and size == int(size) for size in (abs(n_slices), n_rows, n_columns))
        if sized and form in _SPIDER_FORMS and header_bytes == n_records * record_bytes > 0:
            return True
    return False


def _is_dm(begins: bytes) -> bool:
    # Version, length of the file (4 bytes in version 3, else 8), byte order 0 or 1: big-endian all.
    at = 8 if begins[3] == 3 else 12
    return begins[at : at + 4] in (b"\0\0\0\0", b"\0\0\0\1") and len(begins) > at + 4


def _is_text(begins: bytes) -> bool:
    return len(begins) > 0 and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in begins)
