"""Write the files that fuzzing starts from: small ones of every form that the readers take.

python benchmarks/fuzz_seeds.py
"""

from __future__ import annotations

import bz2
import gzip
import io
import pickle
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fuzz_readers import CORPUS

N = 3
_OPTICS = """data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnBeamTiltX #8
_rlnOddZernike #9
_rlnMagMat00 #10
7 first 300.0 2.7 0.1 1.5 64 0 [0,0,0] 1
3 'second one' 200.0 1.4 0.07 1.5 64 0 [] 1
"""
_PARTICLES = """
# version 30001

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOpticsGroup #10
_rlnRandomSubset #11
_rlnMicrographName #12
_rlnPhaseShift #13
_rlnCtfScalefactor #14
_rlnCtfBfactor #15
000001@a.mrcs 10 40 -70 1.25 3 10000 9000 5 3 1 m1.mrc 0 1 0
000012@b/c.mrcs 20 50 80 -2 0 11000 11500 -45 7 2 m2.mrc 0 0.9 10
'3@a b.mrcs' 30 60 190 0 -4.5 12000 12000 180 3 2 m1.mrc 90 1 -5
"""
_ONE_BLOCK = """data_

loop_
_rlnVoltage
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnSphericalAberration
_rlnDetectorPixelSize
_rlnMagnification
_rlnAmplitudeContrast
_rlnImageName
_rlnOriginX
_rlnOriginY
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnGroupNumber
_gem3dContrast
300 10000 9000 5 2.7 5 25000 0.1 1@a.mrcs 1 3 10 40 -70 1 1.0
300 11000 11500 -45 2.7 5 25000 0.1 '2@a b.mrcs' -2 0 20 50 80 2 0.5
"""
_PAIRS = """data_optics
_rlnOpticsGroup 1
_rlnVoltage 300
_rlnSphericalAberration 2.7
_rlnAmplitudeContrast 0.1
_rlnImagePixelSize 1.5

data_images
_rlnImageName 1@a.mrcs
_rlnAngleRot 1
_rlnAngleTilt 2
_rlnAnglePsi 3
_rlnDefocusU 1e4
_rlnDefocusV 1e4
_rlnDefocusAngle 0
"""


def star() -> Iterator[tuple[str, bytes]]:
    yield "relion31", (_OPTICS + _PARTICLES).encode()
    yield "optics_last_crlf", (_PARTICLES + _OPTICS).replace("\n", "\r\n").encode()
    yield "relion30", _ONE_BLOCK.encode()
    yield "pairs", _PAIRS.encode()
    yield "text_field", _PAIRS.replace("1@a.mrcs", "\n;1@a.mrcs\n;").encode()


_BLOB = {
    "uid": np.array([7, 2**63 + 5, 3], "<u8"),
    "blob/path": np.array([b">J1/a.mrc", b"J1/b.mrc", b"/x.mrc"]),
    "blob/idx": np.array([0, 4, 1], "<u4"),
    "blob/shape": np.full((N, 2), 64, "<u4"),
    "blob/psize_A": np.full(N, 1.3, "<f4"),
    "blob/sign": np.array([1, -1, 1], "<f4"),
}
_CTF = {
    "ctf/exp_group_id": np.array([4, 9, 4], "<u4"),
    "ctf/accel_kv": np.array([300, 200, 300], "<f4"),
    "ctf/cs_mm": np.full(N, 2.7, "<f4"),
    "ctf/amp_contrast": np.full(N, 0.1, "<f4"),
    "ctf/df1_A": np.linspace(9_000, 12_000, N).astype("<f4"),
    "ctf/df2_A": np.linspace(9_500, 11_000, N).astype("<f4"),
    "ctf/df_angle_rad": np.linspace(-1.5, 3.2, N).astype("<f4"),
    "ctf/phase_shift_rad": np.linspace(0, 1.5, N).astype("<f4"),
    "ctf/scale": np.full(N, 0.75, "<f4"),
    "ctf/bfactor": np.linspace(0, 40, N).astype("<f4"),
    "ctf/tilt_A": np.zeros((N, 2), "<f4"),
    "ctf/anisomag": np.zeros((N, 4), "<f4"),
}
_POSES = {
    "split": np.array([0, 1, 1], "<u4"),
    "shift": np.arange(2 * N, dtype="<f4").reshape(N, 2),
    "pose": np.linspace(-2, 2, 3 * N).astype("<f4").reshape(N, 3),
    "psize_A": np.full(N, 2.6, "<f4"),
}
_POSTERIOR = np.array([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]], "<f4")


def cs() -> Iterator[tuple[str, bytes]]:
    one = _BLOB | _CTF | {f"alignments3D/{name}": values for name, values in _POSES.items()}
    yield "refinement", _npy(one)
    yield "version2", _npy(one | {"location/micrograph_path": np.array([b"m1", b"m2", b"m1"])}, (2, 0))
    text = {
        "blob/path": np.array(["a.mrc", "\u00e5.mrc", "c"]),
        "location/micrograph_uid": np.arange(N, dtype="<u8"),
    }
    yield (
        "str_big_endian",
        _npy({name: values.astype(values.dtype.newbyteorder(">")) for name, values in (one | text).items()}),
    )
    both = {f"alignments3D_multi/{name}": np.repeat(values[:, None], 2, 1) for name, values in _POSES.items()}
    yield "multi", _npy(_BLOB | _CTF | both | {"alignments3D_multi/class_posterior": _POSTERIOR})
    classes = {
        f"alignments_class_{k}/{name}": values
        for k in range(2)
        for name, values in (_POSES | {"class_posterior": _POSTERIOR[:, k]}).items()
    }
    yield "classes", _npy(_BLOB | _CTF | classes)
    yield "without_poses", _npy(_BLOB | _CTF | {"alignments2D/pose": np.zeros(N, "<f4")})
    objects = np.array(["a.mrc"] * N, object)
    yield "objects", _npy(one | {"blob/path": objects})
    yield "stream", b"\x95CSDAT" + bytes(30)


