"""Choosing particles and correcting what their file says: --first, --ind, --select, --pixel-size, --invert,
--flip-hand.
"""

from __future__ import annotations

import json
import operator
import os
import pickle
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import refused
from gem3d.cli import main
from gem3d.errors import Gem3dError, Gem3dWarning, ParticleFileError, SettingsError
from gem3d.fit.accumulate import accumulate
from gem3d.fit.observations import Observations
from gem3d.input_settings import InputSettings
from gem3d.inputs import find_images, open_images
from gem3d.maps import read_map
from gem3d.particles import angles_between_deg, read_particles, write_relion_star
from gem3d.particles.columns import find_column, open_columns
from gem3d.particles.poses import mirror_poses
from gem3d.particles.row_list import read_row_list
from gem3d.particles.selection import Combination, Comparison, Negation, parse_selection, select
from gem3d.resume import RunCheckpoints
from gem3d.run_directory import REFINED_STAR, RESULTS
from gem3d.settings import ReconstructSettings
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure
from gem3d.subsets import read_chosen

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data is not here")
BOX, PIXEL_A = 32, 6.6

STAR = """
data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
2 'the second' 300 2.7 0.1 1.5
1 first 200 2.7 0.1 1.1

data_particles

loop_
_rlnImageName
_rlnMicrographName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnOpticsGroup
_rlnClassNumber
_rlnRandomSubset
1@a.mrcs 'my mic.mrc' 1 2 3 3.0 10000 9000 0 1 1 1
2@a.mrcs m2.mrc       1 2 3 3.0 11000 9000 0 1 2 2
3@a.mrcs m2.mrc       1 2 3 3.0 12000 9000 0 2 2 1
4@a.mrcs m3.mrc       1 2 3 3.0 13000 9000 0 2 3 2
5@a.mrcs m3.mrc       1 2 3 3.0 14000 9000 0 1 3 1
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "particles.star"
    path.write_text(STAR)
    return path


def chosen(star: Path, **asked: object) -> list[int]:
    return read_chosen(star, InputSettings(**asked)).source_row.tolist()


def test_first(star: Path) -> None:
    found = read_chosen(star, InputSettings(first=2))
    assert found.source_row.tolist() == [0, 1]
    assert found.half_set.tolist() == [1, 2]
    with pytest.warns(Gem3dWarning, match="--first 9: there are 5 particles; all are taken"):
        assert chosen(star, first=9) == [0, 1, 2, 3, 4]
    with pytest.raises(SettingsError, match="--first 0: give 1 or more"):
        InputSettings(first=0)


def dump(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def save(path: Path, value: object) -> Path:
    np.save(path, np.array(value))
    return path


def text(path: Path, value: str) -> Path:
    path.write_text(value)
    return path


LISTS = {
    "a pickled list": lambda folder: dump(folder / "ind.pkl", [4, 1, 3]),
    "a pickled array": lambda folder: dump(folder / "ind.pkl", np.array([4, 1, 3], dtype=np.int32)),
    "a pickled list of numpy's numbers": lambda folder: dump(folder / "ind.pkl", list(np.array([4, 1, 3]))),
    "a pickle of any name": lambda folder: dump(folder / "ind", [4, 1, 3]),
    "a pickled mask": lambda folder: dump(folder / "ind.pkl", [False, True, False, True, True]),
    "npy": lambda folder: save(folder / "ind.npy", np.array([4, 1, 3], dtype=np.uint16)),
    "an npy mask": lambda folder: save(folder / "ind.npy", [False, True, False, True, True]),
    "text": lambda folder: text(folder / "ind.txt", "# kept\n4\n\n 1 # why\r\n3"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_rows(star: Path, kind: str) -> None:
    ind = LISTS[kind](star.parent)
    assert chosen(star, ind=ind) == [1, 3, 4]
    assert chosen(star, ind=ind, first=2) == [1, 3]
    assert chosen(star, ind=ind, select="rlnClassNumber==3", first=1) == [3]


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda f: dump(f, [0, 5]),
            "entry 2 is row 5, but the particle file has rows 0 to 4, counted from 0",
        ),
        (lambda f: dump(f, [-1]), "entry 1 is row -1"),
        (lambda f: dump(f, [1, 2, 1, 2]), "2 rows are listed again, the first being row 1"),
        (lambda f: dump(f, [1, 0, 1, 1, 0]), "that say which to keep must be of type bool"),
        (lambda f: dump(f, []), "lists no particle; give 0-based rows"),
        (lambda f: dump(f, [False] * 5), "keeps none of the particles"),
        (lambda f: dump(f, [True] * 4), "holds 4 booleans, the particle file 5 rows"),
        (lambda f: dump(f, [1, True]), "give 0-based rows"),
        (lambda f: dump(f, [1.0, 2.0]), "give 0-based rows"),
        (lambda f: dump(f, {"a": 1}), "give 0-based rows"),
        (lambda f: dump(f, [10**30]), "give 0-based rows"),
        (lambda f: dump(f, np.zeros((2, 2), int)), "an array of shape (2, 2)"),
        (lambda f: dump(f, RunsCode()), "mkdir"),
        (lambda f: text(f, "\x80broken"), "give 0-based rows"),
        (lambda f: save(f.with_suffix(".npy"), [1.5]), "type float64"),
        (lambda f: save(f.with_suffix(".npy"), ["a"]), "give 0-based rows"),
        (lambda f: save(f.with_suffix(".npy"), []), "give 0-based rows"),
        (lambda f: text(f.with_suffix(".npy"), "\x93NUMPY"), "line 1: "),
        (lambda f: text(f.with_suffix(".txt"), "1\ntwo\n"), "line 2: 'two' is not a whole number"),
        (lambda f: text(f.with_suffix(".txt"), "1.0\n"), "line 1: '1.0' is not a whole number"),
        (lambda f: text(f.with_suffix(".txt"), "9" * 50), "beyond 64 bits"),
        (lambda f: text(f.with_suffix(".txt"), ""), "lists no particle"),
        (lambda f: f.with_name("absent.txt"), "no such file"),
        (lambda f: f.parent, "is a folder"),
    ],
)
def test_lists_that_are_refused(star: Path, write: object, words: str) -> None:
    ind = write(star.parent / "ind.pkl")
    with pytest.raises(ParticleFileError) as error:
        chosen(star, ind=ind)
    assert str(ind) in str(error.value)
    assert words in str(error.value)
    assert not Path("made_by_a_pickle").exists()


def test_headers_that_claim_too_much_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "ind.npy", np.arange(1000))
    held = path.read_bytes()
    path.write_bytes(held.replace(b"(1000,), }         ", b"(1000000000000,), }"))
    assert path.read_bytes() != held
    with pytest.raises(ParticleFileError, match=r"cannot be read as a \.npy file"):
        read_row_list(path, 1000)


@needs_shared
def test_a_real_list(tmp_path: Path) -> None:
    path = SHARED / "optics" / "empiar10028_filtered_ind.pkl"
    rows = read_row_list(path, 105_247)
    assert np.array_equal(rows, np.sort(pickle.loads(path.read_bytes())))
    with pytest.raises(ParticleFileError, match="is it of another file"):
        read_row_list(path, 50_000)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("rlnClassNumber==2", [1, 2]),
        ("_rlnClassNumber == 2", [1, 2]),
        ("2 == rlnClassNumber", [1, 2]),
        ("12000 <= rlnDefocusU", [2, 3, 4]),
        ("rlnDefocusU>=1.2e4 and rlnDefocusU < 14000.0", [2, 3]),
        ("rlnClassNumber==1 or rlnClassNumber==2 and rlnDefocusU>11000", [0, 2]),
        ("(rlnClassNumber==1 | rlnClassNumber==2) & rlnDefocusU>10000", [1, 2]),
        ("not rlnClassNumber==2", [0, 3, 4]),
        ("!(rlnClassNumber==2) && NOT rlnDefocusU<13000", [3, 4]),
        ("rlnMicrographName=='my mic.mrc'", [0]),
        ('rlnMicrographName!="m3.mrc"', [0, 1, 2]),
        # Columns of data_optics, by the value of rlnOpticsGroup.
        ("rlnOpticsGroupName=='the second'", [2, 3]),
        ("rlnVoltage==200", [0, 1, 4]),
        ("rlnOpticsGroup==1", [0, 1, 4]),
    ],
)
def test_select(star: Path, expression: str, rows: list[int]) -> None:
    assert chosen(star, select=expression) == rows


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "character 1: a column or a value should stand here, there is nothing more"),
        ("rlnClassNumber=2", "character 15: '=2' cannot be read; to compare, write =="),
        ("rlnClassNumber==", "character 17: a column or a value should stand here"),
        ("rlnClassNumber", "one of == != < <= > >= should stand here"),
        ("rlnClassNumber==2 rlnClassNumber==3", "character 19: and, or, or the end should stand here"),
        ("1<rlnClassNumber<3", "and, or, or the end"),
        ("(rlnClassNumber==2", "a closing bracket should stand here, there is nothing more"),
        ("rlnMicrographName==m2.mrc", "m2.mrc is not a value: give a number, or text in quotes ('m2.mrc')"),
        ("2==2", "2 == 2 names no column"),
        ("rlnMicrographName=='m2", "cannot be read"),
        ("__import__('os')==0", "one of == != < <= > >= should stand here, there is '('"),
        ("rlnClassNumber==2 and", "a column or a value should stand here"),
        ("(" * 5000, "within one another"),
        ("not " * 5000, "within one another"),
        ("a==" + "9" * 5000, "makes no sense"),
        ("a==1;b==2", "';b==2' cannot be read"),
    ],
)
def test_expressions_that_are_refused(expression: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        InputSettings(select=expression)
    assert words in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("rlnClasNumber==2", "no column rlnClasNumber; close: rlnClassNumber"),
        ("classnumber==2", "close: rlnClassNumber"),
        ("xyzzy==2", "no column xyzzy; those there are: rlnImageName, rlnMicrographName, rlnAngleRot"),
        ("rlnClassNumber=='2'", "the column holds numbers (the first is 1.0); leave out the quotes"),
        ("rlnMicrographName==2", "the column holds text (the first is 'my mic.mrc'); put the text in quotes"),
        ("rlnMicrographName<'n'", "text can only be compared with == and !="),
        ("rlnClassNumber==7", "keeps no particle (rlnClassNumber: 1 to 3)"),
        ("rlnOpticsGroupName=='1'", "keeps no particle (rlnOpticsGroupName: 'first', 'the second')"),
    ],
)
def test_selections_that_the_file_cannot_answer(star: Path, expression: str, words: str) -> None:
    with pytest.raises(Gem3dError) as error:
        chosen(star, select=expression)
    assert words in str(error.value)


def test_a_list_and_a_selection_that_share_nothing(star: Path) -> None:
    ind = text(star.parent / "ind.txt", "0\n")
    with pytest.raises(ParticleFileError, match="leave no particle that both keep"):
        chosen(star, ind=ind, select="rlnClassNumber==2")


COMPARISONS = st.builds(
    Comparison,
    st.sampled_from(["a", "b/c.d", "_e"]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    st.one_of(st.integers(-3, 3), st.sampled_from([-1.5, 0.25, 2e0])),
)
SELECTIONS = st.recursive(
    COMPARISONS,
    lambda terms: st.one_of(
        st.builds(Negation, terms),
        st.builds(
            Combination, st.sampled_from(["and", "or"]), st.lists(terms, min_size=2, max_size=3).map(tuple)
        ),
    ),
    max_leaves=8,
)


def written(selection: object, draw_space: str) -> str:
    if isinstance(selection, Comparison):
        return draw_space.join([selection.column, selection.operator, str(selection.value)])
    if isinstance(selection, Negation):
        return f"not {draw_space}({written(selection.term, draw_space)})"
    return f" {selection.word} ".join(f"({written(term, draw_space)})" for term in selection.terms)


def holds(selection: object, row: dict[str, float]) -> bool:
    """The obvious way, a row at a time."""
    if isinstance(selection, Comparison):
        compare = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}[selection.operator]
        return bool(getattr(operator, compare)(row[selection.column], selection.value))
    if isinstance(selection, Negation):
        return not holds(selection.term, row)
    answers = [holds(term, row) for term in selection.terms]
    return all(answers) if selection.word == "and" else any(answers)


@settings(max_examples=100, deadline=None)
@given(SELECTIONS, st.sampled_from(["", " ", "  "]))
def test_what_is_written_is_what_is_meant(selection: object, space: str) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(-3, 4, 50) for name in ("a", "b/c.d", "_e")}
    found = select(parse_selection(written(selection, space)), columns.__getitem__)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(50)]
    assert found.tolist() == [holds(selection, row) for row in rows]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1. '\"()!&|=<>~notandr+-e", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with suppress(SettingsError):
        parse_selection(text)


@needs_shared
def test_fields_of_cryosparc() -> None:
    path = SHARED / "formats" / "cryosparc_P12_J24_001_particles.cs"
    columns, rows = open_columns(path), np.load(path)
    found = select(
        parse_selection("alignments3D/split==1 and ctf/df1_A<15000"),
        lambda name: columns.values(find_column(columns, name, path)),
    )
    assert np.array_equal(found, (rows["alignments3D/split"] == 1) & (rows["ctf/df1_A"] < 15000))
    one = rows["uid"][3]
    assert select(parse_selection(f"uid=={one}"), columns.values).tolist() == (rows["uid"] == one).tolist()
    name = rows["blob/path"][0].decode()
    assert select(parse_selection(f"blob/path=='{name}'"), columns.values)[0]
    with pytest.raises(ParticleFileError, match="alignments3D/pose holds several values a particle"):
        select(parse_selection("alignments3D/pose==1"), columns.values)


def test_halves_are_drawn_alike_for_every_subset(made: Simulation, tmp_path: Path) -> None:
    asked = ReconstructSettings(halves="random", seed=3)
    _, of_all = find_images(made.star, asked)
    rows = [7, 8, 30, 31, 32, 111]
    ind = save(tmp_path / "ind.npy", rows)
    images, of_some = find_images(made.star, replace(asked, ind=ind))
    assert images.particles.source_row.tolist() == rows
    assert of_some.tolist() == of_all[rows].tolist()


def test_too_few_for_two_halves(made: Simulation) -> None:
    with pytest.raises(ParticleFileError, match=r"half set 2; choose more than these 1, or ask for random"):
        find_images(made.star, ReconstructSettings(first=1))


def test_pixel_size(star: Path) -> None:
    with pytest.raises(
        ParticleFileError, match=r"optics groups have several \(1.1, 1.5 A\).*--select rlnOpticsGroup"
    ):
        read_chosen(star, InputSettings(pixel_size_A=1.3))
    one = InputSettings(select="rlnOpticsGroup==2")
    before, after = read_chosen(star, one), read_chosen(star, replace(one, pixel_size_A=1.3))
    assert (before.pixel_size_A, after.pixel_size_A) == (1.5, 1.3)
    # What the image shows is in pixels.
    np.testing.assert_allclose(after.shifts_A / 1.3, before.shifts_A / 1.5, rtol=1e-12)
    np.testing.assert_array_equal(after.defocus_A, before.defocus_A)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="--pixel-size"):
            InputSettings(pixel_size_A=wrong)


def run(star: Path, out: Path, *extra: str, command: str = "reconstruct") -> dict:
    options = ["--out", str(out), "--threads", "1", "--gaussians", "150", "--quiet"]
    main([command, str(star), *options, *extra])
    return json.loads((out / "summary.json").read_text())


def test_every_output_has_the_pixel_size_asked_for(made: Simulation, tmp_path: Path) -> None:
    """What users of cryodrgn#142, #325 and #385 missed: maps, masks and FSC axes that follow."""
    new_A = 5.5
    summary = run(made.star, tmp_path / "run", "--pixel-size", str(new_A), "--first", "200")
    assert summary["pixel_size_A"] == new_A
    assert summary["particles"] == {"half1": 100, "half2": 100}
    for name in RESULTS:
        if name.endswith(".mrc") and (tmp_path / "run" / name).exists():
            assert read_map(tmp_path / "run" / name).voxel_size_A == pytest.approx(new_A), name
    last = (tmp_path / "run" / "fsc.csv").read_text().splitlines()[-1].split(",")
    assert float(last[1]) == pytest.approx(1 / (2 * new_A), rel=1e-4)
    main(["render", str(tmp_path / "run" / "gaussians.safetensors"), "--out", str(tmp_path / "again.mrc")])
    ours = read_map(tmp_path / "run" / "map_unfiltered.mrc").values
    np.testing.assert_allclose(read_map(tmp_path / "again.mrc").values, ours, atol=1e-4 * ours.max())


