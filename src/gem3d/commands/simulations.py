"""Commands that make their own particles.

The text under each field is the option's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from gem3d.commands.options import Overwrite, PathArgument, Quiet, Threads, use_threads
from gem3d.option_help import Flag, helped_by_docstrings
from gem3d.summary_table import print_run


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

        use_threads(self.threads)
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
