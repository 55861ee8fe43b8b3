"""The command line: parse, call, print.

The text under each field is the option's help.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from gem3d.errors import Gem3dError
from gem3d.option_help import Flag, helped_by_docstrings
from gem3d.settings import ReconstructSettings, RefineSettings
from gem3d.summary_table import print_assessment, print_run

PathArgument = Positional[Path]
Threads = Annotated[
    int, arg(metavar="N", help="CPU cores to use.", help_behavior_hint="(default: 0, all cores)")
]
Overwrite = Annotated[bool, arg(help="Replace files of an earlier run.", help_behavior_hint="")]
Quiet = Annotated[bool, arg(help="Print errors only.", help_behavior_hint="")]


@helped_by_docstrings
@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct a refined particle set: half maps, a final map and its resolution.

    Poses and CTFs are taken from the STAR file as they are, unless --refine is given.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """RELION STAR file of a finished 3D refinement (run_data.star), version 3.0 to 5."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results: report.html, map.mrc, half maps, mask.mrc, fsc.csv, summary.json, the Gaussians,
    run.log and more, the maps on the box and pixel size of the particles. Made if need be; refused when it holds
    files."""
    refine: Flag = False
    """Refine poses, shifts, defocus and contrast first, as `gem3d refine` does with its defaults."""
    settings: Annotated[ReconstructSettings, arg(name="")] = field(default_factory=ReconstructSettings)

    def run(self) -> None:
        from gem3d.reconstruct import reconstruct

        refinement = RefineSettings() if self.refine else None
        result = reconstruct(self.particles, self.out, self.settings, refinement)
        if not self.settings.quiet:
            print_run(result.summary, self.out)


@helped_by_docstrings
@dataclass(frozen=True)
class Refine:
    """Refine poses locally, half against half, then reconstruct: better maps where poses are a little wrong.

    Each half is refined against its own Gaussian map: orientation, shift, defocus and contrast of every particle, in
    rounds of reconstruction and refinement until the calibrated FSC gains no more. Writes what `gem3d reconstruct`
    does, and particles_refined.star, refinement.csv and refinement.html.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """RELION STAR file of a finished 3D refinement (run_data.star), version 3.0 to 5."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results. Made if need be; refused when it holds files."""
    refinement: Annotated[RefineSettings, arg(name="")] = field(default_factory=RefineSettings)
    settings: Annotated[ReconstructSettings, arg(name="")] = field(default_factory=ReconstructSettings)

    def run(self) -> None:
        from gem3d.reconstruct import reconstruct

        result = reconstruct(self.particles, self.out, self.settings, self.refinement)
        if not self.settings.quiet:
            print_run(result.summary, self.out)


