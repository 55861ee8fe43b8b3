"""References brought to our grid, and maps compared with them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import gemmi
import numpy as np
import pytest

from gem3d.assess import sphere_mask
from gem3d.assess.reference import compare_with_reference
from gem3d.errors import Gem3dWarning, MapError, StructureError
from gem3d.maps import Map, write_map
from gem3d.reference_map import read_reference
from gem3d.simulate import forward_model
from gem3d.simulate_models import resample_map

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures"
PIXEL_A = 2.5
BOXES = pytest.mark.parametrize("box", [40, 41])


def points(n: int = 60, seed: int = 0) -> np.ndarray:
    """`(n, 3)` x, y, z in A around 0: no two axes are alike."""
    directions = np.random.default_rng(seed).standard_normal((n, 3))
    spread = directions / np.linalg.norm(directions, axis=1, keepdims=True) * [16.0, 22.0, 10.0]
    return spread + np.linspace(0, 6, n)[:, None] * [1.0, -0.5, 0.3]


def density(
    centres_A: np.ndarray, shape: tuple[int, int, int], voxel_A: float, first_A: np.ndarray
) -> np.ndarray:
    """Balls of 3 A standard deviation, the first voxel at `first_A` (x, y, z)."""
    x, y, z = (
        np.exp(-((np.arange(n) * voxel_A + first - centres_A[:, axis, None]) ** 2) / (2 * 3.0**2))
        for axis, (n, first) in enumerate(zip(shape[::-1], first_A, strict=True))
    )
    return np.einsum("nz,ny,nx->zyx", z, y, x).astype(np.float32)


def centre_of(box: int) -> np.ndarray:
    return np.full(3, box // 2 * PIXEL_A)


def our_map(box: int) -> np.ndarray:
    return density(points() + centre_of(box), (box,) * 3, PIXEL_A, np.zeros(3))


def set_start(path: Path, start: tuple[int, int, int]) -> None:
    """Write the words nxstart, nystart, nzstart of a header."""
    with path.open("r+b") as file:
        file.seek(16)
        file.write(np.array(start, dtype="<i4").tobytes())


def write_atoms(
    path: Path, positions_A: np.ndarray, element: str = "", bfactor_A2: float = 400.0
) -> list[str]:
    """A model of one chain, as PDB or mmCIF; the elements of its atoms."""
    elements = [element or "CNOSP"[i % 5] for i in range(len(positions_A))]
    chain = gemmi.Chain("A")
    for number, (name, position) in enumerate(zip(elements, positions_A, strict=True), start=1):
        atom, residue = gemmi.Atom(), gemmi.Residue()
        atom.name, atom.element, atom.b_iso = name, gemmi.Element(name), bfactor_A2
        atom.pos = gemmi.Position(*position)
        residue.name, residue.seqid = "UNK", gemmi.SeqId(number, " ")
        residue.add_atom(atom)
        chain.add_residue(residue)
    model, structure = gemmi.Model(1), gemmi.Structure()
    model.add_chain(chain)
    structure.add_model(model)
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    return elements


@BOXES
def test_a_map_equals_itself(box: int) -> None:
    ours, last = our_map(box), box // 2 - 1
    mask = sphere_mask(box, PIXEL_A, 60.0)
    found = compare_with_reference(
        ours, 3 * ours + 1, mask, PIXEL_A, name="truth.mrc", low_pass_A=8.0, last_shell=last
    )
    assert found.fsc_masked.shape == found.fsc_unmasked.shape == (last + 1,)
    np.testing.assert_allclose(found.fsc_unmasked[1:], 1.0, atol=1e-3)
    assert found.correlation == pytest.approx(1.0, abs=1e-5)
    assert (found.name, found.low_pass_A) == ("truth.mrc", 8.0)
    itself = compare_with_reference(ours, ours, mask, PIXEL_A, name="", low_pass_A=8.0, last_shell=last)
    np.testing.assert_allclose(itself.fsc_masked, 1.0, atol=1e-6)
    assert itself.crossing.resolution_A is None
    assert "not below 0.5" in str(itself.crossing.reason)


@BOXES
@pytest.mark.parametrize(
    ("shape", "voxel_A", "first_A"),
    [
        ((48, 48, 48), 2.0, (3.7, -1.2, 5.1)),
        ((35, 35, 35), 3.1, (-4.0, 0.6, 0.0)),
        ((60, 70, 64), 1.6, (2.0, -1.3, 0.9)),
        ((64, 63, 64), 2.5, (-31.3, -27.5, -30.0)),
        ((41, 41, 41), 2.5, (0.0, 0.0, 0.0)),
    ],
)
def test_the_same_density_on_another_grid(
    tmp_path: Path, box: int, shape: tuple[int, int, int], voxel_A: float, first_A: tuple[float, float, float]
) -> None:
    there = density(points() + centre_of(box), shape, voxel_A, np.array(first_A))
    write_map(tmp_path / "there.mrc", there, voxel_A, first_A)
    found, ours = read_reference(tmp_path / "there.mrc", box, PIXEL_A), our_map(box)
    assert found.dtype == np.float32
    assert np.linalg.norm(found - ours) < 0.02 * np.linalg.norm(ours)
    common = int(box * PIXEL_A / (2 * max(voxel_A, PIXEL_A)) - 1)
    compared = compare_with_reference(
        ours, found, sphere_mask(box, PIXEL_A, 70.0), PIXEL_A, name="", low_pass_A=8.0, last_shell=common
    )
    assert compared.fsc_unmasked[1:].min() > 0.99
    assert compared.fsc_masked[1:].min() > 0.99


@BOXES
def test_a_map_on_our_grid_is_left_as_it_is(tmp_path: Path, box: int) -> None:
    values = np.random.default_rng(0).standard_normal((box,) * 3, dtype=np.float32)
    write_map(tmp_path / "truth.mrc", values, 1.37)
    np.testing.assert_array_equal(read_reference(tmp_path / "truth.mrc", box, 1.37), values)


@BOXES
def test_start_words_place_a_map_without_an_origin(tmp_path: Path, box: int) -> None:
    path, start = tmp_path / "there.map", (3, -2, 5)
    there = density(points() + centre_of(box), (44, 44, 44), 2.0, 2.0 * np.array(start))
    write_map(path, there, 2.0)
    set_start(path, start)
    ours = our_map(box)
    np.testing.assert_allclose(read_reference(path, box, PIXEL_A), ours, atol=5e-3 * ours.max())
    packed = tmp_path / "there.map.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_allclose(read_reference(packed, box, PIXEL_A), ours, atol=5e-3 * ours.max())


@BOXES
@pytest.mark.parametrize("name", ["model.pdb", "model.cif"])
def test_atoms_are_where_they_are(tmp_path: Path, box: int, name: str) -> None:
    """Against the potential of the scattering factors, summed voxel by voxel: a (4 pi / (b + B))^(3/2) at an atom."""
    positions = points(200) + centre_of(box)
    elements = write_atoms(tmp_path / name, positions)
    found = read_reference(tmp_path / name, box, PIXEL_A)
    expected = np.zeros((box,) * 3)
    for element, position in zip(elements, positions.round(3), strict=True):
        squared = [(np.arange(box) * PIXEL_A - c) ** 2 for c in position]
        r2 = squared[2][:, None, None] + squared[1][:, None] + squared[0]
        factor = gemmi.Element(element).c4322
        for a, b in zip(factor.a, factor.b, strict=True):
            width = b + 400.0
            expected += a * (4 * math.pi / width) ** 1.5 * np.exp(-4 * math.pi**2 * r2 / width) * PIXEL_A**3
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@BOXES
def test_what_is_centred_on_the_origin_is_moved_with_a_warning(tmp_path: Path, box: int) -> None:
    write_atoms(tmp_path / "placed.pdb", points() + centre_of(box))
    write_atoms(tmp_path / "centred.pdb", points())
    moved_A = f"{box // 2 * PIXEL_A:.1f} A along each axis"
    with pytest.warns(Gem3dWarning, match=rf"centred\.pdb: its atoms lie at x, y, z of .*moved by {moved_A}"):
        found = read_reference(tmp_path / "centred.pdb", box, PIXEL_A)
    np.testing.assert_allclose(
        found, read_reference(tmp_path / "placed.pdb", box, PIXEL_A), atol=1e-3 * found.max()
    )
    path = tmp_path / "centred.mrc"
    write_map(path, density(points(), (48, 48, 48), 2.0, np.full(3, -48.0)), 2.0)
    set_start(path, (-24, -24, -24))
    with pytest.warns(
        Gem3dWarning, match=r"centred\.mrc: its dense parts lie at .* counted from the box centre"
    ):
        found = read_reference(path, box, PIXEL_A)
    ours = our_map(box)
    np.testing.assert_allclose(found, ours, atol=5e-3 * ours.max())


def test_what_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    write_atoms(tmp_path / "far.cif", points() + 300)
    expected = (
        r"far\.cif: not where the map is: its atoms lie at x, y, z of 28\d to 3\d\d, .*"
        r"our maps at 0 to 98 A along each\. Fit it into a map of this run and save it"
    )
    with pytest.raises(StructureError, match=expected):
        read_reference(tmp_path / "far.cif", 40, PIXEL_A)
    write_map(tmp_path / "far.mrc", our_map(40), PIXEL_A, (200.0, 0.0, 0.0))
    with pytest.raises(
        MapError, match=r"far\.mrc: not where the map is: its dense parts lie at x, y, z of 2"
    ):
        read_reference(tmp_path / "far.mrc", 40, PIXEL_A)
    write_atoms(tmp_path / "large.pdb", 6 * points())
    with pytest.raises(StructureError, match=r"large\.pdb: not where the map is"):
        read_reference(tmp_path / "large.pdb", 40, PIXEL_A)


def test_what_is_cut_off_is_told(tmp_path: Path) -> None:
    positions = points(200) + centre_of(40)
    positions[:30, 0] += 80
    write_atoms(tmp_path / "model.pdb", positions)
    with pytest.warns(Gem3dWarning, match=r"15 % of its atoms lie outside of the box and are left out"):
        found = read_reference(tmp_path / "model.pdb", 40, PIXEL_A)
    write_atoms(tmp_path / "inside.pdb", positions[30:])
    assert np.linalg.norm(found) == pytest.approx(
        np.linalg.norm(read_reference(tmp_path / "inside.pdb", 40, PIXEL_A)), rel=0.1
    )


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"absent\.pdb: no such file"):
        read_reference(tmp_path / "absent.pdb", 40, PIXEL_A)
    with pytest.raises(MapError, match=r"absent\.mrc: no such file"):
        read_reference(tmp_path / "absent.mrc", 40, PIXEL_A)
    write_atoms(tmp_path / "odd.cif", points() + 50, "Es")
    with pytest.raises(
        StructureError, match=r"odd\.cif: no electron scattering factor is known of Es; remove"
    ):
        read_reference(tmp_path / "odd.cif", 40, PIXEL_A)
    write_map(tmp_path / "empty.mrc", np.zeros((40,) * 3), PIXEL_A)
    with pytest.raises(MapError, match=r"empty\.mrc: the map is zero everywhere"):
        read_reference(tmp_path / "empty.mrc", 40, PIXEL_A)
    write_map(tmp_path / "unsized.mrc", our_map(40), 0.0)
    with pytest.raises(MapError, match=r"unsized\.mrc: the header does not state the voxel size"):
        read_reference(tmp_path / "unsized.mrc", 40, PIXEL_A)


@BOXES
def test_a_displaced_reference_is_told_and_compared_where_it_stands(box: int) -> None:
    ours, mask = our_map(box), sphere_mask(box, PIXEL_A, 60.0)
    displaced = np.roll(ours, (0, -4, 3), axis=(0, 1, 2))
    with pytest.warns(Gem3dWarning, match=r"model\.pdb: .* moved by -7\.5, 10\.0, 0\.0 A along x, y, z"):
        found = compare_with_reference(
            ours, displaced, mask, PIXEL_A, name="model.pdb", low_pass_A=8.0, last_shell=box // 2
        )
    assert found.correlation < 0.7
    assert found.crossing.resolution_A is not None
    assert found.crossing.resolution_A > 15


def test_noise_matches_nothing() -> None:
    """And no shift is recommended, though one of many fits best."""
    box = 40
    noise = np.random.default_rng(0).standard_normal((box,) * 3, dtype=np.float32)
    mask = sphere_mask(box, PIXEL_A, 60.0)
    found = compare_with_reference(
        noise, our_map(box), mask, PIXEL_A, name="", low_pass_A=8.0, last_shell=box // 2
    )
    assert abs(found.correlation) < 0.2
    assert np.abs(found.fsc_masked[8:]).max() < 0.2
    assert found.crossing.resolution_A is None or found.crossing.resolution_A > 15


@BOXES
def test_flat_maps_and_other_boxes(box: int) -> None:
    ours, mask = our_map(box), sphere_mask(box, PIXEL_A, 60.0)
    flat = np.ones_like(ours)
    found = compare_with_reference(ours, flat, mask, PIXEL_A, name="", low_pass_A=8.0, last_shell=9)
    assert found.correlation == pytest.approx(0.0, abs=1e-3)
    with pytest.raises(MapError, match="reference has shape"):
        compare_with_reference(ours, flat[1:, 1:, 1:], mask, PIXEL_A, name="", low_pass_A=8.0, last_shell=9)


@pytest.mark.skipif(not DATA.exists(), reason=f"structures not at {DATA}")
def test_deposited_models() -> None:
    """6V8O lies outside of this box; 5A1A inside, but not in its middle, where the simulation puts it."""
    box, pixel_A = 48, 4.4
    with pytest.raises(StructureError, match=r"6v8o\.pdb: not where the map is: .* 112 to 308, 162 to 280"):
        read_reference(DATA / "6v8o.pdb", box, pixel_A)
    simulated = forward_model(DATA / "5a1a.pdb", box, pixel_A).truth()
    given = read_reference(DATA / "5a1a.pdb", box, pixel_A)
    mask = sphere_mask(box, pixel_A, 190.0)
    with pytest.warns(Gem3dWarning, match=r"5a1a\.pdb: .* moved by 13\.2, 13\.2, 13\.2 A along x, y, z"):
        apart = compare_with_reference(
            simulated, given, mask, pixel_A, name="5a1a.pdb", low_pass_A=12.0, last_shell=23
        )
    assert apart.correlation < 0.5
    at_12_6_A = resample_map(Map(given, pixel_A), box, pixel_A, (12.598, 12.598, 12.598))
    found = compare_with_reference(
        simulated, at_12_6_A, mask, pixel_A, name="", low_pass_A=12.0, last_shell=23
    )
    assert found.fsc_masked.min() > 0.97
    assert found.correlation > 0.98
