"""Writing RELION's STAR files, and reading them back."""

from dataclasses import fields, replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gem3d.errors import ParticleFileError
from gem3d.particles import OpticsGroup, Particles, euler_to_matrix, read_relion_star, write_relion_star


def example(n=5, seed=0, half_sets=True, groups=2, box_size_px=64):
    rng = np.random.default_rng(seed)
    return Particles(
        rotations=euler_to_matrix(rng.uniform(-180, 180, (n, 3))),
        shifts_A=rng.normal(0, 5, (n, 2)),
        defocus_A=rng.uniform(5e3, 3e4, (n, 2)),
        astigmatism_deg=rng.uniform(-90, 90, n),
        phase_shift_deg=rng.uniform(0, 90, n),
        ctf_bfactor_A2=rng.uniform(0, 50, n),
        ctf_scale=rng.uniform(0.5, 1.5, n),
        optics_index=np.arange(n, dtype=np.int32) % groups,
        half_set=rng.integers(1, 3, n).astype(np.int8) * half_sets,
        contrast=np.ones(n),
        micrograph_index=np.arange(n, dtype=np.int32) % 2,
        stack_index=np.arange(n, dtype=np.int32) % 2,
        image_index=rng.integers(0, 1000, n).astype(np.int32),
        source_row=np.arange(n, dtype=np.int32),
        stacks=("particles.mrcs", "with a blank/particles.mrcs"),
        optics=tuple(
            OpticsGroup(f"group {i}", 1.1 + i / 3, box_size_px, 300.0 - i, 2.7, 0.1 + i / 7)
            for i in range(groups)
        ),
        source=Path("somewhere.star"),
    )


PER_PARTICLE = [
    field.name for field in fields(Particles) if "NDArray" in str(field.type) and field.name != "rotations"
]


def assert_same(a, b):
    np.testing.assert_allclose(a.rotations, b.rotations, rtol=0, atol=1e-12)
    for name in PER_PARTICLE:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert (a.stacks, a.optics) == (b.stacks, b.optics)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(2, 20),
    seed=st.integers(0, 2**32 - 1),
    half_sets=st.booleans(),
    groups=st.integers(1, 2),
    box_size_px=st.sampled_from([0, 63, 256]),
)
def test_what_is_written_reads_back(tmp_path, n, seed, half_sets, groups, box_size_px):
    particles = example(n, seed, half_sets, groups, box_size_px)
    write_relion_star(particles, tmp_path / "out.star")
    assert_same(read_relion_star(tmp_path / "out.star"), particles)


def test_the_form_is_relions(tmp_path):
    write_relion_star(example(), tmp_path / "out.star")
    text = (tmp_path / "out.star").read_text()
    assert text.index("data_optics\n\nloop_\n_rlnOpticsGroup #1\n") < text.index("data_particles\n\nloop_\n")
    assert "\n# version 30001\n" in text
    block = gemmi.cif.read_string(text)["particles"]
    assert block.find_value("_rlnImageName") is None  # a loop, not a pair
    assert next(iter(block.find_loop("_rlnImageName"))).split("@")[1] == "particles.mrcs"
    assert len(next(iter(block.find_loop("_rlnImageName"))).split("@")[0]) == 6


def test_half_sets_for_some_only(tmp_path):
    particles = example()
    particles.half_set[1] = 0
    with pytest.raises(ParticleFileError, match="1 of 5 particles have no half set"):
        write_relion_star(particles, tmp_path / "out.star")


def columns(path, block):
    loop = gemmi.cif.read_file(str(path))[block]
    tags = next(iter(loop)).loop.tags
    return {tag: list(loop.find_loop(tag)) for tag in tags}


