"""What an inspection finds: the values that `gem3d inspect` prints, or writes as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from gem3d.forecast import Forecast


@dataclass(frozen=True)
class Range:
    """Of the values of all particles."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class OpticsSummary:
    """One optics group; a box size of 0 is unknown, and so are values that are None."""

    name: str
    n_particles: int
    pixel_size_A: float
    box_size_px: int
    voltage_kV: float | None
    spherical_aberration_mm: float | None
    amplitude_contrast: float | None


@dataclass(frozen=True)
class GridSummary:
    """What all images are taken to, and how many of them are stored on another grid."""

    box_size_px: int
    pixel_size_A: float
    n_resampled: int


@dataclass(frozen=True)
class StacksSummary:
    """The image stacks that particles refer to.

    suggested_datadir: where the missing ones would be found, n_found_there of them.
    """

    n_stacks: int
    n_missing: int
    first_missing: str | None
    suggested_datadir: str | None
    n_found_there: int


@dataclass(frozen=True)
class OrientationsSummary:
    """See `gem3d.assess.orientations`; unseen_share is of the directions of Fourier space."""

    n_views: int
    efficiency: float
    scf: float
    unseen_share: float
    empty_bins_share: float
    expected_empty_bins_share: float


@dataclass(frozen=True)
class SampleSummary:
    """Images that were looked at.

    excluded: number of images that cannot be used for each reason.
    background_mean, background_sd: of the images as stored; medians.
    contrast_sign: 1 where particles are bright, -1 where they are dark, 0 where the images cannot tell.
    """

    n_images: int
    excluded: dict[str, int]
    background_mean: float | None
    background_sd: float | None
    contrast_sign: int
    contrast_correlation: float
    contrast_standard_error: float


@dataclass(frozen=True)
class Inspection:
    """What there is to say of a particle set; None where it cannot be told.

    Attributes
    ----------
    n_micrographs: told apart by the file.
    half1, half2: particles of each half set, drawn where the file does not say.
    defocus_A: mean of U and V; None without a CTF.
    shift_A: length.
    problems: what a reconstruction would refuse; warnings: what it would go on with.
    """

    particle_file: str
    n_particles: int | None = None
    n_micrographs: int | None = None
    optics: tuple[OpticsSummary, ...] = ()
    grid: GridSummary | None = None
    half1: int | None = None
    half2: int | None = None
    halves_drawn: bool | None = None
    defocus_A: Range | None = None
    shift_A: Range | None = None
    stacks: StacksSummary | None = None
    orientations: OrientationsSummary | None = None
    sample: SampleSummary | None = None
    forecast: Forecast | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
