"""Reading RELION's STAR files."""

from pathlib import Path

import numpy as np
import pytest

from gem3d.errors import Gem3dWarning, ParticleFileError
from gem3d.optics import contrast_transfer_function, ctf_coefficients
from gem3d.particles import euler_to_matrix, read_particles, read_relion_star

OPTICS = {
    "rlnOpticsGroup": ["7", "3"],
    "rlnOpticsGroupName": ["first", "'second one'"],
    "rlnVoltage": ["300.0", "200.0"],
    "rlnSphericalAberration": ["2.7", "1.4"],
    "rlnAmplitudeContrast": ["0.1", "0.07"],
    "rlnImagePixelSize": ["1.5", "1.5"],
    "rlnImageSize": ["64", "64"],
}
PARTICLES = {
    "rlnImageName": ["000001@a.mrcs", "000012@b/c.mrcs", "3@a.mrcs"],
    "rlnAngleRot": ["10", "20", "30"],
    "rlnAngleTilt": ["40", "50", "60"],
    "rlnAnglePsi": ["-70", "80", "190"],
    "rlnOriginXAngst": ["1.25", "-2", "0"],
    "rlnOriginYAngst": ["3", "0", "-4.5"],
    "rlnDefocusU": ["10000", "11000", "12000"],
    "rlnDefocusV": ["9000", "11500", "12000"],
    "rlnDefocusAngle": ["5", "-45", "180"],
    "rlnOpticsGroup": ["3", "7", "3"],
    "rlnRandomSubset": ["1", "2", "2"],
}
ONE_BLOCK = {c: v for c, v in PARTICLES.items() if "Optics" not in c and "Angst" not in c} | {
    "rlnOriginX": ["1", "-2", "0"],
    "rlnOriginY": ["3", "0", "-4.5"],
    "rlnVoltage": ["300"] * 3,
    "rlnSphericalAberration": ["2.7"] * 3,
    "rlnAmplitudeContrast": ["0.1"] * 3,
    "rlnMagnification": ["25000"] * 3,
    "rlnDetectorPixelSize": ["5"] * 3,
}

CTF_COLUMNS = [
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"),
    *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"),
]


def block(name, columns, newline="\n"):
    lines = ["", f"data_{name}", "", "loop_", *(f"_{c} #{i}" for i, c in enumerate(columns, 1))]
    lines += [" ".join(row) + " " for row in zip(*columns.values(), strict=True)]
    return newline.join([*lines, ""])


def write(tmp_path, *blocks, newline="\n"):
    path = tmp_path / "run_data.star"
    path.write_bytes(newline.join(["# version 30001", *(block(n, c, newline) for n, c in blocks)]).encode())
    return path


def write_pair(tmp_path, optics=None, particles=None, drop=(), **kwargs):
    blocks = [("optics", OPTICS | (optics or {})), ("particles", PARTICLES | (particles or {}))]
    return write(tmp_path, *((n, {c: v for c, v in b.items() if c not in drop}) for n, b in blocks), **kwargs)


def refused(path, *words, **kwargs):
    with pytest.raises(ParticleFileError) as error:
        read_relion_star(path, **kwargs)
    message = str(error.value)
    assert str(path) in message
    for word in words:
        assert word in message, message


def same(a, b):
    for name in (
        "rotations",
        "shifts_A",
        "defocus_A",
        "astigmatism_deg",
        "half_set",
        "image_index",
        "stack_index",
    ):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("voltage_kV", "pixel_size_A", "amplitude_contrast", "spherical_aberration_mm", "name"):
        assert [getattr(a.optics[i], name) for i in a.optics_index] == [
            getattr(b.optics[i], name) for i in b.optics_index
        ]
    assert a.stacks == b.stacks


def test_two_blocks_joined_by_value(tmp_path):
    p = read_particles(write_pair(tmp_path))
    assert len(p) == 3
    assert [p.optics[i].name for i in p.optics_index] == ["second one", "first", "second one"]
    assert [p.optics[i].voltage_kV for i in p.optics_index] == [200.0, 300.0, 200.0]
    assert p.stacks == ("a.mrcs", "b/c.mrcs")
    np.testing.assert_array_equal(p.stack_index, [0, 1, 0])
    np.testing.assert_array_equal(p.image_index, [0, 11, 2])
    np.testing.assert_array_equal(p.shifts_A, [[-1.25, -3], [2, 0], [0, 4.5]])
    assert not np.signbit(p.shifts_A[p.shifts_A == 0]).any()
    np.testing.assert_array_equal(p.defocus_A[1], [11000, 11500])
    np.testing.assert_array_equal(p.half_set, [1, 2, 2])
    np.testing.assert_array_equal(p.rotations[2], euler_to_matrix([30, 60, 190]))
    np.testing.assert_array_equal(
        [p.phase_shift_deg, p.ctf_bfactor_A2, p.ctf_scale], [[0] * 3, [0] * 3, [1] * 3]
    )
    assert (p.pixel_size_A, p.box_size_px) == (1.5, 64)
    types = [
        p.optics_index.dtype,
        p.half_set.dtype,
        p.stack_index.dtype,
        p.image_index.dtype,
        p.shifts_A.dtype,
    ]
    assert types == [np.int32, np.int8, np.int32, np.int32, np.float64]