@helped_by_docstrings
@dataclass(frozen=True)
class Simulate:
    """Make particle images with known truth from an atomic model (PDB, mmCIF) or a map (MRC).

    Writes particles.mrcs, particles.star and truth.mrc, the volume that the images are projections of.
    """

    source: Annotated[PathArgument, arg(metavar="STRUCTURE|MAP")]
    """Atomic model (.pdb, .cif), centred on its atoms; or map (.mrc, .map), which keeps its centre."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the three files; made if need be."""
    particles: Annotated[int, arg(metavar="N")] = 10000
    """How many images."""
    box_size: Annotated[int, arg(metavar="PX")] = 128
    """Side of the images in pixels, even or odd."""
    pixel_size: Annotated[float, arg(metavar="A")] = 1.6
    """Pixel size in A. Nothing finer than twice this is in the images."""
    snr: Annotated[float, arg(metavar="X")] = 0.05
    """Signal-to-noise ratio: variance of the noise-free images (CTF applied) over that of the noise. 0.01 is
    realistic, 1 looks clean, inf is noise-free."""
    envelope_bfactor: Annotated[float, arg(metavar="A2")] = 0.0
    """Envelope B factor in A^2: images are damped by exp(-B k^2 / 4). Real images have some 50 to 100."""
    ctf: Flag = True
    """Make images without a CTF."""
    ctf_table: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: 0.8 to 2.5 um)")] = (
        None
    )
    """Draw defocus, voltage and so on from the rows of a cryoDRGN ctf.pkl or a STAR file."""
    poses: Annotated[Path | None, arg(metavar="STAR", help_behavior_hint="(default: uniform)")] = None
    """Draw the orientations from the rows of a STAR file, for a real distribution of views."""
    max_shift: Annotated[float, arg(metavar="PX")] = 3.0
    """Particles lie off the centre by up to this many pixels in x and in y."""
    angle_error: Annotated[float, arg(metavar="DEG")] = 0.0
    """Standard deviation in degrees of errors in the STAR file's orientations, about each axis."""
    shift_error: Annotated[float, arg(metavar="PX")] = 0.0
    """Standard deviation in pixels of errors in the STAR file's origins."""
    defocus_error: Annotated[float, arg(metavar="A")] = 0.0
    """Standard deviation in A of errors in the STAR file's defoci."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """The same seed and options give the same files."""
    threads: Threads = 0
    overwrite: Overwrite = False
    quiet: Quiet = False

    def run(self) -> None:
        from gem3d.progress import Reporter
        from gem3d.simulate import simulate

        _use_threads(self.threads)
        reporter = Reporter(quiet=self.quiet)
        with reporter.recording(), reporter.stage("simulate", "images") as report:
            made = simulate(
                self.source,
                self.out,
                self.particles,
                self.box_size,
                self.pixel_size,
                self.snr,
                seed=self.seed,
                ctf=self.ctf,
                ctf_table=self.ctf_table,
                poses=self.poses,
                max_shift_px=self.max_shift,
                envelope_bfactor_A2=self.envelope_bfactor,
                angle_error_deg=self.angle_error,
                shift_error_px=self.shift_error,
                defocus_error_A=self.defocus_error,
                overwrite=self.overwrite,
                progress=report,
            )
        reporter.say(f"{made.star}: {self.particles} particles; truth in {made.truth}")


@helped_by_docstrings
@dataclass(frozen=True)
class Render:
    """Evaluate saved Gaussians on any grid and write the map.

    The result overlays the maps of the run in ChimeraX, whatever its box, pixel size and centre.
    """

    gaussians: Annotated[PathArgument, arg(metavar="GAUSSIANS")]
    """gaussians.safetensors of a run."""
    out: Annotated[Path, arg(metavar="MRC")]
    """File to write."""
    box_size: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: that of the run)")] = None
    """Voxels along each side; by default as many as the width of the run's box needs."""
    pixel_size: Annotated[float | None, arg(metavar="A", help_behavior_hint="(default: that of the run)")] = (
        None
    )
    """Voxel size in A. Smaller voxels give a smoother surface, not more detail."""
    centre: Annotated[
        tuple[float, float, float] | None,
        arg(metavar="X Y Z", help_behavior_hint="(default: the centre of the run's box)"),
    ] = None
    """Centre of the region in A, in the coordinates that ChimeraX shows for map.mrc of the run (its first voxel is
    at 0 0 0). With --box-size it cuts out a part."""
    overwrite: Overwrite = False

    def run(self) -> None:
        from gem3d.errors import RunDirectoryError
        from gem3d.maps import write_map
        from gem3d.progress import Reporter
        from gem3d.render import render

        if self.out.exists() and not self.overwrite:
            raise RunDirectoryError(f"{self.out}: exists; choose another name, or use --overwrite")
        reporter = Reporter()
        with reporter.recording():
            found = render(
                self.gaussians,
                box_size_px=self.box_size,
                pixel_size_A=self.pixel_size,
                centre_A=self.centre,
            )
            write_map(self.out, found.values, found.voxel_size_A, found.origin_A)
        n = found.values.shape[0]
        corner = " ".join(f"{x:g}" for x in found.origin_A)
        reporter.say(
            f"{self.out}: {n} x {n} x {n} voxels of {found.voxel_size_A:g} A, first one at {corner} A"
        )


@helped_by_docstrings
@dataclass(frozen=True)
class Fsc:
    """Compare two maps by their Fourier shell correlation.

    Prints a table and where the curve falls below 0.5 and 0.143: gem3d fsc a.mrc b.mrc > fsc.csv
    """

    a: Annotated[PathArgument, arg(metavar="MAP")]
    """A map (MRC)."""
    b: Annotated[PathArgument, arg(metavar="MAP")]
    """Another, of the same box and pixel size."""
    mask: Annotated[Path | None, arg(metavar="MRC", help_behavior_hint="(default: no mask)")] = None
    """Map in 0 to 1 that both are multiplied by first. Sharp or tight masks inflate the FSC."""
    pixel_size: Annotated[
        float | None, arg(metavar="A", help_behavior_hint="(default: from the headers)")
    ] = None
    """Pixel size in A, where the headers do not say it or are wrong."""

    def run(self) -> None:
        from gem3d.compare import compare_maps
        from gem3d.progress import Reporter

        with Reporter().recording():
            print(compare_maps(self.a, self.b, mask_file=self.mask, pixel_size_A=self.pixel_size), end="")


