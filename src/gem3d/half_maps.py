"""Half maps from particle images: the part of the job that a refinement does again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.assess import automatic_mask, calibrated_fsc
from gem3d.assess.shells import FloatVolume
from gem3d.device import Device
from gem3d.fit.accumulate import accumulate
from gem3d.fit.checkpoint import CheckpointOf
from gem3d.fit.descent import Shapes
from gem3d.fit.half_sets import HalfSet
from gem3d.fit.methods import FromEquations, FromImages, Method
from gem3d.fit.normal_equations import LinearMap
from gem3d.fit.observations import Observations
from gem3d.fit.result import Fit
from gem3d.fit.start import Start, start_of_half
from gem3d.gaussians import Gaussians
from gem3d.place import Place
from gem3d.progress import Reporter
from gem3d.refine.result import HalfMaps
from gem3d.settings import ReconstructSettings
from gem3d.summary import describe_rounds


@dataclass(frozen=True)
class Job:
    """What a run has settled before it reads an image.

    Attributes
    ----------
    halves: `(n,)` half set of each particle.
    last_shell: last Fourier shell to use.
    diameter_A: of the sphere that holds the particle.
    mask: for measuring, where the user gave one.
    place: where to compute.
    """

    settings: ReconstructSettings
    reporter: Reporter
    halves: NDArray[np.int8]
    last_shell: int
    diameter_A: float
    mask: FloatVolume | None
    place: Place = field(default_factory=Place)

    @property
    def shapes(self) -> Shapes:
        """What the settings leave free of a Gaussian's shape."""
        return Shapes(rotations=self.settings.freeze != "rotations", isotropic=self.settings.isotropic)

    def mask_of(self, linear: tuple[FloatVolume, FloatVolume], pixel_size_A: float) -> FloatVolume:
        """The mask to measure in: the user's, or one drawn from the mean of the linear half maps."""
        if self.mask is not None:
            return self.mask
        mean = np.asarray((linear[0] + linear[1]) / 2, dtype=np.float32)
        return automatic_mask(mean, pixel_size_A, particle_diameter_A=self.settings.particle_diameter_A)


def read_images(
    job: Job, observations: Observations, checkpoint_of: CheckpointOf, prefix: str = ""
) -> tuple[tuple[LinearMap, LinearMap], Method]:
    """Linear maps of both halves, and the method that fits them, with all that it keeps of the images.

    Parameters
    ----------
    checkpoint_of: gives the checkpoint of a stage, from which a killed run goes on; None for none.
    prefix: of the names of the stages.
    """
    return job.place.compute(
        partial(_read_images, job, observations, checkpoint_of, prefix), with_others=True
    )


def _read_images(
    job: Job, observations: Observations, checkpoint_of: CheckpointOf, prefix: str, device: Device
) -> tuple[tuple[LinearMap, LinearMap], Method]:
    settings, reporter, seed = job.settings, job.reporter, job.settings.seed
    if settings.fit == "volume" and device.both_halves:
        with reporter.stage(f"{prefix}accumulate", "images") as report:
            sets = accumulate(
                observations,
                job.halves,
                seed=seed,
                radius=job.last_shell,
                device=device.of_tensors,
                checkpoint=checkpoint_of("accumulate"),
                progress=report,
            )
        return from_equations(job, sets, checkpoint_of, prefix)

    # One half after the other takes half the memory.
    maps, sets_of_halves, held_out, noise_power = [], [], [], []
    for number in (1, 2):
        with reporter.stage(f"{prefix}accumulate half {number}", "images") as report:
            half = accumulate(
                observations,
                job.halves,
                seed=seed,
                wanted=(number,),
                radius=job.last_shell,
                device=device.of_tensors,
                checkpoint=checkpoint_of(f"accumulate{number}"),
                progress=report,
            )[0]
            maps.append(half.linear_map())
            held_out.append(half.held_out.to("cpu"))
            noise_power.append(half.noise_power)
            if settings.fit == "volume":
                sets_of_halves.append(half.to("cpu"))
            del half  # of the particles trained on, training needs no more than the linear map
    both = maps[0], maps[1]
    if settings.fit == "volume":
        return both, FromEquations(sets_of_halves, job.shapes, checkpoint_of, job.place)
    return both, FromImages(
        held_out,
        noise_power,
        job.shapes,
        observations,
        job.halves,
        seed=seed,
        epochs=None if settings.epochs == "auto" else settings.epochs,
        checkpoint_of=checkpoint_of,
        place=job.place,
    )