@pytest.fixture(scope="module")
def negative(made: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set with every image times -1."""
    folder = tmp_path_factory.mktemp("negative")
    shutil.copy(made.star, folder)
    shutil.copy(made.stack, folder)
    with mrcfile.mmap(folder / made.stack.name, "r+") as stack:
        stack.data[...] *= -1
    return folder / made.star.name


@pytest.mark.parametrize("normalise", [True, False])
def test_inverted_images_are_the_negatives(made: Simulation, negative: Path, normalise: bool) -> None:
    order = np.array([5, 2, 2, 70])
    found = {}
    for star in (made.star, negative):
        for invert in (True, False):
            images = open_images(star, InputSettings(invert=invert))
            observed = Observations.of(images, 13.0, normalise=normalise)
            found[star, invert] = next(observed.batches(order, 4)).images
    np.testing.assert_array_equal(found[made.star, True], found[negative, False])
    np.testing.assert_array_equal(found[negative, True], found[made.star, False])


def test_inverting_undoes_a_wrong_sign(made: Simulation, negative: Path, tmp_path: Path) -> None:
    """cryodrgn#97: an option to invert that did nothing."""
    run(made.star, tmp_path / "as_is", "--no-normalise")
    run(negative, tmp_path / "undone", "--no-normalise", "--invert")
    for name in ("map_unfiltered.mrc", "linear_half1.mrc", "gaussians.safetensors"):
        assert (tmp_path / "as_is" / name).read_bytes() == (tmp_path / "undone" / name).read_bytes(), name


def mirrored(values: np.ndarray) -> np.ndarray:
    """Z to -z about index n//2; an even box has a plane without a counterpart, which stays."""
    return values[(2 * (len(values) // 2) - np.arange(len(values))) % len(values)]


@pytest.mark.parametrize("box_size", [24, 25])
def test_the_other_hand_is_the_mirror_image_with_poses_to_match(tmp_path: Path, box_size: int) -> None:
    made = simulate(packaged_structure(), tmp_path / "set", 60, box_size, 8.0, 5.0, seed=2)
    linear = []
    for flip in (False, True):
        images = open_images(made.star, InputSettings(flip_hand=flip))
        observed = Observations.of(images, 0.45 * box_size)
        linear.append(accumulate(observed, images.particles.half_set, seed=0)[0].linear_map().values)
    as_is, other = linear
    inside = slice((box_size + 1) % 2, None)  # the first plane of an even box has no counterpart in it
    np.testing.assert_allclose(other[inside], mirrored(as_is)[inside], atol=1e-4 * np.abs(as_is).max())
    assert np.abs(other - as_is).max() > 0.1 * np.abs(as_is).max()


def test_points_and_their_mirror_images_project_alike() -> None:
    rng = np.random.default_rng(1)
    points, mirror = rng.normal(size=(20, 3)), np.diag([1.0, 1.0, -1.0])
    rotations = read_particles_rotations(rng)
    flipped = mirror_poses(rotations)
    np.testing.assert_allclose(
        np.einsum("nij,pj->npi", flipped, points @ mirror)[..., :2],
        np.einsum("nij,pj->npi", rotations, points)[..., :2],
        atol=1e-12,
    )
    np.testing.assert_allclose(np.linalg.det(flipped), 1)
    np.testing.assert_array_equal(mirror_poses(flipped), rotations)


def read_particles_rotations(rng: np.random.Generator) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.random(30, rng=rng).as_matrix()


def test_a_refined_part_of_the_other_hand(made: Simulation, tmp_path: Path) -> None:
    """Columns are those of the part; maps, Gaussians and poses are of one hand, which the refined file keeps."""
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(made.stack, folder)
    given = made.particles
    write_relion_star(given, folder / "p.star", own_columns={"rlnClassNumber": np.arange(300) % 4.0})
    options = ("--rounds", "1", "--select", "rlnClassNumber!=1", "--flip-hand")
    run(folder / "p.star", tmp_path / "run", *options, command="refine")
    refined_star = tmp_path / "run" / REFINED_STAR
    assert sorted(set(open_columns(refined_star).values("rlnClassNumber"))) == [0, 2, 3]

    refined = read_particles(refined_star)
    kept = np.arange(300) % 4 != 1
    np.testing.assert_array_equal(refined.image_index, given.image_index[kept])
    np.testing.assert_array_equal(refined.half_set, given.half_set[kept])
    assert np.median(angles_between_deg(mirror_poses(refined.rotations), given.rotations[kept])) < 3
    images = open_images(refined_star, InputSettings(datadir=folder))
    again = accumulate(Observations.of(images, 14.0), refined.half_set, seed=0)[0].linear_map().values
    main(["render", str(tmp_path / "run" / "gaussians.safetensors"), "--out", str(tmp_path / "rendered.mrc")])
    maps = {name: read_map(tmp_path / "run" / name).values for name in ("map_unfiltered.mrc", "half1.mrc")}
    maps |= {"rendered": read_map(tmp_path / "rendered.mrc").values, "again": again}
    truth = read_map(made.truth).values

    def likeness(values: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(values.ravel(), other.ravel())[0, 1])

    for name, values in maps.items():
        assert likeness(values, mirrored(truth)) > likeness(values, truth) + 0.05, name


@pytest.mark.parametrize(
    "change", [{"first": 200}, {"invert": True}, {"flip_hand": True}, {"pixel_size_A": 6.0}]
)
def test_a_run_with_another_choice_is_another_run(made: Simulation, tmp_path: Path, change: dict) -> None:
    begun = ReconstructSettings(fit="images")
    particles = read_chosen(made.star, begun)
    checkpoints = RunCheckpoints(tmp_path, particles, begun, None, 1)
    checkpoints.begin()
    checkpoints.stage("half1").save({}, {})
    asked = replace(begun, resume=True)
    assert RunCheckpoints(tmp_path, particles, asked, None, 1).going_on
    other = replace(asked, **change)
    with pytest.raises(SettingsError, match="--resume: the run in"):
        RunCheckpoints(tmp_path, read_chosen(made.star, other), other, None, 1)


def test_what_the_command_line_says(
    made: Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for words, expected in (
        (["--select", "rlnRandomSubset=1"], "to compare, write =="),
        (["--select", "rlnRandom==1"], "close: rlnRandomSubset"),
        (["--first", "-3"], "--first -3"),
        (["--ind", str(tmp_path / "none.pkl")], "none.pkl: no such file"),
    ):
        assert expected in refused(capsys, "reconstruct", str(made.star), "--out", out, *words)
    assert not (tmp_path / "out").exists()


def test_nothing_chosen_is_nothing_changed(star: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, whole = read_chosen(star, InputSettings()), read_particles(star)
    np.testing.assert_array_equal(found.shifts_A, whole.shifts_A)
    assert found.optics == whole.optics