@helped_by_docstrings
@dataclass(frozen=True)
class Assess:
    """Judge a pair of half maps, of gem3d or any other program: what is good in them, and what is not.

    Resolution with its uncertainty, local and directional resolution, sharpening, a comparison with a reference, and
    report.html with pictures of it all.
    """

    half1: Annotated[PathArgument, arg(metavar="HALF1")]
    """Half map 1 (MRC), unmasked, unfiltered, unsharpened."""
    half2: Annotated[PathArgument, arg(metavar="HALF2")]
    """Half map 2 of the same refinement."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for report.html, map.mrc, map_local.mrc, local_resolution.mrc, mask.mrc, fsc.csv, summary.json and
    more. Made if need be; refused when it holds files."""
    linear: Annotated[
        tuple[Path, Path] | None, arg(metavar="B1 B2", help_behavior_hint="(default: none)")
    ] = None
    """Half maps of the same halves made without a prior (linear_half1.mrc and linear_half2.mrc of gem3d). Give them
    where the half maps have one, as Gaussians and denoised maps do: they then agree more than they are right."""
    final: Annotated[
        Path | None, arg(name="map", metavar="MRC", help_behavior_hint="(default: their mean)")
    ] = None
    """Map made from all data, unfiltered (map_unfiltered.mrc of gem3d), to be sharpened and filtered."""
    mask: Annotated[Path | None, arg(metavar="MRC", help_behavior_hint="(default: drawn from the map)")] = (
        None
    )
    """Map in 0 to 1 to measure in."""
    reference: Annotated[Path | None, arg(metavar="MAP|MODEL", help_behavior_hint="(default: none)")] = None
    """A map (MRC) or an atomic model (PDB, mmCIF) to hold the map against, placed where the map lies in ChimeraX."""
    particles: Annotated[Path | None, arg(metavar="STAR", help_behavior_hint="(default: none)")] = None
    """Particle file of the maps, for the distribution of its orientations; no image is read."""
    pixel_size: Annotated[
        float | None, arg(metavar="A", help_behavior_hint="(default: from the headers)")
    ] = None
    """Pixel size in A, where the headers do not say it or are wrong."""
    particle_diameter: Annotated[
        float | None, arg(metavar="A", help_behavior_hint="(default: 0.9 of the box)")
    ] = None
    """Diameter in A of a sphere around the centre that holds the particle."""
    bfactor: Annotated[
        float | None, arg(metavar="A2", help_behavior_hint="(default: from the Guinier plot)")
    ] = None
    """B factor in A^2 to sharpen by, 0 for none."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the random phases."""
    threads: Threads = 0
    overwrite: Overwrite = False
    quiet: Quiet = False

    def run(self) -> None:
        from gem3d.assess_maps import MapFiles, assess_maps

        _use_threads(self.threads)
        files = MapFiles(
            self.half1, self.half2, self.linear, self.final, self.mask, self.reference, self.particles
        )
        _, summary = assess_maps(
            files,
            self.out,
            pixel_size_A=self.pixel_size,
            particle_diameter_A=self.particle_diameter,
            bfactor_A2=self.bfactor,
            seed=self.seed,
            overwrite=self.overwrite,
            quiet=self.quiet,
        )
        if not self.quiet:
            print_assessment(summary, self.out)


@helped_by_docstrings
@dataclass(frozen=True)
class Demo:
    """Simulate a small set from a packaged structure, reconstruct it, and compare it with the truth.

    Takes a minute or two.
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("gem3d_demo")
    """Folder for the simulated set and its reconstruction."""
    particles: Annotated[int, arg(metavar="N")] = 4000
    """How many images. More take longer and reach finer detail."""
    box_size: Annotated[int, arg(metavar="PX")] = 96
    """Side of the images in pixels; the box is 211 A wide whatever it is. Fewer are faster and coarser."""
    gaussians: Annotated[int | Literal["auto"], arg(metavar="N|auto")] = "auto"
    """Gaussians of a half map. Fewer are faster and coarser."""
    threads: Threads = 0
    overwrite: Overwrite = False
    quiet: Quiet = False

    def run(self) -> None:
        from gem3d.demo import demo

        result = demo(
            self.out,
            n_particles=self.particles,
            box_size_px=self.box_size,
            gaussians=self.gaussians,
            threads=self.threads,
            overwrite=self.overwrite,
            quiet=self.quiet,
        )
        if not self.quiet:
            print_run(result.reconstruction.summary, result.folder)
        print(result.verdict)


COMMANDS: dict[str, Callable[..., Any]] = {
    "reconstruct": Reconstruct,
    "refine": Refine,
    "assess": Assess,
    "simulate": Simulate,
    "render": Render,
    "fsc": Fsc,
    "demo": Demo,
}

DESCRIPTION = """Cryo-EM maps made of Gaussians, from particle images with known poses.

Begin with `gem3d demo`, then `gem3d reconstruct particles.star --out results`.
Each command explains itself: `gem3d reconstruct --help`. Maps are MRC files, lengths are in A (angstroms)."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with 2 where the input is at fault, 1 where the program is, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"gem3d {version('gem3d')}")
        return
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=arguments or ["--help"],
            prog="gem3d",
            description=DESCRIPTION,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except Gem3dError as error:
        _complain(f"gem3d: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("gem3d: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to write the rest to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if _is_out_of_memory(error):
            _complain("gem3d: not enough memory; try --max-resolution, fewer --gaussians, or a smaller box")
            sys.exit(2)
        traceback.print_exc()
        _complain(
            "gem3d: this is a fault of gem3d, not of your input. Please report it to its maintainers with the "
            "lines above, the command, and run.log from the output folder."
        )
        sys.exit(1)


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError.
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _use_threads(n_threads: int) -> None:
    from gem3d.errors import SettingsError
    from gem3d.threads import available_threads, set_threads

    if n_threads < 0:
        raise SettingsError(f"--threads {n_threads}: give a positive number, or 0 for all cores")
    set_threads(n_threads or available_threads())
