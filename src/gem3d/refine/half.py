"""Refining the particles of one half set against the map of that half, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gem3d.refine.estimates import CONTRAST, DEFOCUS, SHIFT, TURN, Estimates
from gem3d.refine.images import ImagesInHand, ImagesOfHalf
from gem3d.refine.prior import Marginal, estimate_widths, group_means, marginal
from gem3d.refine.search import search_and_refine
from gem3d.refine.step import Refined, refine_batch
from gem3d.settings import RefineSettings

# The widths of the prior are found on so many particles, in so many passes over them at most, in the first round and
# in later ones.
SAMPLE_SIZE = 1000
WIDTH_PASSES, LATER_WIDTH_PASSES = 6, 2
WIDTH_TOLERANCE = 0.05
# Where a search for the widths begins; it comes down or goes up from there.
FIRST_ANGLE_DEG, FIRST_SHIFT_PX, FIRST_DEFOCUS_A, FIRST_CONTRAST = 3.0, 1.0, 300.0, 0.2
_KINDS = {"defocus": DEFOCUS, "contrast": CONTRAST}


@dataclass(frozen=True)
class HalfState:
    """What a refinement knows of the particles of one half.

    Attributes
    ----------
    start: where the prior is centred: pose and shift of the particle file; no change of defocus and contrast 1, or
        those of the particle's micrograph.
    estimates: the present ones.
    precision: `(7,)` of the prior; infinite where nothing is refined.
    gain: `(n,)` log likelihood above that at the particle file's values, both against the last map, before values of
        micrographs were set.
    width: `(n, 4)` standard deviations of the posterior: turn (radians, of all three axes), shift (pixels, of both),
        defocus (A), contrast; 0 where nothing is refined.
    """

    start: Estimates
    estimates: Estimates
    precision: torch.Tensor
    gain: torch.Tensor
    width: torch.Tensor

    @classmethod
    def begin(cls, start: Estimates, settings: RefineSettings, pixel_size_A: float) -> HalfState:
        """Before the first pass."""
        n = len(start)
        return cls(
            start,
            start.copy(),
            first_precision(settings, pixel_size_A),
            torch.zeros(n, dtype=torch.float64),
            torch.zeros(n, 4, dtype=torch.float64),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name: what a checkpoint holds."""
        own = {name: getattr(self, name) for name in ("precision", "gain", "width")}
        for name in ("start", "estimates"):
            own |= {f"{name}.{key}": value for key, value in vars(getattr(self, name)).items()}
        return own

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor]) -> HalfState:
        """What `tensors` gave."""

        def estimates(name: str) -> Estimates:
            return Estimates(**{k.split(".")[1]: v for k, v in tensors.items() if k.startswith(f"{name}.")})

        return cls(
            estimates("start"),
            estimates("estimates"),
            tensors["precision"],
            tensors["gain"],
            tensors["width"],
        )


def first_precision(settings: RefineSettings, pixel_size_A: float) -> torch.Tensor:
    """`(7,)` of the prior before anything is known, or as the user has it."""

    def or_first(given: float | str, first: float) -> float:
        return first if isinstance(given, str) else given

    angle_deg = or_first(settings.sigma_angle_deg, max(FIRST_ANGLE_DEG, settings.search_deg / 2))
    widths = torch.empty(7, dtype=torch.float64)
    widths[TURN] = math.radians(angle_deg)
    widths[SHIFT] = or_first(settings.sigma_shift_A, FIRST_SHIFT_PX * pixel_size_A) / pixel_size_A
    widths[DEFOCUS] = (
        or_first(settings.sigma_defocus_A, FIRST_DEFOCUS_A) if settings.defocus == "particle" else 0
    )
    widths[CONTRAST] = FIRST_CONTRAST if settings.contrast == "particle" else 0
    return widths.square().reciprocal()


def leaves_defocus(settings: RefineSettings, *, first: bool) -> bool:
    """Whether a round leaves a defocus that is to be refined for the next ones.

    The first map is the worst: what its faults pull a defocus to would be in the next map, and stay.
    """
    return first and settings.rounds > 1 and settings.defocus != "fixed"


