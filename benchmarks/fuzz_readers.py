"""The readers that are fuzzed: what is called with a file, and the words that their formats are made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz_mutations import MRC, NPY, PICKLE, TEXT, Damage
from gem3d.errors import Gem3dError
from gem3d.maps import read_map, read_mask
from gem3d.optics import ctf_coefficients
from gem3d.particles.cryodrgn_tables import read_cryodrgn_ctf, read_cryodrgn_poses
from gem3d.particles.cryosparc import read_cryosparc, read_cs_images
from gem3d.particles.mrc_stack import read_stack_header
from gem3d.particles.particles import Particles
from gem3d.particles.relion_star import read_relion_star
from gem3d.particles.restricted_pickle import load_arrays
from gem3d.particles.row_list import read_row_list
from gem3d.particles.stack_reader import StackReader

CORPUS = Path(__file__).parents[1] / "tests" / "fuzz_corpus"
_MOST_IMAGES = 8


class WrongResult(Exception):
    """A reader gave something that nothing after it can be asked to cope with."""


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes
    ----------
    what: as the table of results calls it.
    suffix: of the file.
    read: reads the file; the number, which follows from the file's bytes, chooses among the ways to do it.
    damage: kinds of damage that know the format.
    words: of the format.
    """

    what: str
    suffix: str
    read: Callable[[Path, int], object]
    damage: Sequence[Damage]
    words: Sequence[bytes]

    def run(self, path: Path, data: bytes) -> object:
        """Read the file that holds `data`."""
        return self.read(path, zlib.crc32(data))


def _star(path: Path, way: int) -> None:
    _check(read_relion_star(path, ctf=way % 4 > 0, ignore_extras=way % 8 > 3))


def _cs(path: Path, way: int) -> None:
    if way % 8 == 0:
        read_cs_images(path)
        return
    # In itself a file finds all its uids.
    passthrough = [path] if way % 8 == 1 else []
    _check(read_cryosparc(path, ctf=way % 4 > 0, ignore_extras=way % 16 > 7, passthrough=passthrough))


def _pickle(path: Path, way: int) -> None:
    load_arrays(path, "give another")
    reader = (read_cryodrgn_poses, read_cryodrgn_ctf, lambda path: read_row_list(path, 100))[way % 3]
    reader(path)


def _stack(path: Path, way: int) -> None:
    stack = read_stack_header(path)
    n = min(_MOST_IMAGES, stack.n_images)
    # The last ones: where the file must be as long as its header says.
    order = np.arange(stack.n_images - n, stack.n_images, dtype=np.int32)
    with StackReader({0: stack}) as reader:
        reader.read(
            np.zeros(n, np.int32), order, np.empty((n, stack.box_size_px, stack.box_size_px), np.float32)
        )


def _map(path: Path, way: int) -> None:
    if way % 2:
        read_mask(path, 4)
        return
    found = read_map(path)
    if not np.isfinite(found.values).all() or not np.isfinite([found.voxel_size_A, *found.origin_A]).all():
        raise WrongResult("numbers that are not finite")


def _check(particles: Particles) -> None:
    for name, values in vars(particles).items():
        if isinstance(values, np.ndarray):
            if len(values) != len(particles):
                raise WrongResult(f"{name} is of {len(values)} particles, not {len(particles)}")
            if not np.isfinite(values).all():
                raise WrongResult(f"{name} is not finite")
    for name, end in (("stack_index", len(particles.stacks)), ("optics_index", len(particles.optics))):
        index = getattr(particles, name)
        if index.min() < 0 or index.max() >= end:
            raise WrongResult(f"{name} points beyond")
    if particles.image_index.min() < 0:
        raise WrongResult("a negative image_index")
    if not np.isfinite(ctf_coefficients(particles)).all():
        raise WrongResult("a CTF that is not finite")


