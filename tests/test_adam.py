"""Our Adam against torch's."""

import pytest
import torch

from gem3d.fit.adam import Adam


def test_equals_torch():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(7, 3, generator=generator), torch.randn(5, generator=generator)]
    goals = [torch.randn_like(t) for t in start]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
    adam = Adam(ours, [0.1, 0.02], (0.6, 0.98))
    peer = torch.optim.Adam(
        [{"params": [t], "lr": lr} for t, lr in zip(theirs, (0.1, 0.02), strict=True)], betas=(0.6, 0.98)
    )
    for step in range(12):
        rate = 1 / (1 + step)
        for group, lr in zip(peer.param_groups, (0.1, 0.02), strict=True):
            group["lr"] = rate * lr
        for tensors in (ours, theirs):
            sum(((t - g) ** 4).sum() for t, g in zip(tensors, goals, strict=True)).backward()
        adam.set_rates([rate, rate])
        adam.step()
        for tensor in ours:
            tensor.grad = None
        peer.step()
        peer.zero_grad()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_parameter_without_gradient_stays():
    kept = torch.ones(3, requires_grad=True)
    adam = Adam([kept], [0.1], (0.9, 0.99))
    adam.set_rates([1.0])
    adam.step()
    assert kept.detach().tolist() == pytest.approx([1.0] * 3)
