"""What the user chooses: the command line, the API and summary.json read this one class.

The text under each field is the option's help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from gem3d.assess.sharpening import LARGEST_BFACTOR_A2
from gem3d.errors import SettingsError
from gem3d.input_settings import InputSettings
from gem3d.option_help import Flag, helped_by_docstrings, in_order


@helped_by_docstrings
@dataclass(frozen=True)
class ComputeSettings:
    """Where and how loudly to work."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. `auto` takes an NVIDIA GPU where there is one with enough free memory, else the CPU; `cuda`
    insists on it."""
    deterministic: Flag = False
    """On a GPU, add in an order that never changes: the same maps in every run, bit for bit, at some cost in time. On
    the CPU they are anyway."""
    threads: Annotated[int, arg(metavar="N", help_behavior_hint="(default: 0, all cores)")] = 0
    """CPU cores to use. Fewer, to leave some for others. The same seed and number give the same maps, bit for
    bit."""
    quiet: Flag = False
    """Print errors only. Everything is in run.log all the same."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise SettingsError(f"--threads {self.threads}: give a positive number, or 0 for all cores")


@helped_by_docstrings
@dataclass(frozen=True)
class PassSettings(InputSettings, ComputeSettings):
    """Settings of the pass over the images."""

    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of everything drawn at random. Change it to see how much chance matters."""
    particle_diameter_A: Annotated[
        float | None,
        arg(name="particle-diameter", metavar="A", help_behavior_hint="(default: 0.9 of the box)"),
    ] = None
    """Diameter in A of a sphere around the centre that holds the particle. What lies outside is background: the
    images are normalised and their noise is measured there. Give it when neighbours crowd the box."""
    max_resolution_A: Annotated[
        float | None,
        arg(name="max-resolution", metavar="A", help_behavior_hint="(default: Nyquist, two pixels)"),
    ] = None
    """Finest resolution in A to use. Nothing finer is read from the images, fitted or claimed; maps keep their box
    and pixel size. Saves time and memory where the pixels are much finer than the expected resolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ComputeSettings.__post_init__(self)  # the chain of the other base ends with it
        if self.seed < 0:
            raise SettingsError(f"--seed {self.seed}: give 0 or a positive number")
        for option, value in (
            ("--particle-diameter", self.particle_diameter_A),
            ("--max-resolution", self.max_resolution_A),
        ):
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{option} {value:g}: give a positive number of A")


