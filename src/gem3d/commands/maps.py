"""Commands that start from maps or Gaussians.

The text under each field is the option's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from gem3d.commands.options import Overwrite, PathArgument, Quiet, Threads, use_threads
from gem3d.option_help import helped_by_docstrings
from gem3d.summary_table import print_assessment


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

        use_threads(self.threads)
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
        from gem3d.atomic import refusing
        from gem3d.errors import RunDirectoryError
        from gem3d.maps import write_map
        from gem3d.progress import Reporter
        from gem3d.render import render

        with refusing(self.out):
            exists = self.out.exists()
        if exists and not self.overwrite:
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
