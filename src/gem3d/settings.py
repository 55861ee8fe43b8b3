"""What the user chooses: the command line, the API and summary.json read this one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gem3d.errors import SettingsError


@dataclass(frozen=True)
class ReconstructSettings:
    """Settings of a reconstruction.

    Attributes
    ----------
    datadir: folder that the image paths in the particle file are relative to.
    gaussians: how many Gaussians for a half map, or "auto".
    init: start from the low-passed linear map of the same half, or at random.
    threads: cores to use; 0 for all.
    seed: of everything drawn at random.
    particle_diameter_A: outside it lies background; None for 0.9 of the box.
    mask: map file used for measuring instead of the automatic mask.
    halves: as the particle file says ("auto"), or drawn at random.
    ctf: False for images without a CTF.
    normalise: subtract the mean of each image's background and divide by its standard deviation.
    ignore_optics_extras: go on where the file holds beam tilt, aberrations or a magnification matrix.
    bfactor_A2: for sharpening, instead of the one from the Guinier plot.
    overwrite: replace an existing output folder's files.
    quiet: print errors only.
    """

    datadir: Path | None = None
    gaussians: int | Literal["auto"] = "auto"
    init: Literal["map", "random"] = "map"
    threads: int = 0
    seed: int = 0
    particle_diameter_A: float | None = None
    mask: Path | None = None
    halves: Literal["auto", "random"] = "auto"
    ctf: bool = True
    normalise: bool = True
    ignore_optics_extras: bool = False
    bfactor_A2: float | None = None
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.gaussians != "auto" and self.gaussians < 1:
            raise SettingsError(f"--gaussians {self.gaussians}: give a positive number, or auto")
        if self.threads < 0:
            raise SettingsError(f"--threads {self.threads}: give a positive number, or 0 for all cores")
        if self.particle_diameter_A is not None and self.particle_diameter_A <= 0:
            raise SettingsError(
                f"--particle-diameter-A {self.particle_diameter_A:g}: give a positive number of A"
            )