_NUMBERS = b"""0 -0 1 -1 2 3 1.5 1e5 1e308 -1e308 1e400 1e-320 nan NaN inf -Infinity 0x10 1_000 +5 .5 5. 1e 99999999999
2147483647 2147483648 9223372036854775808 1e19 360 -45.5 300 2.7 0.1 64 \xef\xbc\x91 \xc2\xa0 None ? .""".split()
_STAR_WORDS = [
    *_NUMBERS,
    *b"""data_ data_optics data_particles data_images loop_ save_ save_x stop_ global_ # ; ' " \xef\xbb\xbf \xff \0 \r
1@a.mrcs 000002@b/c.mrcs 0@a.mrcs @a.mrcs 1@ -1@a.mrcs 99999999999@a.mrcs '1@a b.mrcs' 1@@ 1.0@a.mrcs [0,0,0] [0,1] []
_rlnImageName _rlnAngleRot _rlnAngleTilt _rlnAnglePsi _rlnOriginX _rlnOriginY _rlnOriginXAngst _rlnOriginYAngst
_rlnDefocusU _rlnDefocusV _rlnDefocusAngle _rlnPhaseShift _rlnCtfBfactor _rlnCtfScalefactor _rlnOpticsGroup
_rlnOpticsGroupName _rlnVoltage _rlnSphericalAberration _rlnAmplitudeContrast _rlnImagePixelSize _rlnImageSize
_rlnDetectorPixelSize _rlnMagnification _rlnRandomSubset _rlnMicrographName _rlnGroupName _rlnGroupNumber _gem3dContrast
_rlnBeamTiltX _rlnMagMat00 _rlnMagMat01 _rlnCtfDataAreCtfPremultiplied _rlnOddZernike _rlnEvenZernike _rlnOther
""".split(),
    b"\n;\n", b"\r\n", b"\n", b" ", b"'", b'"', b"\n\nloop_\n", b"\ndata_particles\n", b"' '", b"''",
]  # fmt: skip
_CS_WORDS = [
    *(f"'{word}'".encode() for word in """uid blob/path blob/idx blob/shape blob/psize_A blob/sign ctf/exp_group_id
ctf/accel_kv ctf/cs_mm ctf/amp_contrast ctf/df1_A ctf/df2_A ctf/df_angle_rad ctf/phase_shift_rad ctf/scale ctf/bfactor
ctf/tilt_A ctf/anisomag alignments3D/pose alignments3D/shift alignments3D/split alignments3D/psize_A alignments2D/pose
alignments3D_multi/pose alignments3D_multi/shift alignments3D_multi/class_posterior alignments_class_0/pose
alignments_class_1/pose alignments_class_0/shift alignments_class_0/class_posterior location/micrograph_uid
location/micrograph_path <f4 <f8 >f4 <f2 <u4 <u8 |u1 <i4 >i8 |S9 |S0 |S999999999 <U9 <U0 |V8 |b1 <c8 |O <f3 <M8[s] <f16
\\n \\x41""".split()),
    *b"0 1 2 3 5 (2,) (3,) (4,) (0,) () (1,1) 999999999 99999999999999999 True False descr , ) ( [ ] { } : ' \" L".split(),
    b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00", b"\x95CSDAT", b"\0", b"\xff\xff\xff\xff",
    b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x3f", b">", b"\n",
]  # fmt: skip
_PICKLE_WORDS = [
    *(bytes([code]) for code in b"()0125abcdeghijlopqrstuBCFGIJKLMNPQRSTUVX]{}.\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89"),
    *(bytes([code]) for code in range(0x8A, 0x99)),
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy._core.multiarray\nscalar\n", b"cnumpy._core.numeric\n_frombuffer\n", b"cos\nsystem\n",
    b"cbuiltins\nexec\n", b"cposix\nsystem\n(S'true'\ntR", b"c__main__\n__file__\n", b"cnumpy\nload\n",
    b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8", b"\x8c\x02i4", b"\x8c\x03<f8", b"U\x01<", b"\x8c\x01C", b"\x8c\x01F",
    b"\x8c\x01K", b"\x8c\x06latin1", b"\x80\x02", b"\x80\x05", b"\x95\x10\x00\x00\x00\x00\x00\x00\x00",
    b"B\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"M\xff\xff", b"J\xff\xff\xff\xff",
    b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01", b"I01\n", b"I99999999999999999999\n", b"L5L\n", b"Fnan\n", b"S'a\\\n",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"q\x00", b"h\x00", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"p9999999999\n",
    b"(dp0\n", b"\x85R", b"\x86R", b"tR", b"tb", b"]q\x00(",
]  # fmt: skip
_MRC_WORDS = [
    b"MAP ", b"MAP\0", b"DD\0\0", b"DA\0\0", b"\x11\x11\0\0", b"\x1f\x8b\x08\0", b"BZh9", b"SERI", b"FEI1", b"AGAR",
    b"\0\0\x80\x7f", b"\x7f\x80\0\0", b"\0\0\xc0\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x80\x3f",
]  # fmt: skip

READERS = {
    "star": Reader("STAR", ".star", _star, TEXT, _STAR_WORDS),
    "cs": Reader(".cs", ".cs", _cs, NPY, _CS_WORDS),
    "pickle": Reader("pickle", ".pkl", _pickle, PICKLE, _PICKLE_WORDS),
    "stack": Reader("MRC stack", ".mrcs", _stack, MRC, _MRC_WORDS),
    "map": Reader("MRC map", ".mrc", _map, MRC, _MRC_WORDS),
}


def seeds(name: str) -> list[bytes]:
    """The files of a reader's corpus."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one that a user is meant to see."""
    return isinstance(error, Gem3dError)