@helped_by_docstrings
@dataclass(frozen=True)
class FitSettings(ComputeSettings):
    """Settings of what follows the pass over the images: the fits and the measurement."""

    gaussians: Annotated[int | Literal["auto"], arg(metavar="N|auto")] = "auto"
    """Gaussians of a half map; the final map has those of both halves. `auto` takes them from the volume of the
    particle; `--fit volume` doubles them while held-out particles gain by it. More follow finer detail and cost
    memory and time."""
    init: Literal["auto", "map", "random"] = "auto"
    """Where the Gaussians start: drawn from the low-passed linear `map` of the same half, or at `random` inside the
    mask of that map. `auto` is `map` for `--fit volume` and `random`, as in the paper, for `--fit images`."""
    freeze: Literal["nothing", "rotations"] = "nothing"
    """`rotations` leaves every Gaussian's axes as they were drawn: an ablation of the paper."""
    isotropic: Flag = False
    """Every Gaussian is a ball: an ablation of the paper. Takes several times as many for the same map."""
    mask: Annotated[Path | None, arg(metavar="MRC", help_behavior_hint="(default: drawn from the map)")] = (
        None
    )
    """Map in 0 to 1, on the box of the particles, used for measuring (FSC and resolution). Give it when the
    automatic mask is wrong (look at mask.mrc), as for membranes or flexible parts."""
    reference: Annotated[Path | None, arg(metavar="MAP|MODEL", help_behavior_hint="(default: none)")] = None
    """A map (MRC) or an atomic model (PDB, mmCIF), placed where the final map lies in ChimeraX: the report then holds
    the map against it. Nothing else sees it."""
    bfactor_A2: Annotated[
        float | None,
        arg(name="bfactor", metavar="A2", help_behavior_hint="(default: from the Guinier plot)"),
    ] = None
    """B factor in A^2 that the final map is sharpened by, positive to sharpen, 0 for none. Give it to compare maps
    sharpened alike, or when the map looks too smooth or too noisy."""
    overwrite: Flag = False
    """Use the output folder though it holds files. Only the results of an earlier run are replaced, and only after
    all images have been read."""
    resume: Flag = False
    """Go on with a run that was killed, in the same folder and with the same other options; the result is the one
    that it would have had. Begins where the folder is new or holds no more than a log; refuses that of a finished
    run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise SettingsError(
                "--resume and --overwrite: choose one, to keep what is there or to replace it"
            )
        if self.gaussians != "auto" and self.gaussians < 1:
            raise SettingsError(f"--gaussians {self.gaussians}: give a positive number, or auto")
        check_bfactor(self.bfactor_A2)


@in_order(
    "fit", "gaussians", "init", "freeze", "isotropic", "epochs", "device", "deterministic", "threads", "seed",
    "particle_diameter_A", "mask", "reference", "max_resolution_A", "bfactor_A2", "overwrite", "resume", "quiet",
)  # fmt: skip
@helped_by_docstrings
@dataclass(frozen=True)
class ReconstructSettings(FitSettings, PassSettings):
    """Settings of a reconstruction; the defaults suit a refined set of a single particle."""

    fit: Literal["volume", "images"] = "volume"
    """How the Gaussians are fitted: `volume` reads every image once and fits to their normal equations, in a time
    that does not depend on the number of particles. `images` trains on the images batch by batch, as the GEM paper
    does: slower, and no better; for comparison and for methods that need a gradient per image."""
    epochs: Annotated[int | Literal["auto"], arg(metavar="N|auto")] = "auto"
    """How often `--fit images` goes through the images at most. `auto` is 5, and more for small sets."""

    @property
    def start(self) -> Literal["map", "random"]:
        """Where the Gaussians start, `auto` resolved."""
        if self.init != "auto":
            return self.init
        return "map" if self.fit == "volume" else "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit == "volume" and self.epochs != "auto":
            raise SettingsError("--epochs: --fit volume reads the images once; it is for --fit images")
        if self.epochs != "auto" and self.epochs < 2:
            raise SettingsError(
                f"--epochs {self.epochs}: give 2 or more; the last takes in the held-out images"
            )


def check_bfactor(bfactor_A2: float | None) -> None:
    """Refuse a B factor that no map has.

    Raises
    ------
    SettingsError
    """
    if bfactor_A2 is not None and not abs(bfactor_A2) <= LARGEST_BFACTOR_A2:
        raise SettingsError(f"--bfactor {bfactor_A2:g}: give up to {LARGEST_BFACTOR_A2:g} A^2 either way")


@helped_by_docstrings
@dataclass(frozen=True)
class RefineSettings:
    """Settings of a local refinement; the defaults suit poses that are a few degrees off."""

    rounds: Annotated[int, arg(metavar="N")] = 5
    """Rounds of reconstruction and refinement at most. It ends earlier when the maps no longer gain."""
    defocus: Literal["fixed", "micrograph", "particle"] = "particle"
    """Refine the defocus: of each `particle` (around that of its micrograph), of each `micrograph` only, or leave it
    `fixed`."""
    contrast: Literal["fixed", "micrograph", "particle"] = "particle"
    """Estimate the contrast of each particle (around that of its micrograph) or of each micrograph, and weight the
    images by it in the reconstruction; `fixed` takes all as equal."""
    sigma_angle_deg: Annotated[float | Literal["auto"], arg(name="sigma-angle", metavar="DEG|auto")] = "auto"
    """How wrong the given orientations are, as a standard deviation in degrees about each axis: particles stay near
    where they start. `auto` finds it from the particles of each half."""
    sigma_shift_A: Annotated[float | Literal["auto"], arg(name="sigma-shift", metavar="A|auto")] = "auto"
    """The same for shifts, in A along each axis."""
    sigma_defocus_A: Annotated[float | Literal["auto"], arg(name="sigma-defocus", metavar="A|auto")] = "auto"
    """The same for the defocus of a particle, in A."""
    search_deg: Annotated[float, arg(name="search", metavar="DEG")] = 0.0
    """In the first round, try some 250 orientations within so many degrees of the given one before refining
    from the best. For starts that are further off than some 5 degrees; takes several times as long."""
    weigh_by_width: Flag = False
    """In the reconstruction, damp each image's fine detail by how uncertain its pose is. The STAR file does not hold
    this damping."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise SettingsError(f"--rounds {self.rounds}: give 1 or more")
        for option, value in (
            ("--sigma-angle", self.sigma_angle_deg),
            ("--sigma-shift", self.sigma_shift_A),
            ("--sigma-defocus", self.sigma_defocus_A),
        ):
            if value != "auto" and not 0 < value < math.inf:
                raise SettingsError(f"{option} {value:g}: give a positive number, or auto")
        if not 0 <= self.search_deg <= 60:
            raise SettingsError(f"--search {self.search_deg:g}: give 0 to 60 degrees")
        if self.sigma_defocus_A != "auto" and self.defocus != "particle":
            raise SettingsError(f"--sigma-defocus: is of single particles; not with --defocus {self.defocus}")
