"""A map filtered to its local resolution: each band weighted, at each place, by its regression on the truth."""

from __future__ import annotations

import numpy as np
import torch

from gem3d.assess.band_fields import Band, BandFields, Window
from gem3d.assess.calibration import LARGEST_REGRESSION_WEIGHT
from gem3d.assess.local_curves import LocalCurves
from gem3d.assess.local_resolution import crossing_shells, known_everywhere, to_voxels
from gem3d.assess.shells import FloatVolume
from gem3d.threads import two_at_a_time


def filter_locally(
    volume: FloatVolume,
    mask: FloatVolume,
    curves: LocalCurves,
    pixel_size_A: float,
    bfactor_A2: float | None,
) -> FloatVolume:
    """Sharpen a map, and give each band at each place its weight there; none beyond the local resolution.

    The map is cut into bands that sum to it: triangles over the centres of the curves' bands, everything below the
    first in the first. The weights of one band are interpolated between the points of the grid.

    Parameters
    ----------
    volume: `(D, D, D)` map whose regression the curves hold, unfiltered.
    mask: `(D, D, D)` that the curves were computed under; the result is multiplied by it, as nothing is known beyond.
    pixel_size_A: A per voxel.
    bfactor_A2: decay to undo, see `gem3d.assess.sharpening`; None for none.
    """
    box_size = len(volume)
    centres = curves.centres_shells
    spacing = float(centres[1] - centres[0])
    limit = known_everywhere(crossing_shells(curves), curves)
    window = Window.around(mask)
    fields = BandFields([volume], window, 0, full_grid=True)
    weights = known_everywhere(curves.weight.astype(np.float64), curves)
    bfactor_shells2 = (bfactor_A2 or 0.0) / (box_size * pixel_size_A) ** 2
    # Two sums, so that two threads can add at the same time, and always in the same order.
    sums = torch.zeros(2, *(stop - start for start, stop in (window.z, window.y, window.x)))

    def add_every_other_band(first: int) -> None:
        grid = fields.grid(box_size)
        for i in range(first, len(centres), 2):
            centre = float(centres[i])
            # The bands overlap, so that a ramp one band wide is a soft edge.
            weight = np.clip(weights[i], 0, LARGEST_REGRESSION_WEIGHT) * np.clip(
                (limit - centre) / spacing + 0.5, 0, 1
            )
            if not weight.any():
                continue
            everywhere = torch.from_numpy(to_voxels(weight, curves, window))
            band = _triangle(centre, spacing, i == 0, bfactor_shells2)
            for planes, values in grid.planes(band, centre + spacing):
                sums[first, planes].addcmul_(values[0], everywhere[planes])

    two_at_a_time(add_every_other_band, (0, 1))
    filtered = np.zeros_like(volume)
    filtered[window.voxels] = sums.sum(dim=0).numpy() * mask[window.voxels]
    return filtered


def _triangle(centre: float, spacing: float, is_first: bool, bfactor_shells2: float) -> Band:
    def band(radius: torch.Tensor) -> torch.Tensor:
        rise = torch.ones_like(radius) if is_first else (radius - centre) / spacing + 1
        fall = (centre - radius) / spacing + 1
        sharpened = torch.exp(bfactor_shells2 / 4 * radius**2)
        return torch.minimum(rise, fall).clamp(0, 1) * sharpened

    return band