def test_blocks_in_either_order_and_line_endings_of_windows(tmp_path):
    usual = read_relion_star(write_pair(tmp_path))
    same(usual, read_relion_star(write(tmp_path, ("particles", PARTICLES), ("optics", OPTICS))))
    same(usual, read_relion_star(write_pair(tmp_path, newline="\r\n")))


def test_one_block_has_pixel_origins_and_the_magnification(tmp_path):
    p = read_relion_star(write(tmp_path, ("images", ONE_BLOCK)))
    assert p.pixel_size_A == 2.0
    np.testing.assert_array_equal(p.shifts_A, [[-2, -6], [4, 0], [0, 9]])
    assert len(p.optics) == 1
    assert p.optics[0].box_size_px == 0


def test_angstrom_origins_go_before_pixel_origins(tmp_path):
    both = {"rlnOriginX": ["9", "9", "9"], "rlnOriginY": ["9", "9", "9"]}
    np.testing.assert_array_equal(read_relion_star(write_pair(tmp_path, particles=both)).shifts_A[1], [2, 0])
    drop = ("rlnOriginXAngst", "rlnOriginYAngst")
    pixels_only = read_relion_star(write_pair(tmp_path, particles=both, drop=drop))
    np.testing.assert_array_equal(pixels_only.shifts_A, np.full((3, 2), -13.5))


def test_what_may_be_missing(tmp_path):
    p = read_relion_star(write_pair(tmp_path, drop=("rlnOriginXAngst", "rlnRandomSubset", "rlnImageSize")))
    np.testing.assert_array_equal(p.shifts_A[:, 0], 0)
    np.testing.assert_array_equal(p.half_set, 0)
    assert p.box_size_px == 0


def test_a_particles_own_value_goes_before_its_groups(tmp_path):
    own = {"rlnVoltage": ["300", "300", "120"], "rlnPhaseShift": ["90", "0", "45"]}
    p = read_relion_star(write_pair(tmp_path, particles=own))
    assert [p.optics[i].voltage_kV for i in p.optics_index] == [300, 300, 120]
    assert len({p.optics[i].name for i in p.optics_index}) == len(p.optics) == 3
    assert p.optics[p.optics_index[2]].spherical_aberration_mm == 1.4
    np.testing.assert_array_equal(p.phase_shift_deg, [90, 0, 45])


def test_groups_without_particles_do_not_count(tmp_path):
    path = write_pair(
        tmp_path, particles={"rlnOpticsGroup": ["3", "3", "3"]}, optics={"rlnImageSize": ["99", "64"]}
    )
    assert read_relion_star(path).box_size_px == 64


def test_pairs_and_quoted_values(tmp_path):
    path = tmp_path / "one.star"
    optics = "data_optics\n" + "".join(f"_{c} {v[0]}\n" for c, v in OPTICS.items())
    particles = PARTICLES | {
        "rlnImageName": ["'1@my stack.mrcs'"],
        "rlnOpticsGroup": ["7"],
        "rlnAngleRot": ["'10'"],
    }
    path.write_text(optics + block("particles", {c: v[:1] for c, v in particles.items()}))
    p = read_relion_star(path)
    assert p.stacks == ("my stack.mrcs",)
    assert p.optics[0].voltage_kV == 300
    np.testing.assert_array_equal(p.rotations[0], euler_to_matrix([10, 40, -70]))


def test_without_ctf_the_columns_are_not_needed_and_the_ctf_is_one(tmp_path):
    path = write_pair(tmp_path, particles={"rlnPhaseShift": ["90"] * 3}, drop=CTF_COLUMNS)
    p = read_relion_star(path, ctf=False)
    torch = pytest.importorskip("torch")
    k = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64)
    ctf = contrast_transfer_function(torch.from_numpy(ctf_coefficients(p)), k[:, None], k[None, :])
    np.testing.assert_allclose(ctf.numpy(), 1.0, atol=1e-12)
    refused(path, "rlnVoltage")