def refine_half(
    images: ImagesOfHalf,
    state: HalfState,
    micrographs: NDArray[np.int64],
    settings: RefineSettings,
    rng: np.random.Generator,
    *,
    first: bool,
    pixel_size_A: float,
    report: Callable[[int, int, str], None] | None = None,
) -> tuple[HalfState, int]:
    """One pass over the images of a half.

    Parameters
    ----------
    micrographs: `(n,)` of each particle.
    rng: chooses the sample that tells the widths of the prior.
    first: the first round, which looks further away first (`settings.search_deg`) and knows no widths yet.

    Returns
    -------
    The new state, and how many slices were compared with images.
    """
    angle_deg = settings.search_deg if first else 0.0
    comparisons = 0

    def refined(places: NDArray[np.int64], precision: torch.Tensor) -> Iterator[tuple[ImagesInHand, Refined]]:
        nonlocal comparisons
        for batch in images.batches(places):
            begin, start = state.estimates.select(batch.where), state.start.select(batch.where)
            if angle_deg > 0:
                found = search_and_refine(batch, begin, start, precision, angle_deg)
            else:
                found = refine_batch(batch.compare, begin, start, precision)
            comparisons += found.comparisons
            yield batch, found

    passes = WIDTH_PASSES if first else LATER_WIDTH_PASSES
    wanted = state.precision.clone()
    without_defocus = leaves_defocus(settings, first=first)
    if without_defocus:
        wanted[DEFOCUS] = math.inf
    precision = _with_widths(wanted, refined, len(images), settings, rng, passes)
    n = len(images)
    estimates = state.estimates.copy()
    gain, width = torch.zeros(n, dtype=torch.float64), torch.zeros(n, 4, dtype=torch.float64)
    alone = {
        name: Marginal(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
        for name in _KINDS
    }
    done = 0  # particles whose images cannot be used stay as they are, and know nothing
    for batch, found in refined(np.arange(n), precision):
        where = batch.where
        estimates.put(where, found.estimates)
        given = Estimates.start(*(getattr(state.start, name)[where] for name in ("rotations", "shifts_px")))
        gain[where] = batch.compare(torch.arange(len(where)), given).loss - found.loss
        width[where] = posterior_widths(found, precision)
        for name, kind in _KINDS.items():
            one = marginal(kind.start, found.distance, found.gradient, found.normal, precision)
            alone[name].value[where], alone[name].information[where] = one.value, one.information
        done += len(where)
        if report is not None:
            report(done, n, "")
    if report is not None:
        report(n, n, "")
    if without_defocus:
        precision[DEFOCUS] = state.precision[DEFOCUS]
    estimates.contrasts.clamp_(min=0)  # what looks like its own negative counts for nothing
    new = HalfState(state.start, estimates, precision, gain, width)
    if without_defocus:
        del alone["defocus"]
    return _with_common_values(new, alone, torch.from_numpy(micrographs), settings), comparisons


def posterior_widths(found: Refined, precision: torch.Tensor) -> torch.Tensor:
    """`(n, 4)` standard deviations from the inverse of the Gauss-Newton matrix with the prior."""
    free = torch.isfinite(precision)
    matrix = found.normal[:, free][:, :, free] + torch.diag(precision[free])
    root = matrix.diagonal(dim1=1, dim2=2).rsqrt()
    inverse = torch.linalg.inv(matrix * root[:, :, None] * root[:, None, :])
    variance = torch.zeros_like(found.distance)
    variance[:, free] = inverse.diagonal(dim1=1, dim2=2) * root.square()
    return torch.stack(
        [variance[:, kind].sum(1).clamp(min=0).sqrt() for kind in (TURN, SHIFT, DEFOCUS, CONTRAST)], dim=1
    )


def _with_widths(
    precision: torch.Tensor,
    refined: Callable[[NDArray[np.int64], torch.Tensor], Iterator[tuple[ImagesInHand, Refined]]],
    n: int,
    settings: RefineSettings,
    rng: np.random.Generator,
    passes: int,
) -> torch.Tensor:
    """The widths that the user leaves open, from a sample of the half."""
    open_ones = torch.isfinite(precision)
    for kind, given in (
        (TURN, settings.sigma_angle_deg),
        (SHIFT, settings.sigma_shift_A),
        (DEFOCUS, settings.sigma_defocus_A),
    ):
        if given != "auto":
            open_ones[kind] = False
    if not open_ones.any():
        return precision
    sample = np.sort(rng.choice(n, min(n, SAMPLE_SIZE), replace=False))
    for _ in range(passes):
        found = [result for _, result in refined(sample, precision)]
        distance, gradient, normal = (
            torch.cat([getattr(f, name) for f in found]) for name in ("distance", "gradient", "normal")
        )
        before, precision = precision, estimate_widths(distance, gradient, normal, precision, ~open_ones)
        if float((precision / before - 1)[open_ones].abs().max()) < WIDTH_TOLERANCE:
            break
    return precision


def _with_common_values(
    state: HalfState, alone: dict[str, Marginal], micrographs: torch.Tensor, settings: RefineSettings
) -> HalfState:
    """Move the centres of the priors to what the particles of a micrograph have in common."""
    start, estimates = (state.start.copy(), state.estimates.copy())
    for name, told in alone.items():
        how, kind = getattr(settings, name), _KINDS[name]
        if how == "fixed":
            continue
        values = {"defocus": start.defocus_A, "contrast": start.contrasts}[name]
        centre = 1.0 if name == "contrast" else 0.0
        width = float(state.precision[kind.start].rsqrt())
        # From the common centre instead of that of the round before.
        found = Marginal(told.value + values - centre, told.information)
        values.copy_(centre + group_means(found, micrographs, width))
        if how == "micrograph":
            {"defocus": estimates.defocus_A, "contrast": estimates.contrasts}[name].copy_(values)
    # What all have in common is the map's.
    common_A = estimates.defocus_A.mean()
    estimates.defocus_A.sub_(common_A)
    start.defocus_A.sub_(common_A)
    common = estimates.contrasts.mean()
    estimates.contrasts.div_(common)
    start.contrasts.div_(common)
    return HalfState(start, estimates, state.precision, state.gain, state.width)
