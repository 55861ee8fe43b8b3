"""Work shared out over threads, and kernels that give the same bits freshly compiled and from the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gem3d.threads import Steps, available_threads, in_shares, set_threads, two_at_a_time


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    yield
    set_threads(available_threads())


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_every_item_is_done_once(n_threads: int, n: int) -> None:
    set_threads(n_threads)
    done: list[int] = []
    in_shares(lambda begin, end, into: into.extend(range(begin, end)), n, done)
    assert sorted(done) == list(range(n))


def test_all_threads_take_part() -> None:
    """Each waits for the others: with fewer threads this would not end."""
    set_threads(3)
    together = threading.Barrier(3, timeout=20)

    def wait_once(begin: int, end: int) -> None:
        if begin < 3:
            together.wait()

    in_shares(wait_once, 10)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_what_goes_wrong_in_a_share_is_raised(n_threads: int) -> None:
    set_threads(n_threads)

    def fail(begin: int, end: int) -> None:
        raise IndexError("share")

    with pytest.raises(IndexError, match="share"):
        in_shares(fail, 100)


KERNELS = """
import hashlib
import numpy as np
import torch
from gem3d.kernels.compare_slices import compare_slices, volume_shape
from gem3d.kernels.insert_slices import accumulator_shape, half_plane_weight, insert_slices, weigh_slices
from gem3d.kernels.project import project
from gem3d.kernels.voxelize import voxelize
from gem3d.particles import normalise_background

g = torch.Generator().manual_seed(0)
n = 300
axes = torch.linalg.qr(torch.randn(n, 3, 3, generator=g))[0]
full = axes @ torch.diag_embed(torch.rand(n, 3, generator=g) * 9 + 0.5) @ axes.mT
six = torch.stack([full[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], dim=1)
rotations, _ = torch.linalg.qr(torch.randn(5, 3, 3, generator=g))
masses, centres = torch.rand(n, generator=g), torch.randn(n, 3, generator=g) * 6
shifts = torch.randn(5, 2, generator=g)
leaves = [masses, centres, six, rotations, shifts]
for leaf in leaves:
    leaf.requires_grad_()
found = [project(*leaves, 32, 1e-3)]
found[0].square().sum().backward()
found += [leaf.grad for leaf in leaves]
for leaf in leaves:
    leaf.grad = None
found.append(voxelize(leaves[0], leaves[1] + 12, leaves[2], (24, 24, 24)))
found[-1].square().sum().backward()
found += [leaf.grad for leaf in leaves[:3]]
images = torch.randn(5, 32, 32, generator=g).numpy()
normalise_background(images, 12.0)
ctf = torch.rand(5, 15, generator=g, dtype=torch.float64)
weight = half_plane_weight(torch.ones(16))
weighted = weigh_slices(torch.fft.rfft2(torch.from_numpy(images)), ctf, torch.zeros(5, 2), weight, 0.1)
accumulator = torch.zeros(accumulator_shape(15))
insert_slices(accumulator, weighted, rotations.detach())
volume = torch.randn(volume_shape(15), generator=g)
compared = compare_slices(
    volume, torch.fft.rfft2(torch.from_numpy(images)), rotations.detach(), torch.zeros(5, 2), ctf,
    torch.ones(5), torch.ones(5), weight, 0.1,
)
found += [compared.loss, compared.gradient, compared.normal]
for tensor in (*found, torch.from_numpy(images), weighted, accumulator):
    print(hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_freshly_compiled_kernels_give_the_bits_of_cached_ones(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-W", "error", "-c", KERNELS],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc")), "nothing was compiled"
    assert first == second


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_two_at_a_time_does_every_item_once(n_threads: int) -> None:
    set_threads(n_threads)
    done: list[int] = []
    two_at_a_time(done.append, range(100))
    assert sorted(done) == list(range(100))
    assert torch.get_num_threads() == n_threads


def test_two_at_a_time_are_two() -> None:
    """Each waits for the other; kernels within do not wait for threads that are taken."""
    set_threads(2)
    together = threading.Barrier(2, timeout=20)
    done: list[int] = []

    def work(_: int) -> None:
        together.wait()
        in_shares(lambda begin, end: done.extend(range(begin, end)), 10)

    two_at_a_time(work, range(2))
    assert sorted(done) == sorted(2 * list(range(10)))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_in_one_of_two_ends_the_work(n_threads: int) -> None:
    set_threads(n_threads)
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        two_at_a_time(work, range(100))
    assert len(done) <= n_threads
    assert torch.get_num_threads() == n_threads


def test_steps_count_up_to_all_of_the_work() -> None:
    set_threads(2)
    said: list[tuple[int, int]] = []
    steps = Steps(lambda done, total: said.append((done, total)), 45)
    two_at_a_time(steps.done, range(10))
    assert [total for _, total in said] == [45] * 10
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert said[-1][0] == 45