@pytest.mark.parametrize(
    "column",
    [
        *(
            "rlnAngleRot",
            "rlnAngleTilt",
            "rlnAnglePsi",
            "rlnImageName",
            "rlnImagePixelSize",
            "rlnOpticsGroup",
        ),
        *CTF_COLUMNS,
    ],
)
def test_missing_columns_are_named(tmp_path, column):
    refused(write_pair(tmp_path, drop=(column,)), column, "missing", "Add the column")
    if "Defocus" in column:
        refused(write_pair(tmp_path, drop=(column,)), "--no-ctf")


def test_one_block_without_a_pixel_size(tmp_path):
    path = write(tmp_path, ("", {c: v for c, v in ONE_BLOCK.items() if c != "rlnMagnification"}))
    refused(path, "rlnImagePixelSize", "rlnMagnification")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("rlnAngleRot", "ten", "'ten' is not a number"),
        ("rlnAnglePsi", "nan", "finite"),
        ("rlnOriginXAngst", "inf", "finite"),
        ("rlnDefocusV", "?", "not a number"),
        ("rlnRandomSubset", "3", "neither 1 nor 2"),
        ("rlnRandomSubset", "0", "neither 1 nor 2"),
        ("rlnOpticsGroup", "9", "no row in data_optics, which describes 7, 3"),
        ("rlnOpticsGroup", "1.5", "whole number"),
        ("rlnImageName", "a.mrcs", "000001@folder/stack.mrcs"),
        ("rlnImageName", "0@a.mrcs", "counting images from 1"),
        ("rlnImageName", "x@a.mrcs", "'x@a.mrcs'"),
        ("rlnImageName", "12@", "'12@'"),
        ("rlnImageName", "99999999999999999999@a.mrcs", "not an image name"),
        ("rlnVoltage", "-300", "positive"),
        ("rlnAmplitudeContrast", "7", "fraction"),
        ("rlnImageSize", "64.5", "pixels"),
    ],
)
def test_bad_values_name_file_particle_and_column(tmp_path, column, value, words):
    good = PARTICLES.get(column, [OPTICS.get(column, ["1"])[0]] * 3)
    path = write_pair(tmp_path, particles={column: [good[0], value, good[2]]})
    refused(path, "particle 2", column, words)


def test_bad_values_in_the_optics_block(tmp_path):
    refused(
        write_pair(tmp_path, optics={"rlnVoltage": ["300", "abc"]}),
        "data_optics row 2",
        "rlnVoltage",
        "'abc'",
    )
    refused(
        write_pair(tmp_path, optics={"rlnOpticsGroup": ["3", "3"]}), "rlnOpticsGroup", "more than one row"
    )
    refused(
        write_pair(tmp_path, optics={"rlnImagePixelSize": ["1", "0"]}), "rlnImagePixelSize", "not positive"
    )


@pytest.mark.parametrize(
    ("column", "harmless", "value"),
    [
        ("rlnOddZernike", "[0,0,0.5,0,0,0]", "[0,0,0,0,0,0,0.5]"),
        ("rlnEvenZernike", "[1,0,0,0,0,0,0,0,2]", "[0,0,0,0,0,0,0,0,0,0.5]"),
        ("rlnCtfDataAreCtfPremultiplied", "0", "1"),
    ],
)
def test_optics_this_version_does_not_model(tmp_path, column, harmless, value):
    read_relion_star(write_pair(tmp_path, optics={column: [harmless, harmless]}))
    in_optics = write_pair(tmp_path, optics={column: [harmless, value]})
    refused(in_optics, "data_optics row 2", column, value, "--ignore-optics-extras")
    with pytest.warns(Gem3dWarning, match=column):
        assert len(read_relion_star(in_optics, ignore_extras=True)) == 3
    refused(
        write_pair(tmp_path, particles={column: [harmless, harmless, value]}), "particle 3", column, value
    )
    # A group that no particle uses may ask for anything.
    read_relion_star(
        write_pair(tmp_path, optics={column: [value, harmless]}, particles={"rlnOpticsGroup": ["3"] * 3})
    )


