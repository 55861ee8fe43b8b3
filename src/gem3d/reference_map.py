"""A reference to hold a map against, brought to the map's grid: another map, or an atomic model."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from gem3d.assess.shells import FloatVolume
from gem3d.errors import MapError, StructureError, warn
from gem3d.foreign_files import PACKED_SUFFIXES
from gem3d.maps import MAP_SUFFIXES, Map, read_map
from gem3d.simulate_models import GaussianModel, resample_map
from gem3d.structures import Structure, read_structure

# A reference stays where its coordinates place it if so much of it lies inside of the box.
MOSTLY_INSIDE = 0.5
# Else it is taken to be counted from the centre of the box, if nearly all of it then lies inside.
NEARLY_ALL_INSIDE = 0.9
# Share of a reference outside of the box that goes without saying.
NEGLIGIBLE = 0.01
# Where a map has its density is judged by its densest voxels, of every so manyth along each axis.
DENSEST_SHARE, SAMPLES_PER_AXIS = 0.002, 64


def read_reference(path: str | Path, box_size_px: int, pixel_size_A: float) -> FloatVolume:
    """Read a map, or compute the density of an atomic model, on the grid of our maps.

    Our maps have their first voxel at 0, 0, 0. A model is placed by its coordinates; a map by the origin words of
    its header or, where these are zero, by its start words. What would lie outside of the box there, but inside of
    it if coordinates were counted from the box centre (a model or a map centred on the origin), is taken to be
    counted so, with a warning.

    Parameters
    ----------
    path: a map (`.mrc`, `.map`, `.ccp4`, `.rec`) of any box and voxel size, or a model (PDB, mmCIF); either may be
        packed by gzip, a map by bzip2, too. Atoms as `read_structure` takes them.

    Returns
    -------
    `(D, D, D)`, free of frequencies that the map's own voxels do not carry.

    Raises
    ------
    MapError, StructureError: the file cannot be read, or lies elsewhere.
    """
    path = Path(path)
    unpacked = path.with_suffix("") if path.suffix.lower() in PACKED_SUFFIXES else path
    if unpacked.suffix.lower() in MAP_SUFFIXES:
        return _map_on_grid(path, read_map(path), box_size_px, pixel_size_A)
    structure = read_structure(path)
    moved_A = _place(structure.positions_A, path, "atoms", box_size_px, pixel_size_A, StructureError)
    return _density(structure, moved_A - box_size_px // 2 * pixel_size_A, path, box_size_px, pixel_size_A)


def _map_on_grid(path: Path, found: Map, box_size_px: int, pixel_size_A: float) -> FloatVolume:
    if found.voxel_size_A <= 0:
        raise MapError(f"{path}: the header does not state the voxel size; set it in the file")
    if not found.values.any():
        raise MapError(f"{path}: the map is zero everywhere; give another")
    by_start_A = np.array(found.start) * found.voxel_size_A
    first_A = np.array(found.origin_A) if any(found.origin_A) else by_start_A
    densest_A = _densest_voxels(found.values)[:, ::-1] * found.voxel_size_A + first_A
    moved_A = _place(densest_A, path, "dense parts", box_size_px, pixel_size_A, MapError)
    centre_A = np.array([n // 2 for n in found.values.shape[::-1]]) * found.voxel_size_A
    x, y, z = first_A + centre_A + moved_A - box_size_px // 2 * pixel_size_A
    same_voxels = (
        found.values.shape == (box_size_px,) * 3 and abs(found.voxel_size_A / pixel_size_A - 1) < 1e-5
    )
    if same_voxels and max(abs(x), abs(y), abs(z)) < 1e-3 * pixel_size_A:
        return found.values
    return resample_map(found, box_size_px, pixel_size_A, (x, y, z))


def _densest_voxels(values: FloatVolume) -> NDArray[np.int64]:
    """`(m, 3)` z, y, x of the densest of a sample of the voxels."""
    steps = np.array([max(1, n // SAMPLES_PER_AXIS) for n in values.shape])
    sample = values[tuple(slice(None, None, step) for step in steps)]
    densest = np.argsort(sample, axis=None)[-max(1, int(DENSEST_SHARE * sample.size)) :]
    indices: NDArray[np.int64] = np.stack(np.unravel_index(densest, sample.shape), axis=1) * steps
    return indices


def _place(
    positions_A: NDArray[np.float64],
    path: Path,
    parts: str,
    box_size_px: int,
    pixel_size_A: float,
    error: type[MapError] | type[StructureError],
) -> float:
    """What is to be added to all coordinates: nothing, or half the box."""
    centre_A, end_A = box_size_px // 2 * pixel_size_A, (box_size_px - 1) * pixel_size_A

    def share_inside(moved_A: float) -> float:
        low, high = (edge - moved_A for edge in (-pixel_size_A / 2, end_A + pixel_size_A / 2))
        return float(np.mean(np.all((positions_A >= low) & (positions_A < high), axis=1)))

    share = share_inside(0.0)
    if share >= MOSTLY_INSIDE:
        if 1 - share > NEGLIGIBLE:
            warn(f"{path}: {100 * (1 - share):.0f} % of its {parts} lie outside of the box and are left out")
        return 0.0
    spans = ", ".join(
        f"{low:.0f} to {high:.0f}"
        for low, high in zip(positions_A.min(axis=0), positions_A.max(axis=0), strict=True)
    )
    where = f"its {parts} lie at x, y, z of {spans} A, our maps at 0 to {end_A:.0f} A along each"
    if share_inside(centre_A) >= NEARLY_ALL_INSIDE:
        warn(
            f"{path}: {where}. Its coordinates are taken to be counted from the box centre: it is moved by "
            f"{centre_A:.1f} A along each axis"
        )
        return centre_A
    raise error(
        f"{path}: not where the map is: {where}. Fit it into a map of this run and save it in that map's coordinates "
        "(ChimeraX: fitmap)"
    )


def _density(
    structure: Structure, moved_A: float, path: Path, box_size_px: int, pixel_size_A: float
) -> FloatVolume:
    """Electrostatic potential of atoms, each a sum of five Gaussians blurred by its B factor.

    The electron scattering factors f(s) = sum_i a_i exp(-b_i s^2), s = k / 2, are those that gemmi has of
    International Tables C, 4.3.2.2.

    Parameters
    ----------
    moved_A: added to the coordinates, which are then counted from the box centre.
    """
    elements, element_of = np.unique(structure.atomic_numbers, return_inverse=True)
    a, b = np.stack([_scattering_factor(int(number), path) for number in elements], axis=1)[:, element_of]
    covariances_A2 = np.zeros((a.size, 6))
    covariances_A2[:, :3] = ((b + structure.bfactors_A2[:, None]) / (8 * np.pi**2)).reshape(-1, 1)
    centres_A = np.repeat(structure.positions_A + moved_A, a.shape[1], axis=0)
    return GaussianModel(a.ravel(), centres_A, covariances_A2, box_size_px, pixel_size_A).truth()


def _scattering_factor(atomic_number: int, path: Path) -> NDArray[np.float64]:
    """`(2, 5)`: a_i in A and b_i in A^2."""
    element = gemmi.Element(atomic_number)
    if element.c4322 is None:
        raise StructureError(
            f"{path}: no electron scattering factor is known of {element.name}; remove the atom from the model"
        )
    return np.array([element.c4322.a, element.c4322.b])
