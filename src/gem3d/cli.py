"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from gem3d.errors import Gem3dError
from gem3d.settings import ReconstructSettings


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct a refined particle set: half maps, a final map and its resolution."""

    particles: tyro.conf.Positional[Path]
    """RELION STAR file."""
    out: Path
    """Folder for the results."""
    settings: Annotated[ReconstructSettings, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructSettings
    )

    def run(self) -> None:
        from gem3d.reconstruct import reconstruct

        result = reconstruct(self.particles, self.out, self.settings)
        if not self.settings.quiet:
            _print_summary(result.summary, self.out)


@dataclass(frozen=True)
class Simulate:
    """Make particle images with known truth from a structure (PDB, mmCIF) or a map (MRC)."""

    source: tyro.conf.Positional[Path]
    """Structure or map."""
    out: Path
    """Folder for particles.mrcs, particles.star and truth.mrc."""
    particles: int = 10000
    """How many images."""
    box_size_px: int = 128
    pixel_size_A: float = 1.6
    snr: float = 0.05
    """Variance of the noise-free images with CTF over that of the noise."""
    envelope_bfactor_A2: float = 0.0
    ctf: bool = True
    ctf_table: Path | None = None
    """cryoDRGN ctf.pkl or STAR file to draw the optics from."""
    poses: Path | None = None
    """STAR file to draw the orientations from; uniform without it."""
    max_shift_px: float = 3.0
    angle_error_deg: float = 0.0
    shift_error_px: float = 0.0
    defocus_error_A: float = 0.0
    seed: int = 0
    overwrite: bool = False
    quiet: bool = False

    def run(self) -> None:
        from gem3d.progress import Reporter
        from gem3d.simulate import simulate

        reporter = Reporter(quiet=self.quiet)
        with reporter.task("images") as report:
            made = simulate(
                self.source,
                self.out,
                self.particles,
                self.box_size_px,
                self.pixel_size_A,
                self.snr,
                seed=self.seed,
                ctf=self.ctf,
                ctf_table=self.ctf_table,
                poses=self.poses,
                max_shift_px=self.max_shift_px,
                envelope_bfactor_A2=self.envelope_bfactor_A2,
                angle_error_deg=self.angle_error_deg,
                shift_error_px=self.shift_error_px,
                defocus_error_A=self.defocus_error_A,
                overwrite=self.overwrite,
                progress=report,
            )
        reporter.say(f"{made.star}: {self.particles} particles; truth in {made.truth}")


@dataclass(frozen=True)
class Fsc:
    """Compare two maps by their Fourier shell correlation."""

    a: tyro.conf.Positional[Path]
    b: tyro.conf.Positional[Path]
    mask: Path | None = None

    def run(self) -> None:
        from gem3d.assess import fourier_shell_correlation, resolution_at
        from gem3d.errors import MapError
        from gem3d.maps import read_map

        a, b = read_map(self.a), read_map(self.b)
        if a.values.shape != b.values.shape:
            raise MapError(f"{self.b}: {b.values.shape} voxels, {self.a} has {a.values.shape}; resample one")
        mask = None if self.mask is None else read_map(self.mask).values
        curve = fourier_shell_correlation(a.values, b.values, mask)
        box_size, pixel_size_A = a.values.shape[0], a.voxel_size_A
        print("shell,resolution_A,fsc")
        for shell, value in enumerate(curve):
            print(
                f"{shell},{'' if shell == 0 else format(box_size * pixel_size_A / shell, '.3f')},{value:.4f}"
            )
        for threshold in (0.5, 0.143):
            found = resolution_at(curve, threshold, pixel_size_A, box_size)
            print(
                f"# FSC {threshold}: "
                + (f"{found.resolution_A:.2f} A" if found.resolution_A else str(found.reason))
            )


@dataclass(frozen=True)
class Render:
    """Evaluate saved Gaussians on a grid and write the map."""

    gaussians: tyro.conf.Positional[Path]
    out: Path
    """MRC file to write."""
    box_size_px: int | None = None
    """Voxels along each side; by default the box they were fitted in."""
    pixel_size_A: float | None = None
    """Voxel size; by default that of the particles."""

    def run(self) -> None:
        from gem3d.gaussians import load_gaussians
        from gem3d.maps import write_map

        gaussians, box_size, pixel_size_A = load_gaussians(self.gaussians)
        box_size, pixel_size_A = self.box_size_px or box_size, self.pixel_size_A or pixel_size_A
        write_map(self.out, gaussians.density(box_size, pixel_size_A).numpy(), pixel_size_A)


@dataclass(frozen=True)
class Demo:
    """Simulate a small set from a packaged structure, reconstruct it, and compare it with the truth."""

    out: Path = Path("gem3d_demo")
    particles: int = 4000
    overwrite: bool = False
    quiet: bool = False

    def run(self) -> None:
        from gem3d.demo import demo

        print(demo(self.out, n_particles=self.particles, overwrite=self.overwrite, quiet=self.quiet))


COMMANDS: dict[str, Callable[..., Any]] = {
    "reconstruct": Reconstruct,
    "simulate": Simulate,
    "render": Render,
    "fsc": Fsc,
    "demo": Demo,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exits with 2 where the input is at fault."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=arguments, prog="gem3d", description="Cryo-EM maps made of Gaussians."
    )
    try:
        command.run()
    except Gem3dError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"gem3d: {error}", markup=False)
        sys.exit(2)


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    table = Table(show_header=False)
    table.add_row("resolution (calibrated FSC)", summary["resolution"]["claim"])
    for name, seconds in summary["seconds"].items():
        table.add_row(name, f"{seconds:.1f} s")
    table.add_row("images/s", f"{summary['images_per_second']:.0f}")
    table.add_row("peak memory", f"{summary['peak_memory_GB']:.2f} GB")
    table.add_row("final map", str(out / "map.mrc"))
    Console(stderr=True).print(table)
