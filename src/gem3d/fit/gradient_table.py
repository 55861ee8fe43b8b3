"""The latest gradient of every block of images: what is known of the whole set when one block is met.

The gradient of a block is its share of the gradient of the whole set, and noise. The noise is that of the images: it
is the same, nearly, when the block is met again. So what has changed in a block's gradient since it was last met has
little of it, and neither has

    mean over all blocks of their latest gradients + c (gradient of the block now - what it was)

c = 1 is SAGA (Defazio, Bach & Lacoste-Julien 2014, arXiv 1407.0202), whose expectation is right; c = 1 / blocks is
SAG (Le Roux, Schmidt & Bach 2012, arXiv 1202.6258), with the least noise but an epoch late. Between them lies what
serves Gaussians best: those that have moved meet the noise of other pixels, so that the differences are not small.
"""

from __future__ import annotations

import torch

# c above.
NEWS = 0.25


class GradientTable:
    """Latest gradients of blocks of images.

    Parameters
    ----------
    device: of the gradients.

    Attributes
    ----------
    latest: `(blocks, values)` bfloat16: its rounding, 0.4 %, is far below the noise.
    mean: `(values,)` over the blocks met.
    met: `(blocks,)` bool, on the host.
    """

    def __init__(self, n_blocks: int, n_values: int, device: torch.device | str = "cpu") -> None:
        self.latest = torch.zeros(n_blocks, n_values, dtype=torch.bfloat16, device=device)
        self.mean = torch.zeros(n_values, device=device)
        self.met = torch.zeros(n_blocks, dtype=torch.bool)

    def enter(self, block: int, gradient: torch.Tensor) -> torch.Tensor:
        """Take down a block's gradient, `(values,)`, and return that to step along, for one block."""
        before, now = self.latest[block].float(), gradient.bfloat16()
        if self.met[block]:
            refined = self.mean + NEWS * (gradient - before)
            self.mean += (now.float() - before) / self.met.sum()
        else:
            self.met[block] = True
            self.mean += (now.float() - self.mean) / self.met.sum()
            refined = self.mean.clone()
        self.latest[block] = now
        return refined