def test_a_template_keeps_the_columns_it_does_not_know(tmp_path):
    template = tmp_path / "template.star"
    template.write_text(
        "data_particles\nloop_\n_rlnOpticsGroup\n_rlnImageName\n_rlnMicrographName\n_rlnAngleRot\n_rlnAngleTilt\n"
        "_rlnAnglePsi\n_rlnUnheardOf\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "4 01@a.mrcs 'my mic.mrc' 1 2 3 [1.00,0] 10000 9000 30\n4 02@a.mrcs m.mrc 1 2 3 x 10000 9000 30\n\n"
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        "_rlnImagePixelSize\n_rlnMtfFileName\n4 300.00 2.7 0.10 1.50 mtf.star\n"
    )
    particles = read_relion_star(template)
    moved = replace(
        particles,
        rotations=euler_to_matrix([[10, 20, 30], [40, 50, 60]]),
        shifts_A=np.array([[1.5, -3.0], [0.0, 2.0]]),
        defocus_A=np.array([[11000.0, 9500.0], [12000.0, 8000.0]]),
        half_set=np.array([1, 2], np.int8),
    )
    out = tmp_path / "out.star"
    write_relion_star(moved, out, template=template)
    assert_same(read_relion_star(out), moved)
    assert columns(out, "optics") == columns(template, "optics")
    before, after = columns(template, "particles"), columns(out, "particles")
    for column in ("_rlnOpticsGroup", "_rlnImageName", "_rlnMicrographName", "_rlnUnheardOf"):
        assert after[column] == before[column]
    assert list(after)[: len(before)] == list(before)
    assert after["_rlnOriginXAngst"] == ["-1.5", "0.0"]

    with pytest.raises(ParticleFileError, match=r"holds 2 particles, the set to be written is of 8 or more"):
        write_relion_star(replace(moved, source_row=np.array([0, 7], np.int32)), out, template=template)
    # Particles read without a CTF have no defocus to say, so the file's own stays.
    write_relion_star(read_relion_star(template, ctf=False), out, template=template)
    assert columns(out, "particles")["_rlnDefocusU"] == before["_rlnDefocusU"]


def test_of_a_template_only_the_rows_of_the_particles_are_taken(tmp_path):
    given = example(6, groups=3)
    template, out = tmp_path / "template.star", tmp_path / "out.star"
    write_relion_star(given, template, own_columns={"rlnUnheardOf": np.arange(6.0)})
    few = read_relion_star(template).subset(np.array([4, 1, 3]))
    write_relion_star(few, out, template=template)
    kept = columns(out, "particles")
    assert kept["_rlnUnheardOf"] == ["4.0", "1.0", "3.0"]
    for column, values in columns(template, "particles").items():
        assert kept[column] == [values[row] for row in (4, 1, 3)], column
    # Group 3 is that of rows 2 and 5.
    assert columns(out, "optics")["_rlnOpticsGroup"] == ["1", "2"]


def test_what_has_not_changed_is_kept_word_for_word(tmp_path):
    template, out = tmp_path / "template.star", tmp_path / "out.star"
    template.write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        "_rlnImagePixelSize\n1 300.00 2.7 0.10 1.50\n\n"
        "data_particles\nloop_\n_rlnOpticsGroup\n_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
        "_rlnOriginXAngst\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n"
        "1 01@a.mrcs 270.0 -30.00 3 1.10 1.0e4 9000 200\n"
    )
    write_relion_star(read_relion_star(template), out, template=template)
    for block in ("optics", "particles"):
        assert columns(out, block) == columns(template, block)


def test_a_template_of_one_block_keeps_its_pixel_origins(tmp_path):
    template = tmp_path / "template.star"
    names = "ImageName AngleRot AngleTilt AnglePsi OriginX OriginY DefocusU DefocusV DefocusAngle Voltage"
    names += " SphericalAberration AmplitudeContrast Magnification DetectorPixelSize"
    loop = "loop_\n" + "".join(f"_rln{name}\n" for name in names.split())
    template.write_text(f"data_images\n{loop}1@a.mrcs 1 2 3 4 5 10000 9000 30 300 2.7 0.1 25000 5\n")
    particles = read_relion_star(template)
    moved = replace(particles, shifts_A=np.array([[4.0, -6.0]]))
    write_relion_star(moved, template, template=template)  # onto itself
    assert_same(read_relion_star(template), moved)
    assert columns(template, "images")["_rlnOriginX"] == ["-2.0"]
    assert "version" not in template.read_text()


def test_an_unwritable_place(tmp_path):
    with pytest.raises(OSError, match="absent"):
        write_relion_star(example(), tmp_path / "absent" / "out.star")
