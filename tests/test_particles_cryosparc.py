"""Reading cryoSPARC's particle files."""

import tracemalloc
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from command_line import refused as command_refused
from gem3d.errors import Gem3dWarning, ParticleFileError
from gem3d.fit.accumulate import accumulate
from gem3d.fit.observations import Observations
from gem3d.input_settings import InputSettings
from gem3d.optics import contrast_transfer_function, ctf_coefficients
from gem3d.particles import ImageSource, fill_box_size, read_particles
from gem3d.particles.cryosparc import read_cryosparc
from gem3d.particles.restricted_pickle import load_arrays
from gem3d.subsets import read_chosen

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"
needs_shared = pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared reference data is not here")

N = 5
UID = np.array([11, 7, 2**63 + 5, 3, 9], np.uint64)
BLOB = {
    "blob/path": np.array(
        [b">J1/extract/a.mrc", b"J1/extract/b.mrc", b"J1/extract/a.mrc", b"/x.mrc", b">>o.mrc"]
    ),
    "blob/idx": np.array([0, 4, 2, 1, 0], "<u4"),
    "blob/shape": np.full((N, 2), 64, "<u4"),
    "blob/psize_A": np.full(N, 1.3, "<f4"),
    "blob/sign": np.array([1, -1, 1, 1, -1], "<f4"),
}
CTF = {
    "ctf/type": np.full(N, b"imported"),
    "ctf/exp_group_id": np.array([4, 9, 4, 4, 9], "<u4"),
    "ctf/accel_kv": np.array([300, 200, 300, 300, 200], "<f4"),
    "ctf/cs_mm": np.full(N, 2.7, "<f4"),
    "ctf/amp_contrast": np.full(N, 0.1, "<f4"),
    "ctf/df1_A": np.linspace(9_000, 12_000, N).astype("<f4"),
    "ctf/df2_A": np.linspace(9_500, 11_000, N).astype("<f4"),
    "ctf/df_angle_rad": np.linspace(-1.5, 3.2, N).astype("<f4"),
    "ctf/phase_shift_rad": np.linspace(0, 1.5, N).astype("<f4"),
    "ctf/scale": np.full(N, 0.75, "<f4"),
    "ctf/scale_const": np.zeros(N, "<f4"),
    "ctf/bfactor": np.linspace(0, 40, N).astype("<f4"),
    "ctf/shift_A": np.zeros((N, 2), "<f4"),
    "ctf/tilt_A": np.zeros((N, 2), "<f4"),
    "ctf/trefoil_A": np.zeros((N, 2), "<f4"),
    "ctf/tetra_A": np.zeros((N, 4), "<f4"),
    "ctf/anisomag": np.zeros((N, 4), "<f4"),
}
POSES = {
    "alignments3D/split": np.array([0, 1, 1, 0, 1], "<u4"),
    "alignments3D/shift": np.arange(2 * N, dtype="<f4").reshape(N, 2) - 4,
    "alignments3D/pose": Rotation.random(N, rng=np.random.default_rng(1)).as_rotvec().astype("<f4"),
    "alignments3D/psize_A": np.full(N, 2.6, "<f4"),
}
PATHS_OF = {"location/micrograph_path": np.array([b"m1.mrc", b"m2.mrc", b"m1.mrc", b"m3.mrc", b"m2.mrc"])}
EVERYTHING = BLOB | CTF | POSES


def table(columns, uid=UID):
    columns = {"uid": uid} | columns if uid is not None else columns
    rows = np.zeros(
        len(next(iter(columns.values()))), [(k, v.dtype, v.shape[1:]) for k, v in columns.items()]
    )
    for name, values in columns.items():
        rows[name] = values
    return rows


def write(folder, columns, name="cryosparc_P3_J12_004_particles.cs", uid=UID, order=None):
    rows = table(columns, uid)
    with (folder / name).open("wb") as stream:
        np.save(stream, rows if order is None else rows[order])
    return folder / name


def changed(column, row, value, columns=EVERYTHING):
    values = columns[column].copy()
    values[row] = value
    return columns | {column: values}


def refused(path, *words, **keywords):
    with pytest.raises(ParticleFileError) as error:
        read_cryosparc(path, **keywords)
    for word in (str(path), *words):
        assert word in str(error.value), word


def same(one, other):
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
    assert (one.stacks, one.optics) == (other.stacks, other.optics)


