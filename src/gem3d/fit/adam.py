"""Adam (Kingma & Ba 2015, Algorithm 1) for a handful of tensors with a step size each.

torch.optim has it too, but its first step imports torch's compiler: two seconds and a tenth of a gigabyte, as much as
a whole fit of a small particle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

EPSILON = 1e-8


class Adam:
    """Descends along `parameter.grad`.

    What changes from step to step lies in tensors, so that a step can be recorded and replayed (`gem3d.fit.graph`).

    Parameters
    ----------
    parameters: leaf tensors on one device; changed in place.
    step_sizes: of each, in its own units.
    betas: decay of the mean gradient and of its mean square.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], step_sizes: Sequence[float], betas: tuple[float, float]
    ) -> None:
        self._parameters, self._step_sizes, self._betas = list(parameters), list(step_sizes), betas
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._mean_squares = [torch.zeros_like(p) for p in self._parameters]
        self._n_steps = 0
        self._along = [torch.zeros((), device=p.device) for p in self._parameters]
        self._bias2 = torch.ones((), device=self._parameters[0].device)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Let the next step be one of `rates` times the step sizes; a parameter whose rate is 0 will stay."""
        self._n_steps += 1
        beta1, beta2 = self._betas
        # The averages start at zero; this makes up for it.
        bias1 = 1 - beta1**self._n_steps
        self._bias2.fill_(1 - beta2**self._n_steps)
        for along, rate, size in zip(self._along, rates, self._step_sizes, strict=True):
            along.fill_(-rate * size / bias1)

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients, of the rates that were set for it."""
        beta1, beta2 = self._betas
        for parameter, along, mean, mean_square in zip(
            self._parameters, self._along, self._means, self._mean_squares, strict=True
        ):
            if parameter.grad is None:
                continue
            mean.lerp_(parameter.grad, 1 - beta1)
            mean_square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            spread = mean_square.div(self._bias2).sqrt_().add_(EPSILON)
            parameter.addcmul_(mean / spread, along)

    def state(self) -> dict[str, torch.Tensor]:
        """The averages by name; with the number of steps, all that `restore` needs."""
        return {
            f"{kind}_{i}": tensor
            for kind, tensors in (("mean", self._means), ("mean_square", self._mean_squares))
            for i, tensor in enumerate(tensors)
        }

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor], n_steps: int) -> None:
        """Go on from the averages of `state` after `n_steps` steps."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._n_steps = n_steps