def from_equations(
    job: Job, sets: Sequence[HalfSet], checkpoint_of: CheckpointOf, prefix: str = ""
) -> tuple[tuple[LinearMap, LinearMap], Method]:
    """The same, of the normal equations of both halves."""
    with job.reporter.stage(f"{prefix}linear maps"):
        one, other = (half.linear_map() for half in sets)
    # They wait on the host for their fit: a GPU is not to hold those of both halves and a fit as well.
    on_host = [half.to("cpu") for half in sets]
    return (one, other), FromEquations(on_host, job.shapes, checkpoint_of, job.place)


def fit_halves(
    job: Job,
    method: Method,
    linear: tuple[FloatVolume, FloatVolume],
    prefix: str = "",
    keep: Callable[[int, FloatVolume], None] = lambda number, values: None,
) -> tuple[tuple[Fit, Fit], tuple[FloatVolume, FloatVolume]]:
    """Fit each half on its own; `keep` is called with each half's number and map as soon as it is there."""

    def start_of(number: int) -> Start:
        return start_of_half(
            linear[number - 1],
            method.held_out[number - 1],
            job.diameter_A,
            np.random.default_rng([job.settings.seed, number]),
            n_gaussians=job.settings.gaussians,
            init=job.settings.start,
            spread=method.spread,
        )

    both = None
    if method.fits_both:
        with job.reporter.stage(f"{prefix}fit halves", method.unit) as report:
            both = method.fit_both([start_of(1), start_of(2)], report)
    fits: list[Fit] = []
    maps: list[FloatVolume] = []
    for number in (1, 2):
        if both is not None:
            fits.append(both[number - 1])
        else:
            with job.reporter.stage(f"{prefix}fit half {number}", method.unit) as report:
                fits.append(method.fit_half(number, start_of(number), report))
        job.reporter.log.write(f"{prefix}fit half {number}: {describe_rounds(fits[-1])}")
        maps.append(density_of(fits[-1].gaussians, len(linear[0]), method.held_out[0].pixel_size_A))
        keep(number, maps[-1])
    return (fits[0], fits[1]), (maps[0], maps[1])


def maps_of_round(
    job: Job,
    observations: Observations,
    name: str,
    checkpoint_of: CheckpointOf,
    images_were_read: Callable[[], None],
) -> HalfMaps:
    """Half maps to refine particles against, judged: always by `--fit volume`, the faster and better way."""
    job = replace(job, settings=replace(job.settings, fit="volume", init="auto", epochs="auto"))
    linear_maps, method = read_images(job, observations, checkpoint_of, f"{name}, ")
    images_were_read()
    linear = (linear_maps[0].values, linear_maps[1].values)
    pixel_size_A = observations.pixel_size_A
    _, maps = fit_halves(job, method, linear, f"{name}, ")
    with job.reporter.stage(f"{name}, assess") as report:
        calibrated = calibrated_fsc(
            *maps,
            *linear,
            job.mask_of(linear, pixel_size_A),
            pixel_size_A=pixel_size_A,
            particle_diameter_A=job.settings.particle_diameter_A,
            last_shell=job.last_shell,
            progress=report,
        )
    assert isinstance(method, FromEquations)
    return HalfMaps(maps, method.noise_power, calibrated)


def density_of(gaussians: Gaussians, box_size: int, pixel_size_A: float) -> FloatVolume:
    """The map of some Gaussians on the grid of the images."""
    with torch.no_grad():
        density: FloatVolume = gaussians.density(box_size, pixel_size_A).numpy()
    return density