def test_every_field(tmp_path):
    p = read_particles(write(tmp_path, EVERYTHING))
    assert len(p) == N
    for pose, rotation in zip(POSES["alignments3D/pose"], p.rotations, strict=True):
        np.testing.assert_allclose(rotation, Rotation.from_rotvec(pose.astype(float)).as_matrix().T)
    np.testing.assert_allclose(p.shifts_A, -POSES["alignments3D/shift"] * 2.6, rtol=1e-6)
    assert not np.signbit(p.shifts_A[p.shifts_A == 0]).any()
    np.testing.assert_array_equal(p.half_set, [1, 2, 2, 1, 2])
    assert p.stacks == ("J1/extract/a.mrc", "J1/extract/b.mrc", "/x.mrc", ">o.mrc")
    np.testing.assert_array_equal(p.stack_index, [0, 1, 0, 2, 3])
    np.testing.assert_array_equal(p.image_index, BLOB["blob/idx"])
    np.testing.assert_array_equal(p.defocus_A, np.stack([CTF["ctf/df1_A"], CTF["ctf/df2_A"]], 1))
    np.testing.assert_allclose(p.astigmatism_deg, np.rad2deg(CTF["ctf/df_angle_rad"].astype(float)))
    np.testing.assert_allclose(p.phase_shift_deg, np.rad2deg(CTF["ctf/phase_shift_rad"].astype(float)))
    np.testing.assert_array_equal(p.ctf_bfactor_A2, CTF["ctf/bfactor"])
    np.testing.assert_array_equal(p.ctf_scale, [0.75, -0.75, 0.75, 0.75, -0.75])
    np.testing.assert_array_equal(p.contrast, 1)
    groups = [(g.name, g.pixel_size_A, g.box_size_px, g.voltage_kV, g.amplitude_contrast) for g in p.optics]
    assert groups == [("exp_group_4", 1.3, 64, 300, 0.1), ("exp_group_9", 1.3, 64, 200, 0.1)]
    assert {g.spherical_aberration_mm for g in p.optics} == {2.7}, "the number that the float32 means"
    np.testing.assert_array_equal(p.optics_index, [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(p.micrograph_index, p.stack_index)
    np.testing.assert_array_equal(p.source_row, np.arange(N))
    assert (p.image_column, p.half_set_column) == ("blob/path", "alignments3D/split")
    types = {"half_set": np.int8, "stack_index": np.int32, "image_index": np.int32, "optics_index": np.int32}
    types |= {"micrograph_index": np.int32, "source_row": np.int32, "rotations": np.float64}
    assert {name: getattr(p, name).dtype for name in types} == types


def test_a_known_rotation_vector_and_none(tmp_path):
    """Also pyem#68: particles that were never aligned have a rotation vector of zeros."""
    pose = np.zeros((N, 3), "<f4")
    pose[0, 2] = np.pi / 2
    p = read_cryosparc(write(tmp_path, EVERYTHING | {"alignments3D/pose": pose}))
    np.testing.assert_allclose(p.rotations[0], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(p.rotations[1], np.eye(3))


def test_paths_as_text_and_other_byte_orders(tmp_path):
    expected = read_cryosparc(write(tmp_path, EVERYTHING))
    other = {
        name: values.astype("U")
        if values.dtype.kind == "S"
        else values.astype(values.dtype.newbyteorder(">"))
        for name, values in EVERYTHING.items()
    }
    same(read_cryosparc(write(tmp_path, other)), expected)


def test_shifts_are_in_pixels_of_the_refinement(tmp_path):
    """pyem#125, #30: a refinement on binned images leaves blob/psize_A finer than alignments3D/psize_A."""
    p = read_cryosparc(write(tmp_path, changed("alignments3D/psize_A", 3, 5.2)))
    np.testing.assert_allclose(p.shifts_A[3], -POSES["alignments3D/shift"][3] * 5.2, rtol=1e-6)
    assert p.pixel_size_A == 1.3
    without = {k: v for k, v in EVERYTHING.items() if k != "alignments3D/psize_A"}
    with pytest.warns(Gem3dWarning, match="alignments3D/psize_A is missing"):
        p = read_cryosparc(write(tmp_path, without))
    np.testing.assert_allclose(p.shifts_A, -POSES["alignments3D/shift"] * 1.3, rtol=1e-6)


def test_an_image_of_sign_minus_one_has_minus_the_ctf(tmp_path):
    k = np.linspace(0, 0.2, 7)
    one, other = (
        contrast_transfer_function(*map(torch.as_tensor, (ctf_coefficients(p), k, 0 * k)))
        for p in (
            read_cryosparc(write(tmp_path, EVERYTHING | {"blob/sign": np.full(N, sign, "<f4")}))
            for sign in (1, -1)
        )
    )
    np.testing.assert_array_equal(one, -other)
    unsigned = {k: v for k, v in EVERYTHING.items() if k != "blob/sign"}
    np.testing.assert_array_equal(read_cryosparc(write(tmp_path, unsigned)).ctf_scale, 0.75)


def test_without_a_ctf_its_columns_may_be_missing(tmp_path):
    p = read_cryosparc(write(tmp_path, BLOB | POSES), ctf=False)
    refused(write(tmp_path, BLOB | POSES), "no columns ctf/", "--no-ctf")
    np.testing.assert_array_equal(p.ctf_scale, BLOB["blob/sign"])
    assert {(g.amplitude_contrast, g.spherical_aberration_mm) for g in p.optics} == {(1.0, 0.0)}
    np.testing.assert_array_equal(p.defocus_A, 0)
    bad = changed("ctf/df1_A", 2, np.nan)
    assert len(read_cryosparc(write(tmp_path, bad), ctf=False)) == N


def test_what_may_be_missing(tmp_path):
    optional = ("blob/shape", "alignments3D/split", "ctf/exp_group_id", "ctf/phase_shift_rad", "ctf/scale")
    optional += ("ctf/bfactor", "ctf/anisomag")
    p = read_cryosparc(write(tmp_path, {k: v for k, v in EVERYTHING.items() if k not in optional}, uid=None))
    assert (p.box_size_px, len(p.optics)) == (0, 2)
    np.testing.assert_array_equal(p.half_set, 0)
    np.testing.assert_array_equal([p.phase_shift_deg, p.ctf_bfactor_A2], 0)
    np.testing.assert_array_equal(np.abs(p.ctf_scale), 1)


def test_the_box_size_comes_from_the_stack_where_the_file_lacks_it(tmp_path):
    """cryodrgn#51."""
    with mrcfile.new(tmp_path / "a.mrcs") as mrc:
        mrc.set_data(np.zeros((5, 18, 18), np.float32))
        mrc.set_image_stack()
    columns = {k: v for k, v in EVERYTHING.items() if k != "blob/shape"} | {
        "blob/path": np.full(N, b">a.mrcs")
    }
    assert fill_box_size(read_cryosparc(write(tmp_path, columns))).box_size_px == 18
    p = read_cryosparc(write(tmp_path, columns | {"blob/shape": BLOB["blob/shape"]}))
    with pytest.raises(Exception, match="box size is 64 px"):
        ImageSource(p)


@pytest.mark.parametrize("main", [BLOB | POSES, BLOB | CTF, POSES | CTF, POSES])
def test_passthrough_files_are_joined_by_uid(tmp_path, main):
    """pyem#130: the poses may be in the passthrough file; and the rows are in any order there."""
    expected = read_cryosparc(write(tmp_path, EVERYTHING | PATHS_OF))
    rest = {k: v for k, v in (EVERYTHING | PATHS_OF).items() if k not in main}
    more = {k: np.concatenate([v, v[:1]]) for k, v in rest.items()}
    order = [5, 3, 0, 4, 2, 1]
    beside = "P3_J12_passthrough_particles.cs"
    other = write(tmp_path, more, name=beside, uid=np.append(UID, np.uint64(77)), order=order)
    path = write(tmp_path, main)
    same(read_particles(path, passthrough=(other,)), expected)
    blob = write(tmp_path, {k: v for k, v in rest.items() if k in BLOB or k in PATHS_OF}, name="one.cs")
    both = write(tmp_path, {k: v for k, v in rest.items() if k not in BLOB}, name="two.cs") if rest else blob
    same(read_particles(path, passthrough=(blob, both)), expected)
    np.testing.assert_array_equal(expected.micrograph_index, [0, 1, 0, 2, 1])


def test_what_the_particle_file_has_goes_before_the_passthrough(tmp_path):
    """pyem#130, #59: also where older alignments of other kinds come along."""
    expected = read_cryosparc(write(tmp_path, EVERYTHING))
    older = {name: np.zeros_like(values) for name, values in (POSES | CTF).items()}
    older |= {f"alignments_class_{c}/{k.split('/')[1]}": v for c in (0, 1) for k, v in POSES.items()}
    older |= {"alignments3D_multi/pose": np.zeros((N, 3, 3), "<f4")}
    other = write(tmp_path, older, name="older.cs")
    same(read_cryosparc(write(tmp_path, EVERYTHING), passthrough=[other]), expected)
    multi = multi_class()
    with pytest.warns(Gem3dWarning, match="3 classes"):
        expected = read_cryosparc(write(tmp_path, BLOB | CTF | multi))
    with pytest.warns(Gem3dWarning, match="3 classes"):
        same(read_cryosparc(write(tmp_path, BLOB | CTF | multi), passthrough=[other]), expected)


def test_uids_that_do_not_fit(tmp_path):
    path = write(tmp_path, BLOB | CTF)
    uid = UID.copy()
    uid[[1, 3]] = 1001, 1002
    other = write(tmp_path, POSES, name="other.cs", uid=uid)
    refused(path, "other.cs", "2 of the 5 particles", "particle 2 (uid 7)", passthrough=[other])
    twice = write(tmp_path, POSES, name="twice.cs", uid=UID[[0, 1, 2, 3, 1]])
    with pytest.raises(
        ParticleFileError, match=r"twice.cs: column uid: 1 particles .* particles 2 and 5 \(7\)"
    ):
        read_cryosparc(path, passthrough=[twice])
    with pytest.raises(ParticleFileError, match=r"particles 2 and 5 \(7\)"):
        read_cryosparc(write(tmp_path, EVERYTHING, name="main.cs", uid=UID[[0, 1, 2, 3, 1]]))
    bare = write(tmp_path, POSES, name="bare.cs", uid=None)
    with pytest.raises(ParticleFileError, match=r"bare.cs: column uid is missing"):
        read_cryosparc(path, passthrough=[bare])


def test_errors_in_a_passthrough_name_it_and_the_particle(tmp_path):
    other = write(tmp_path, changed("ctf/df1_A", 3, np.inf, CTF), name="other.cs", order=[3, 0, 1, 4, 2])
    refused(
        write(tmp_path, BLOB | POSES),
        "particle 4, column ctf/df1_A (of ",
        "other.cs",
        "inf",
        passthrough=[other],
    )


def test_a_passthrough_file_beside_is_named(tmp_path):
    """cryodrgn#51, pyem#59: one of the two files alone is not enough."""
    path = write(tmp_path, POSES | CTF)
    refused(path, "no columns blob/", "--passthrough FILE")
    write(tmp_path, BLOB, name="P3_J13_passthrough_particles.cs")
    write(tmp_path, CTF, name="P3_J12_passthrough_particles_ctf.cs")
    (tmp_path / "J12_passthrough_particles_damaged.cs").write_bytes(b"nothing")
    refused(path, "no columns blob/", "--passthrough FILE")
    beside = write(tmp_path, BLOB | POSES, name="J12_passthrough_particles_class_1.cs")
    refused(path, f"--passthrough {beside}")
    refused(
        write(tmp_path, BLOB | CTF, name="J12_particles.cs"), "no 3D alignments", f"--passthrough {beside}"
    )
    refused(beside, "passthrough file", "particle file")
    ctf = tmp_path / "P3_J12_passthrough_particles_ctf.cs"
    refused(path, "Nor has", str(ctf), passthrough=[ctf])
    assert len(read_cryosparc(path, passthrough=[beside])) == N


def test_only_particles_of_a_3d_refinement(tmp_path):
    flat = {"alignments2D/pose": np.zeros(N, "<f4"), "alignments2D/shift": np.zeros((N, 2), "<f4")}
    refused(write(tmp_path, BLOB | CTF | flat), "holds 2D alignments only", "3D refinement")
    refused(write(tmp_path, BLOB | CTF), "holds no 3D alignments", "3D refinement")


BEST = np.array([1, 0, 2, 1, 1])


def multi_class():
    posterior = np.full((N, 3), 0.1, "<f4")
    posterior[np.arange(N), BEST] = 0.8
    poses = {name: np.full((N, 3, *values.shape[1:]), 9, values.dtype) for name, values in POSES.items()}
    for name, values in POSES.items():
        poses[name][np.arange(N), BEST] = values
    poses["alignments3D/split"] = POSES["alignments3D/split"]  # one for all classes
    poses["alignments3D/psize_A"] = POSES["alignments3D/psize_A"]
    return {name.replace("3D", "3D_multi"): v for name, v in poses.items()} | {
        "alignments3D_multi/class_posterior": posterior,
        "alignments3D_multi/class": np.tile(np.arange(3, dtype="<u4"), (N, 1)),
    }


def test_the_most_probable_of_several_classes(tmp_path):
    """cryodrgn#175: heterogeneous refinement, and ab-initio reconstruction."""
    expected = read_cryosparc(write(tmp_path, EVERYTHING))
    multi = multi_class()
    with pytest.warns(Gem3dWarning, match="3 classes"):
        p = read_cryosparc(write(tmp_path, BLOB | CTF | multi))
    same(p, expected)
    assert p.half_set_column == "alignments3D_multi/split"
    split = {
        f"alignments_class_{c}/{name.split('/')[1]}": values if values.ndim == 1 else values[:, c]
        for name, values in multi.items()
        for c in range(3)
    }
    with pytest.warns(Gem3dWarning, match="3 classes"):
        same(read_cryosparc(write(tmp_path, BLOB | CTF | split)), expected)
    own = multi | {"alignments3D_multi/psize_A": np.full((N, 3), 2.6, "<f4")}
    with pytest.warns(Gem3dWarning, match="3 classes"):
        same(read_cryosparc(write(tmp_path, BLOB | CTF | own)), expected)
    posterior = multi["alignments3D_multi/class_posterior"].copy()
    posterior[3, 2] = np.nan
    refused(
        write(tmp_path, BLOB | CTF | multi | {"alignments3D_multi/class_posterior": posterior}),
        "particle 4, column alignments3D_multi/class_posterior",
    )
    del multi["alignments3D_multi/class_posterior"]
    refused(write(tmp_path, BLOB | CTF | multi), "alignments3D_multi/class_posterior is missing")


def test_one_class_of_several_needs_no_warning(tmp_path):
    one = {name.replace("3D", "_class_0"): values for name, values in POSES.items()}
    same(read_cryosparc(write(tmp_path, BLOB | CTF | one)), read_cryosparc(write(tmp_path, EVERYTHING)))
    multi = multi_class()
    multi["alignments3D_multi/class_posterior"] = np.tile(np.array([0, 1, 0], "<f4"), (N, 1))
    assert len(read_cryosparc(write(tmp_path, BLOB | CTF | multi))) == N


@pytest.mark.parametrize("column", ["tilt_A", "trefoil_A", "tetra_A", "shift_A", "anisomag"])
def test_optics_that_are_not_modelled(tmp_path, column):
    path = write(tmp_path, changed(f"ctf/{column}", 2, 0.01))
    refused(path, f"particle 3, column ctf/{column}", "--ignore-optics-extras")
    with pytest.warns(Gem3dWarning, match=column):
        p = read_cryosparc(path, ignore_extras=True)
    same(p, read_cryosparc(write(tmp_path, EVERYTHING)))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("blob/psize_A", 0, "a pixel size in A"),
        ("blob/psize_A", -1.3, "a pixel size in A"),
        ("blob/psize_A", 1e9, "a pixel size in A"),
        ("blob/shape", [64, 60], "square"),
        ("blob/shape", 0, "square"),
        ("blob/sign", 0, "neither 1 nor -1"),
        ("blob/idx", 2**32 - 1, "counted from 0"),
        ("blob/path", b">", "is empty"),
        ("blob/path", b"\xff", "is not text"),
        ("blob/path", b"a\0b", "is not text"),
        ("alignments3D/psize_A", 0, "a pixel size in A"),
        ("alignments3D/pose", [0, np.nan, 0], "finite"),
        ("alignments3D/pose", 1e30, "rotation vector"),
        ("alignments3D/shift", [np.inf, 0], "finite"),
        ("alignments3D/shift", 1e30, "a shift in pixels"),
        ("alignments3D/split", 2, "neither 0 nor 1"),
        ("ctf/accel_kv", 300_000, "a voltage in kV"),
        ("ctf/cs_mm", np.nan, "finite"),
        ("ctf/amp_contrast", 7, "fraction"),
        ("ctf/df1_A", 1e7, "a defocus in A"),
        ("ctf/df2_A", -1e7, "a defocus in A"),
        ("ctf/df_angle_rad", np.nan, "finite"),
        ("ctf/phase_shift_rad", 1e20, "an angle in radians"),
        ("ctf/scale", 0, "positive"),
        ("ctf/bfactor", np.inf, "finite"),
        ("ctf/anisomag", np.nan, "finite"),
    ],
)
def test_values_out_of_range(tmp_path, column, value, words):
    refused(write(tmp_path, changed(column, 3, value)), f"particle 4, column {column}", words)


def test_a_negative_image_index(tmp_path):
    path = write(tmp_path, EVERYTHING | {"blob/idx": np.array([0, 1, -1, 2, 3], "<i8")})
    refused(path, "particle 3, column blob/idx: -1")


@pytest.mark.parametrize(
    "column", ["blob/path", "blob/idx", "blob/psize_A", "alignments3D/shift", "ctf/df_angle_rad"]
)
def test_columns_that_must_be_there(tmp_path, column):
    refused(
        write(tmp_path, {k: v for k, v in EVERYTHING.items() if k != column}), f"column {column} is missing"
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("alignments3D/pose", np.zeros((N, 4), "<f4")),
        ("alignments3D/pose", np.full(N, b"0 0 0")),
        ("blob/path", np.zeros(N)),
        ("blob/idx", np.zeros(N, "<f4")),
        ("ctf/df1_A", np.zeros((N, 2), "<f4")),
        ("uid", np.zeros(N, "<f8")),
    ],
)
def test_columns_of_another_type(tmp_path, column, values):
    refused(write(tmp_path, EVERYTHING | {column: values}), f"column {column} has type")


