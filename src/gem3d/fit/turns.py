"""Small changes of poses as rotation vectors, differentiable: what a refinement of poses descends along."""

from __future__ import annotations

import torch


def turned(rotations: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Poses turned in the camera frame: exp([v]x) A, whose derivative at v = 0 is [dv]x A.

    With `gem3d.kernels.project.project` this gives the gradient of a loss with respect to each image's rotation
    vector.

    Parameters
    ----------
    rotations: `(b, 3, 3)` poses A.
    turns: `(b, 3)` rotation vectors v in radians: axis times angle.

    Returns
    -------
    `(b, 3, 3)`
    """
    zero = torch.zeros_like(turns[:, 0])
    x, y, z = turns.unbind(1)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    cross = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    moved: torch.Tensor = torch.linalg.matrix_exp(cross) @ rotations
    return moved
