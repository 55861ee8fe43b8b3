"""Where a job computes at the moment.

The device is chosen by what the job is reckoned to need (`gem3d.device`). Another program may take memory meanwhile,
and a reckoning can be wrong: then the work at hand is done again in less memory, instead of being lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from gem3d import ranks
from gem3d.device import CPU, Device, choose_device
from gem3d.errors import warn
from gem3d.settings import ComputeSettings

T = TypeVar("T")


class Place:
    """A device, and what to turn to where its memory does not suffice.

    Parameters
    ----------
    may_use_cpu: the user left the choice.

    Attributes
    ----------
    device: at the moment.
    """

    def __init__(self, device: Device = CPU, *, may_use_cpu: bool = False) -> None:
        self.device, self._may_use_cpu = device, may_use_cpu

    def compute(self, work: Callable[[Device], T], *, with_others: bool = False) -> T:
        """Do work on the device; begin it anew in less memory, from then on for the whole job, where that runs out.

        Parameters
        ----------
        with_others: all processes take part in the work: none can begin it anew on its own.

        Raises
        ------
        RuntimeError: nothing needs less memory.
        """
        while True:
            try:
                return work(self.device)
            except RuntimeError as error:
                smaller = self._smaller()
                if (
                    smaller is None
                    or not is_out_of_gpu_memory(error)
                    or (with_others and ranks.n_ranks() > 1)
                ):
                    raise
                reason = str(error).split("\n")[0]
            # Only now are the tensors of the failed attempt gone, with the error that held on to its frames.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            way = "with one half set at a time" if smaller.name == "cuda" else "on the CPU"
            warn(f"the memory of the GPU does not suffice after all: this is begun anew {way} ({reason})")
            self.device = smaller

    def _smaller(self) -> Device | None:
        """What needs less of the GPU's memory."""
        if self.device.name == "cuda" and self.device.both_halves:
            return Device("cuda", both_halves=False)
        return CPU if self.device.name == "cuda" and self._may_use_cpu else None


def settle_place(
    settings: ComputeSettings, box_size: int, pixel_size_A: float, last_shell: int, diameter_A: float
) -> Place:
    """The place that the settings ask for, made ready on all ranks; parameters and errors as of `choose_device`."""
    chosen = choose_device(
        settings.device,
        box_size=box_size,
        pixel_size_A=pixel_size_A,
        last_shell=last_shell,
        diameter_A=diameter_A,
    )
    if settings.deterministic and chosen.name == "cuda":
        ranks.together(torch.use_deterministic_algorithms, True)
    return Place(chosen, may_use_cpu=settings.device == "auto")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the host or of a GPU."""
    # torch raises a plain RuntimeError for the host's.
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or is_out_of_gpu_memory(error)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU did not suffice; libraries of CUDA have their own ways to say so."""
    signs = ("CUDA error: out of memory", "CUFFT_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
