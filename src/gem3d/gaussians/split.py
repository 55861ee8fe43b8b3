"""Growing a model: every Gaussian becomes two."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from gem3d.gaussians.model import Gaussians, inverse_softplus

# Distance of the two from their parent's centre, in standard deviations along its longest axis.
OFFSET = 0.6


def split(gaussians: Gaussians, min_scale_A: float) -> Gaussians:
    """Two Gaussians for each, side by side along its longest axis, with half its mass each.

    Mass, centre and covariance of a pair are those of its parent, unless its longest axis is already near
    `min_scale_A`: then the pair is a little longer, as two equal Gaussians in one place would stay equal.

    Returns `2 n` Gaussians; the n-th and the 2 n-th stem from one parent.
    """
    n = torch.arange(len(gaussians))
    longest = gaussians.log_scales.argmax(dim=1)
    axis = gaussians.rotations()[n, :, longest]
    scale = gaussians.log_scales[n, longest].exp()
    narrowed = torch.maximum(scale * (1 - OFFSET**2) ** 0.5, scale.new_tensor(min_scale_A)).minimum(scale)
    offset = (scale**2 - narrowed**2).clamp(min=0).sqrt().clamp(min=0.2 * min_scale_A)
    log_scales = gaussians.log_scales.clone()
    log_scales[n, longest] = narrowed.log()
    raw_masses = inverse_softplus(0.5 * softplus(gaussians.raw_masses))
    shift = offset[:, None] * axis
    return gaussians.replaced(
        {
            "centres_A": torch.cat([gaussians.centres_A + shift, gaussians.centres_A - shift]),
            "log_scales": log_scales.repeat(2, 1),
            "quaternions": gaussians.quaternions.repeat(2, 1),
            "raw_masses": raw_masses.repeat(2),
        }
    )