def test_magnification(tmp_path):
    group = {"rlnMagMat00": ["1.01", "1"], "rlnMagMat01": ["-0.02", "0"], "rlnMagMat11": ["0.97", "1"]}
    found = read_relion_star(write_pair(tmp_path, optics=group))
    of_particles = [found.optics[index].magnification for index in found.optics_index]
    # What no column says is that of the unit matrix.
    assert set(of_particles) == {(1.01, -0.02, 0.0, 0.97), (1.0, 0.0, 0.0, 1.0)}
    own = write_pair(tmp_path, optics=group, particles={"rlnMagMat10": ["0", "0.005", "0"]})
    found = read_relion_star(own, ctf=False)
    assert [found.optics[index].magnification[2] for index in found.optics_index] == [0, 0.005, 0]
    plain = {"rlnMagMat00": ["1.000000", "1"], "rlnMagMat10": ["0", "-0.0"]}
    assert read_relion_star(write_pair(tmp_path, optics=plain)).optics[0].magnification == (1, 0, 0, 1)


@pytest.mark.parametrize(
    "group",
    [{"rlnMagMat00": "1.2"}, {"rlnMagMat11": "-1"}, {"rlnMagMat01": "0.3"}, {"rlnMagMat00": "1e11"}],
)
def test_matrices_that_no_microscope_has(tmp_path, group):
    ((column, value),) = group.items()
    usual = "1" if column[-1] == column[-2] else "0"
    in_optics = write_pair(tmp_path, optics={column: [usual, value]})
    refused(in_optics, "data_optics row 2", column, value, "more than 10 %")
    refused(write_pair(tmp_path, particles={column: [usual, value, usual]}), "particle 2", column, value)
    # A group that no particle uses may have any.
    unused = {"rlnOpticsGroup": ["3"] * 3}
    read_relion_star(write_pair(tmp_path, optics={column: [value, usual]}, particles=unused))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("data_particles\n", "holds no STAR table"),
        ("data_optics\nloop_\n_rlnOpticsGroup\n1\n", "no particle block"),
        ("data_general\n_rlnA 1\ndata_job\n_rlnB 2\n", "no particle block (blocks: data_general, data_job)"),
        ("data_\nloop_\n_rlnAngleRot\n_rlnAngleTilt\n1 2\n3\n", "line 2: not a well-formed STAR file"),
        (
            "data_\nloop_\n_rlnAngleRot\n_rlnAngleRot\n1 2\n",
            "line 2: not a well-formed STAR file (duplicate tag",
        ),
        ("hello\n", "line 1: not a well-formed"),
        ("data_\n_rlnA 'open\n", "line 2"),
        ("data_x\n_a 1\n\ndata_x\n_a 1\n", "duplicate block"),
    ],
)
def test_files_that_are_no_particle_files(tmp_path, text, words):
    path = tmp_path / "bad.star"
    path.write_text(text)
    refused(path, words)


def test_no_particles_no_file_no_format(tmp_path):
    refused(write(tmp_path, ("particles", {column: [] for column in PARTICLES})), "holds no particles")
    refused(tmp_path / "absent.star", "no such file")
    refused(tmp_path, "is a folder")
    binary = tmp_path / "binary.star"
    binary.write_bytes(bytes(range(256)) * 10)
    refused(binary, "not a well-formed")
    for name in ("particles.csv", "particles"):
        with pytest.raises(ParticleFileError, match=r"RELION STAR file \(\.star\)"):
            read_particles(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path):
    path = write_pair(tmp_path, particles={"rlnMicrographName": ["a", "'m\u00e5.mrc'", "b"]})
    assert read_relion_star(path).micrograph_index.tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes().replace("\u00e5".encode(), b"\xe5"))
    line = path.read_bytes()[: path.read_bytes().index(b"\xe5")].count(b"\n") + 1
    refused(path, f"line {line}:", "byte 0xe5", "UTF-8")


@pytest.mark.parametrize(
    ("optics", "particles", "column"),
    [
        ({"rlnImagePixelSize": ["1e300", "1.5"]}, {}, "rlnImagePixelSize"),
        ({"rlnImagePixelSize": ["1e-320", "1.5"]}, {}, "rlnImagePixelSize"),
        ({"rlnOpticsGroup": ["7", "1e19"]}, {}, "rlnOpticsGroup"),
        ({}, {"rlnOriginXAngst": ["1e308", "0", "0"]}, "rlnOriginXAngst"),
        ({}, {"gem3dContrast": ["1e308", "1", "1"]}, "gem3dContrast"),
    ],
)
def test_numbers_beyond_anything_measured(tmp_path, optics, particles, column):
    refused(write_pair(tmp_path, optics, particles), f"column {column}")


