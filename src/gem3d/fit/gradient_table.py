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
        # In tensors, so that `enter` can be recorded and replayed (`gem3d.fit.graph`).
        self._block = torch.zeros(1, dtype=torch.int64, device=device)
        self._n_met = torch.ones((), device=device)

    def turn_to(self, block: int) -> bool:
        """Let `enter` be of a block, and say whether that has been met before."""
        before = bool(self.met[block])
        self.met[block] = True
        self._block.fill_(block)
        self._n_met.fill_(int(self.met.sum()))
        return before

    def enter(self, gradient: torch.Tensor, *, met_before: bool) -> torch.Tensor:
        """Take down the `(values,)` gradient of the block turned to; return what to step along, for one block."""
        now = gradient.bfloat16()
        if met_before:
            before = self.latest.index_select(0, self._block)[0].float()
            refined = self.mean + NEWS * (gradient - before)
            self.mean += (now.float() - before) / self._n_met
        else:
            self.mean += (now.float() - self.mean) / self._n_met
            refined = self.mean.clone()
        self.latest.index_copy_(0, self._block, now[None])
        return refined
