"""What was measured: poses, shifts, optics, half sets and where each image lies."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d.optics import N_GAMMA_COEFFICIENTS, N_PHASE_COEFFICIENTS, NO_MAGNIFICATION


@dataclass(frozen=True)
class OpticsGroup:
    """What the images of one optics group share.

    Attributes
    ----------
    phase_coefficients: of the phase that antisymmetric aberrations give, see `gem3d.optics.antisymmetric_phase`.
    gamma_coefficients: what symmetric aberrations add to the first nine of `gem3d.optics.ctf_coefficients`.
    magnification: (xx, xy, yx, yy) of the matrix M: the image shows at the frequency k what a true one shows at M k.
    """

    name: str
    pixel_size_A: float
    box_size_px: int
    voltage_kV: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    phase_coefficients: tuple[float, ...] = field(default=(0.0,) * N_PHASE_COEFFICIENTS, kw_only=True)
    gamma_coefficients: tuple[float, ...] = field(default=(0.0,) * N_GAMMA_COEFFICIENTS, kw_only=True)
    magnification: tuple[float, float, float, float] = field(default=NO_MAGNIFICATION, kw_only=True)


# What most sets have alike in all particles, and what a million then need not hold a million times.
_OFTEN_ALIKE = ("phase_shift_deg", "ctf_bfactor_A2", "ctf_scale", "contrast")


@dataclass(frozen=True)
class Particles:
    """A refined particle set of `n` images, in the program's own conventions.

    Readers translate outside conventions into these once; nothing else in the program knows them. Arrays are not to
    be changed: those whose values are alike may be one number seen `n` times.

    Attributes
    ----------
    rotations: `(n, 3, 3)` float64. A map point X (angstroms from the box centre, x y z) appears in the camera
        frame at `rotations[i] @ X`; the image is the integral along the third axis.
    shifts_A: `(n, 2)` float64, (x, y). Where the projected centre appears, from the image centre (n//2):
        minus RELION's origin.
    defocus_A: `(n, 2)` float64, defocus U and V, underfocus positive.
    astigmatism_deg: `(n,)` float64, angle of the U axis from x.
    phase_shift_deg: `(n,)` float64.
    ctf_bfactor_A2, ctf_scale: `(n,)` float64, envelope `scale * exp(-B k^2 / 4)`.
    contrast: `(n,)` float64, factor of the projection that a refinement of gem3d found; 1 elsewhere.
    optics_index: `(n,)` int32, into `optics`.
    micrograph_index: `(n,)` int32, alike for particles of the same micrograph.
    half_set: `(n,)` int8, 1 or 2; 0 where the file does not say.
    stack_index: `(n,)` int32, into `stacks`.
    image_index: `(n,)` int32, 0-based image within the stack.
    source_row: `(n,)` int32, 0-based row in the file; messages name particles by it, whatever subset is in use.
    stacks: paths as the metadata file writes them.
    optics: the optics groups.
    source: the file the particles were read from.
    template: STAR file of these particles, whose other columns are worth keeping when they are written; None if they
        come from another format.
    image_column, half_set_column: what that file calls the image's name and the half set.
    """

    rotations: NDArray[np.float64]
    shifts_A: NDArray[np.float64]
    defocus_A: NDArray[np.float64]
    astigmatism_deg: NDArray[np.float64]
    phase_shift_deg: NDArray[np.float64]
    ctf_bfactor_A2: NDArray[np.float64]
    ctf_scale: NDArray[np.float64]
    contrast: NDArray[np.float64]
    optics_index: NDArray[np.int32]
    micrograph_index: NDArray[np.int32]
    half_set: NDArray[np.int8]
    stack_index: NDArray[np.int32]
    image_index: NDArray[np.int32]
    source_row: NDArray[np.int32]
    stacks: tuple[str, ...]
    optics: tuple[OpticsGroup, ...]
    source: Path
    template: Path | None = None
    image_column: str = "rlnImageName"
    half_set_column: str = "rlnRandomSubset"

    def __post_init__(self) -> None:
        for name in _OFTEN_ALIKE:
            values = getattr(self, name)
            if len(values) > 1 and values.strides != (0,) and (values == values[0]).all():
                object.__setattr__(self, name, np.broadcast_to(values[0], values.shape))

    def __len__(self) -> int:
        return len(self.rotations)

    def subset(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Particles:
        """The particles selected by a numpy index, in its order."""
        per_particle = {
            f.name: getattr(self, f.name)[index]
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        return replace(self, **per_particle)

    @property
    def pixel_size_A(self) -> float:
        """Of the images, where all optics groups have one; `ImageSource` says what they are taken to otherwise."""
        (pixel_size_A,) = {group.pixel_size_A for group in self.optics}
        return pixel_size_A

    @property
    def box_size_px(self) -> int:
        """Of the images, as `pixel_size_A`."""
        (box_size_px,) = {group.box_size_px for group in self.optics}
        return box_size_px