def _npy(columns: dict[str, NDArray[np.generic]], version: tuple[int, int] = (1, 0)) -> bytes:
    rows = np.zeros(N, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    file = io.BytesIO()
    np.lib.format.write_array(file, rows, version)
    return file.getvalue()


def pickles() -> Iterator[tuple[str, bytes]]:
    turns = np.stack([np.eye(3), np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]])
    origins = np.linspace(-0.5, 0.5, 2 * N).reshape(N, 2)
    ctf = np.tile([64, 1.5, 1e4, 9e3, 45, 300, 2.7, 0.1, 0], (N, 1)).astype("f4")
    for protocol in range(6):
        yield f"poses_{protocol}", pickle.dumps((turns, origins), protocol)
        yield f"ctf_{protocol}", pickle.dumps(ctf, protocol)
    yield "rotations_by_column", pickle.dumps((np.asfortranarray(turns.astype("f4")),), 5)
    yield "rows", pickle.dumps([0, 5, 70, 99], 0)
    yield "rows_2", pickle.dumps([0, 5, 70, 99], 2)
    yield "flags", pickle.dumps([True, False] * 50, 4)
    yield "floats", pickle.dumps([0.5, 1, 2.5], 4)
    yield "scalars", pickle.dumps([np.int64(3), np.int64(7)], 4)
    yield "text", pickle.dumps("\u00e5", 0)
    yield "big_endian", pickle.dumps(np.arange(4, dtype=">i4"), 3)
    python_2 = pickle.dumps(origins, 2).replace(b"numpy._core", b"numpy.core")
    yield "numpy_1", python_2
    yield "by_any_order", pickle.dumps(turns.transpose(1, 0, 2), 5)
    yield "empty", pickle.dumps(np.empty((0, 9)), 4)
    named = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'i2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    yield "python_2", named + b"(I1\n(I3\nt" + dtype + b"I00\nS'\\x01\\x00\\x05\\x00\\t\\x00'\ntb."
    text = b"X" + struct.pack("<I", 200) + b"a" * 200
    yield (
        "encodes_again",
        b"c_codecs\nencode\nq\0" + text + b"q\1X\6\0\0\0latin1q\2" + b"h\0h\1h\2\x86R" * 20 + b".",
    )
    yield "runs_code", b"cos\nsystem\n(S'true'\ntR."
    yield "runs_code_4", b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R."


def stacks() -> Iterator[tuple[str, bytes]]:
    for mode, kind in {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}.items():
        yield f"mode_{mode}", mrc_file(np.arange(48).reshape(3, 4, 4).astype(kind), mode)
    yield "big_endian", mrc_file(np.arange(48).reshape(3, 4, 4).astype(">i2"), 1, ">")
    yield (
        "wrong_stamp",
        mrc_file(np.arange(48).reshape(3, 4, 4).astype(">f4"), 2, ">", stamp=b"DD\0\0", word=bytes(4)),
    )
    yield "extended", mrc_file(np.arange(18).reshape(2, 3, 3).astype("f4"), 2, extended=64)
    yield "complex", mrc_file(np.zeros((2, 4, 4), "c8"), 4)


def maps() -> Iterator[tuple[str, bytes]]:
    cube = np.linspace(0, 1, 64).reshape(4, 4, 4).astype("f4")
    yield "cube", mrc_file(cube, 2)
    yield "big_endian", mrc_file(cube.astype(">f4"), 2, ">")
    yield "axes", mrc_file(cube, 2, axes=(3, 1, 2))
    yield "no_axes", mrc_file(cube, 2, axes=(0, 0, 0))
    yield "bytes", mrc_file((cube > 0.5).astype("i1"), 0)
    yield "oblong", mrc_file(cube[:3, :2], 2)
    yield "extended", mrc_file(cube, 2, extended=80)
    yield "no_word", mrc_file(cube, 2, word=bytes(4))
    yield "gzip", gzip.compress(mrc_file(cube, 2), mtime=0)
    yield "bzip2", bz2.compress(mrc_file(cube, 2))


def mrc_file(
    values: NDArray[np.generic],
    mode: int,
    order: str = "<",
    *,
    extended: int = 0,
    axes: tuple[int, int, int] = (1, 2, 3),
    stamp: bytes | None = None,
    word: bytes = b"MAP ",
) -> bytes:
    """An MRC file of these values; everything else may be odd."""
    nz, ny, nx = values.shape
    words = struct.pack(f"{order}10i6f3i3f2i", nx, ny, nz, mode, 0, 0, 0, nx, ny, nz,
                        1.5 * nx, 1.5 * ny, 1.5 * nz, 90, 90, 90, *axes, 0, 1, 0.5, 1, extended)  # fmt: skip
    stamp = stamp or (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    header = words.ljust(208, b"\0") + word + stamp
    return header.ljust(1024, b"\0") + bytes(extended) + values.tobytes()


def main() -> None:
    made = {"star": star(), "cs": cs(), "pickle": pickles(), "stack": stacks(), "map": maps()}
    for reader, files in made.items():
        (CORPUS / reader).mkdir(parents=True, exist_ok=True)
        for name, data in files:
            (CORPUS / reader / f"seed_{name}").write_bytes(data)


if __name__ == "__main__":
    main()