def header(text, version=1):
    raw = text.encode()
    length = len(raw).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw


def npy(columns="('uid', '<u8')", shape="(1,)", version=1):
    return header(f"{{'descr': [{columns}], 'fortran_order': False, 'shape': {shape}, }}\n", version)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a cryoSPARC particle file"),
        (b"\x93NUM", "not a cryoSPARC particle file"),
        (b"version: 2\n", ".csg"),
        (b"\x95CSDAT" + bytes(100), "Dataset.load"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "not a cryoSPARC particle file"),
        (npy()[:40], "truncated within its header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20), "truncated within its header"),
        (npy(shape="(3,)") + bytes(16), "3 particles of 8 bytes, but only 2"),
        (npy(shape="(900000000000000,)") + bytes(800), "but only 100"),
        (npy("('blob/path', '|S999999999'), ('uid', '<u8')") + bytes(800), "but only 0"),
        (npy("('a', '|S0')", shape="(900000000000000,)"), "not a table of particles"),
        (npy(shape="(0,)"), "holds no particles"),
        (npy(shape="()") + bytes(8), "not a table of particles"),
        (npy(shape="(1, 1)") + bytes(8), "not a table of particles"),
        (npy("('uid', '<u8', (999999999, 999999999, 9999))") + bytes(8), "not a table of particles"),
        (npy("('uid', '<f3')") + bytes(8), "not a table of particles"),
        (npy("('uid', '<u8'), ('uid', '<u8')") + bytes(16), "not a table of particles"),
        (npy("('uid', '<u8'), ('blob/path', '|O')") + bytes(16), "column blob/path holds Python objects"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n") + bytes(8), "not a table"),
        (header("[" * 600_000, 2), "header of 600000 bytes"),
        (header("__import__('os').abort()", 2), "not a table of particles"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, words):
    path = tmp_path / "particles.cs"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refused(path, words)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content) + 2**20
    finally:
        tracemalloc.stop()


def test_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "particles.cs"
    paths = np.array(["a.mrc"] * N, object)
    with path.open("wb") as stream:
        np.save(stream, table(EVERYTHING | {"blob/path": paths}), allow_pickle=True)
    refused(path, "column blob/path holds Python objects")


def test_no_such_file(tmp_path):
    refused(tmp_path / "gone.cs", "no such file")
    refused(tmp_path, "is a folder")
    with pytest.raises(ParticleFileError, match="no such file"):
        read_cryosparc(write(tmp_path, EVERYTHING), passthrough=[tmp_path / "gone.cs"])


def test_headers_of_every_version_and_of_many_columns(tmp_path):
    """cryodrgn#418: numpy's reader refuses the header of a file of many classes."""
    expected = read_cryosparc(write(tmp_path, EVERYTHING))
    path = tmp_path / "particles.cs"
    for version in ((1, 0), (2, 0), (3, 0)):
        with path.open("wb") as stream:
            np.lib.format.write_array(stream, table(EVERYTHING), version)
        same(read_cryosparc(path), expected)
    many = {
        f"alignments_class3D_{c}/{k}": np.zeros(N, "<f4") for c in range(100) for k in "abcdefghijklmnopq"
    }
    same(read_cryosparc(write(tmp_path, EVERYTHING | many)), expected)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_raises_nothing_but_errors_with_words(tmp_path, data):
    whole = bytearray(write(tmp_path, EVERYTHING | PATHS_OF).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.cs"
    path.write_bytes(
        whole[: data.draw(st.integers(len(whole) // 2, len(whole)))] if data.draw(st.booleans()) else whole
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Gem3dWarning)
        try:
            p = read_cryosparc(path)
        except ParticleFileError:
            return
    assert np.isfinite(ctf_coefficients(p)).all()
    np.testing.assert_allclose(np.linalg.det(p.rotations), 1)


def test_block_by_block_is_the_whole(tmp_path, monkeypatch):
    expected = read_cryosparc(write(tmp_path, EVERYTHING | PATHS_OF))
    monkeypatch.setattr("gem3d.particles.cs_file._BLOCK_BYTES", 700)
    same(read_cryosparc(write(tmp_path, EVERYTHING | PATHS_OF)), expected)
    refused(write(tmp_path, changed("blob/path", 4, b"\xff")), "particle 5, column blob/path")


def test_passthrough_on_the_command_line(tmp_path, capsys):
    """Several of them; all are read, and the stacks are what is missing then."""
    path = write(tmp_path, POSES)
    one, two = write(tmp_path, BLOB, name="one.cs"), write(tmp_path, CTF, name="two.cs")
    common = ["reconstruct", str(path), "--out", str(tmp_path / "out"), "--quiet", "--threads", "1"]
    assert "no columns ctf/" in command_refused(capsys, *common, "--passthrough", str(one))
    error = command_refused(capsys, *common, "--passthrough", str(one), "--passthrough", str(two))
    assert "particle 1 (000001@J1/extract/a.mrc), column blob/path: no such stack" in error
    with pytest.raises(ParticleFileError, match="--passthrough is for cryoSPARC"):
        read_particles(tmp_path / "a.star", passthrough=[one])


def test_dark_images_of_a_cs_file_give_the_map_of_the_bright_ones_of_a_star_file(made, tmp_path):
    bright = made.particles
    n, (group,) = len(bright), bright.optics
    with mrcfile.open(made.stack) as stack, mrcfile.new(tmp_path / "dark.mrcs") as dark:
        dark.set_data(-stack.data)
        dark.set_image_stack()
    poses = Rotation.from_matrix(bright.rotations.transpose(0, 2, 1)).as_rotvec()
    columns = {
        "blob/path": np.full(n, b">dark.mrcs"),
        "blob/idx": bright.image_index.astype("<u4"),
        "blob/psize_A": np.full(n, group.pixel_size_A),
        "blob/sign": np.full(n, -1.0),
        "ctf/accel_kv": np.full(n, group.voltage_kV),
        "ctf/cs_mm": np.full(n, group.spherical_aberration_mm),
        "ctf/amp_contrast": np.full(n, group.amplitude_contrast),
        "ctf/df1_A": bright.defocus_A[:, 0],
        "ctf/df2_A": bright.defocus_A[:, 1],
        "ctf/df_angle_rad": np.deg2rad(bright.astigmatism_deg),
        "alignments3D/split": bright.half_set.astype("<u4") - 1,
        "alignments3D/shift": -bright.shifts_A / group.pixel_size_A,
        "alignments3D/psize_A": np.full(n, group.pixel_size_A),
        "alignments3D/pose": poses,
    }
    read = read_cryosparc(write(tmp_path, columns, uid=np.arange(n).astype(np.uint64)))
    maps = []
    for particles in (bright, read):
        observations = Observations.of(ImageSource(particles), 14.0, normalise=True)
        one, two = accumulate(observations, particles.half_set, seed=0)
        maps.append(one.linear_map().values - 2 * two.linear_map().values)
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-3 * np.abs(maps[0]).max())


@needs_shared
def test_as_cryodrgn_reads_it():
    p = read_particles(FORMATS / "cryosparc_P12_J24_001_particles.cs")
    assert len(p) == 2019
    rotations, translations = load_arrays(FORMATS / "pose.cs.pkl", "")
    (rows,) = load_arrays(FORMATS / "ctf2.pkl", "")
    box, pixel_A, df_u, df_v, angle, kv, cs, contrast, phase = rows.T
    np.testing.assert_allclose(p.rotations, rotations, atol=1e-5)
    np.testing.assert_allclose(-p.shifts_A / p.pixel_size_A / p.box_size_px, translations, atol=1e-5)
    np.testing.assert_allclose(p.defocus_A, np.stack([df_u, df_v], axis=1), rtol=1e-5)
    np.testing.assert_allclose(p.astigmatism_deg, angle, rtol=1e-5)
    np.testing.assert_allclose(p.phase_shift_deg, phase, atol=1e-5)
    (group,) = p.optics
    found = (group.box_size_px, group.pixel_size_A, group.voltage_kV, group.spherical_aberration_mm)
    for values, mine in zip(
        (box, pixel_A, kv, cs, contrast), (*found, group.amplitude_contrast), strict=True
    ):
        np.testing.assert_allclose(values, mine, rtol=1e-5)


@needs_shared
def test_real_files_without_3d_alignments():
    refused(FORMATS / "cryosparc_J2_particles_exported.cs", "holds 2D alignments only", "3D refinement")
    refused(FORMATS / "empiar_10076_7.cs", "holds no 3D alignments", "3D refinement")


@needs_shared
def test_the_same_particles_as_in_their_star_file(tmp_path):
    """Neither has poses, so both are given some."""
    rows = np.load(FORMATS / "empiar_10076_7.cs")
    poses = {"alignments3D/pose": np.zeros((7, 3), "<f4"), "alignments3D/shift": np.zeros((7, 2), "<f4")}
    path = write(
        tmp_path, {name: rows[name] for name in rows.dtype.names if name != "uid"} | poses, uid=rows["uid"]
    )
    lines = (FORMATS / "empiar_10076_7.star").read_text().splitlines()
    tags = [line for line in lines if line.startswith("_rln")] + [
        "_rlnAngleRot",
        "_rlnAngleTilt",
        "_rlnAnglePsi",
    ]
    star = tmp_path / "particles.star"
    star.write_text(
        "\n".join(["data_", "loop_", *tags, *(f"{line} 0 0 0" for line in lines if "@" in line)]) + "\n"
    )
    p, q = read_particles(path), read_particles(star)
    assert p.stacks == q.stacks
    for name in ("rotations", "shifts_A", "stack_index", "image_index"):
        np.testing.assert_array_equal(getattr(p, name), getattr(q, name), err_msg=name)
    for name in ("defocus_A", "astigmatism_deg", "phase_shift_deg", "ctf_bfactor_A2"):
        np.testing.assert_allclose(getattr(p, name), getattr(q, name), rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(p.ctf_scale, -q.ctf_scale)
    assert p.box_size_px == ImageSource(p, FORMATS).box_size_px == 320
    assert p.pixel_size_A == pytest.approx(q.pixel_size_A, rel=1e-5)
    for one, other in zip(p.optics, q.optics, strict=True):
        assert one.amplitude_contrast == pytest.approx(other.amplitude_contrast)
        assert (one.voltage_kV, one.spherical_aberration_mm) == (
            other.voltage_kV,
            other.spherical_aberration_mm,
        )


@needs_shared
def test_the_sign_of_real_images():
    """The ribosomes of this stack are dark, and the file says -1."""
    rows = np.load(FORMATS / "empiar_10076_7.cs")
    images = np.fromfile(FORMATS / "empiar_10076_7.mrc", "<f4", offset=1024).reshape(7, 320, 320)
    y, x = np.mgrid[:320, :320] - 160
    radius = np.hypot(x, y)
    inside, outside = (
        images[:, radius < 60].mean(axis=1),
        images[:, (radius > 140) & (radius < 160)].mean(axis=1),
    )
    np.testing.assert_array_equal(np.sign(inside - outside), rows["blob/sign"])


def test_particles_are_selected_by_what_only_a_passthrough_has(tmp_path):
    main = write(tmp_path, EVERYTHING)
    other = write(tmp_path, PATHS_OF, "P3_J12_passthrough_particles.cs", order=[4, 2, 0, 1, 3])
    settings = InputSettings(passthrough=(other,), select="location/micrograph_path=='m2.mrc'")
    assert read_chosen(main, settings).source_row.tolist() == [1, 4]