def test_a_hundred_thousand_rows(tmp_path):
    n = 100_000
    names = [f"{i % 500 + 1:06d}@stack_{i // 500}.mrcs" for i in range(n)]
    columns = {c: [v[0]] * n for c, v in ONE_BLOCK.items()} | {"rlnImageName": names}
    columns["rlnAngleRot"] = [f"{i / 1000:.6f}" for i in range(n)]
    path = write(tmp_path, ("", columns))
    p = read_relion_star(path)
    assert (len(p), len(p.stacks), len(p.optics)) == (n, 200, 1)
    np.testing.assert_array_equal(p.image_index, np.arange(n) % 500)
    np.testing.assert_array_equal(p.stack_index, np.arange(n) // 500)
    columns["rlnImageName"] = [*names[:-2], "bad", names[-1]]
    refused(write(tmp_path, ("", columns)), "particle 99999, column rlnImageName")


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared reference data is not here")


@needs_shared
@pytest.mark.parametrize(
    ("name", "n", "pixel_size_A", "box"),
    [
        ("formats/history_starfile", 3796, 5e4 / 37369.207031, 0),
        ("formats/sample_particles_relion30", None, 5e4 / 37369.207031, 0),
        ("formats/sample_particles_relion31", None, 1.4, 0),
        ("formats/relion31", 5, 2.806, 256),
        ("formats/relion31.v2", 5, 2.806, 256),
        ("point_oracle/relion_proj_batch", 24, 3.54, 64),
        ("point_oracle/relion_proj_batch_pfac2", 24, 3.54, 64),
        ("point_oracle/relion_proj_batch_pfac3", 24, 3.54, 64),
    ],
)
def test_real_files(name, n, pixel_size_A, box):
    p = read_relion_star(SHARED / f"{name}.star")
    assert n is None or len(p) == n
    assert p.pixel_size_A == pytest.approx(pixel_size_A, rel=1e-12)
    assert p.box_size_px == box
    np.testing.assert_allclose(np.linalg.det(p.rotations), 1, atol=1e-12)


@needs_shared
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FinalRefinement-OriginalParticles-PfCRT", "rlnAmplitudeContrast is missing"),
        ("empiar_10076_7", "rlnAngleRot is missing"),
    ],
)
def test_real_files_that_are_refused(name, words):
    refused(SHARED / "formats" / f"{name}.star", words)


@needs_shared
def test_real_files_with_aberrations():
    six = read_relion_star(SHARED / "formats" / "relion31.6opticsgroups.star")
    assert len(six.optics) == 6
    assert all(any(group.phase_coefficients) for group in six.optics)
    assert six.optics[0].magnification == (1.011472, 0.004231, 0.00456, 1.008858)
    assert {group.pixel_size_A for group in six.optics} == {1.25, 1.24}
    five = read_relion_star(SHARED / "formats" / "relion5.star")
    assert five.optics[0].magnification == (1.001833, -7.04404e-04, -8.23335e-04, 1.000381)
    assert all(any(group.gamma_coefficients) for group in (*six.optics, *five.optics))
    assert (five.pixel_size_A, five.box_size_px, five.optics[0].voltage_kV) == (0.89, 448, 100)
    assert set(five.stacks) == {"toy_images_a.mrcs", "toy_images_b.mrcs"}
    pfcrt = read_relion_star(SHARED / "formats" / "FinalRefinement-OriginalParticles-PfCRT.star", ctf=False)
    assert pfcrt.pixel_size_A > 0


@needs_shared
def test_real_files_that_say_the_same():
    formats = SHARED / "formats"
    same(read_relion_star(formats / "relion31.star"), read_relion_star(formats / "relion31.v2.star"))
    old, new = (read_relion_star(formats / f"sample_particles_relion{v}.star") for v in ("30", "31"))
    others = np.arange(len(old)) != 14  # row 15 is another particle in each
    np.testing.assert_array_equal(old.rotations[others], new.rotations[others])
    np.testing.assert_array_equal(old.defocus_A, new.defocus_A)


@needs_shared
@pytest.mark.parametrize("box", [64, 65])
def test_relion_oracles(box):
    centred = read_relion_star(SHARED / f"relion_oracles/rln_proj_{box}_centered.star", ctf=False)
    shifted = read_relion_star(SHARED / f"relion_oracles/rln_proj_{box}_shifted.star", ctf=False)
    np.testing.assert_array_equal(centred.rotations, shifted.rotations)
    np.testing.assert_array_equal(centred.shifts_A, 0)
    np.testing.assert_array_equal(shifted.shifts_A[:3], [[-6, -10], [-10, 5], [8, -11]])
    assert centred.box_size_px == box
    refused(SHARED / f"relion_oracles/rln_proj_{box}_shifted.star", "rlnAmplitudeContrast")
