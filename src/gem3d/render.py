"""The density query: saved Gaussians to a map of any box, pixel size and region."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from gem3d.errors import SettingsError, warn
from gem3d.gaussians import load_gaussians
from gem3d.maps import Map

LARGEST_BOX = 1500


def render(
    gaussians_file: str | Path,
    *,
    box_size_px: int | None = None,
    pixel_size_A: float | None = None,
    centre_A: tuple[float, float, float] | None = None,
) -> Map:
    """Evaluate saved Gaussians at the voxels of a cube.

    Parameters
    ----------
    gaussians_file: `gaussians.safetensors` of a run.
    box_size_px: voxels along each side; by default as many as the width of the run's maps needs.
    pixel_size_A: voxel size; by default that of the run's maps.
    centre_A: x, y, z of the cube's middle voxel (n//2), in the coordinates in which the first voxel of the
        run's maps is at 0, 0, 0, as ChimeraX shows them; by default the centre of the run's maps.

    Returns
    -------
    The map, its `origin_A` such that it overlays the run's maps.

    Raises
    ------
    SettingsError
        if numbers are out of range.
    MapError
        if the file does not hold Gaussians.
    """
    gaussians, run_box, run_pixel_A = load_gaussians(gaussians_file)
    pixel_A = run_pixel_A if pixel_size_A is None else pixel_size_A
    if not 0 < pixel_A < math.inf:
        raise SettingsError(f"--pixel-size {pixel_A:g}: give a positive number of A")
    box = max(1, round(run_box * run_pixel_A / pixel_A)) if box_size_px is None else box_size_px
    if not 1 <= box <= LARGEST_BOX:
        asked = f"--box-size {box}" if box_size_px is not None else f"--pixel-size {pixel_A:g}"
        raise SettingsError(
            f"{asked}: a map of {box} voxels a side; 1 to {LARGEST_BOX} are allowed, so choose a region with "
            "--box-size and --centre, or larger voxels"
        )
    middle_A = (run_box // 2) * run_pixel_A
    centre = (middle_A,) * 3 if centre_A is None else centre_A
    if not all(map(math.isfinite, centre)):
        raise SettingsError(f"--centre {' '.join(f'{c:g}' for c in centre)}: give three numbers of A")

    moved = replace(gaussians, centres_A=gaussians.centres_A - torch.tensor([c - middle_A for c in centre]))
    with torch.no_grad():
        values = moved.density(box, pixel_A).numpy()
    if not values.any():
        lowest, highest = (gaussians.centres_A + middle_A).aminmax(dim=0)
        spans = ", ".join(f"{a:.0f} to {b:.0f}" for a, b in zip(lowest, highest, strict=True))
        warn(f"no Gaussian reaches this region; their centres lie at x, y, z of {spans} A")
    if pixel_A > 1.5 * run_pixel_A:
        warn(
            f"voxels of {pixel_A:g} A are much larger than the run's {run_pixel_A:g} A: the density is sampled at "
            "their centres, not averaged over them, and fine detail may alias"
        )
    origin = (centre[0] - box // 2 * pixel_A, centre[1] - box // 2 * pixel_A, centre[2] - box // 2 * pixel_A)
    return Map(values, pixel_A, origin)
