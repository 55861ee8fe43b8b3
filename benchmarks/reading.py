"""How fast images come from the page cache into plain memory, by one thread and by two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import mrcfile
import numpy as np

from context import Context
from gem3d.particles.mrc_stack import read_stack_header
from gem3d.particles.parallel_reader import ParallelReader
from registry import Measurement, benchmark

BOX_PX, BATCH = 256, 512
TYPES = {"float32": np.float32, "float16": np.float16}


@benchmark("reading", "images from the page cache, GB/s and images/s")
def reading(context: Context) -> Iterator[Measurement]:
    folder = context.work / "reading"
    folder.mkdir(parents=True, exist_ok=True)
    n_images = context.size(4096, 512)
    for name, dtype in TYPES.items():
        path = folder / f"{name}.mrcs"
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(np.random.default_rng(0).normal(size=(n_images, BOX_PX, BOX_PX)).astype(dtype))
            mrc.set_image_stack()
        for n_threads in (1, 2):
            seconds = min(_seconds(path, n_threads, dtype) for _ in range(5))
            n_bytes = n_images * BOX_PX**2 * np.dtype(dtype).itemsize
            case = f"{name}, {n_threads} thread{'s' if n_threads > 1 else ''}"
            yield Measurement("Reading from the page cache", case, "GB/s", n_bytes / 1e9 / seconds)
            yield Measurement(
                "Reading from the page cache", case, "images of 256 px a second", n_images / seconds
            )
        path.unlink()


def _seconds(path: Path, n_threads: int, dtype: type[np.generic]) -> float:
    """For all images of a stack, batch by batch into the same memory, as they are stored."""
    stack = read_stack_header(path)
    memory = np.zeros((BATCH, BOX_PX, BOX_PX), dtype)
    index = np.arange(stack.n_images, dtype=np.int32)
    with ParallelReader({0: stack}, n_threads) as reader:
        begin_s = time.perf_counter()
        for begin in range(0, stack.n_images, BATCH):
            some = index[begin : begin + BATCH]
            reader.read(np.zeros_like(some), some, memory[: len(some)])
        return time.perf_counter() - begin_s
