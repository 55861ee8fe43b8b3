"""A small set with known truth, reconstructed: what the program does, in a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gem3d import run_directory
from gem3d.assess import automatic_mask, fourier_shell_correlation, resolution_at
from gem3d.errors import SettingsError
from gem3d.maps import read_map
from gem3d.progress import Reporter
from gem3d.reconstruct import Reconstruction, reconstruct
from gem3d.settings import ReconstructSettings
from gem3d.simulate import simulate
from gem3d.structures import packaged_structure
from gem3d.threads import available_threads, set_threads

BOX_WIDTH_A = 211.2
# Low enough, and fading as real images do, that the resolution ends before Nyquist.
SNR, ENVELOPE_BFACTOR_A2 = 0.02, 80.0
FEWEST_PARTICLES, SMALLEST_BOX_PX = 100, 32


@dataclass(frozen=True)
class DemoResult:
    """The reconstruction of a demo, its folder, and what to say about it."""

    reconstruction: Reconstruction
    folder: Path
    verdict: str


def demo(
    out: Path,
    *,
    n_particles: int = 4000,
    box_size_px: int = 96,
    gaussians: int | Literal["auto"] = "auto",
    threads: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> DemoResult:
    """Simulate beta-galactosidase (PDB 5A1A), reconstruct it in `out`, and say how close the map is to the truth."""
    if n_particles < FEWEST_PARTICLES or box_size_px < SMALLEST_BOX_PX:
        raise SettingsError(
            f"--particles {n_particles}, --box-size {box_size_px}: the demo needs at least {FEWEST_PARTICLES} "
            f"particles of {SMALLEST_BOX_PX} px"
        )
    settings = ReconstructSettings(gaussians=gaussians, threads=threads, overwrite=overwrite, quiet=quiet)
    set_threads(threads or available_threads())
    pixel_size_A = BOX_WIDTH_A / box_size_px
    run_directory.prepare(out, overwrite=overwrite)
    reporter = Reporter(quiet=quiet)
    reporter.say(f"beta-galactosidase (PDB 5A1A), {n_particles} images at a signal-to-noise ratio of {SNR}")
    with reporter.recording(), reporter.stage("simulate", "images") as report:
        made = simulate(
            packaged_structure(),
            out / "simulated",
            n_particles,
            box_size_px,
            pixel_size_A,
            SNR,
            envelope_bfactor_A2=ENVELOPE_BFACTOR_A2,
            overwrite=overwrite,
            progress=report,
        )
    result = reconstruct(made.star, out / "reconstruction", settings)
    truth = read_map(made.truth).values
    mask = automatic_mask(truth, pixel_size_A)
    curve = fourier_shell_correlation(result.assessment.map_unfiltered, truth, mask)
    found = resolution_at(curve, 0.5, pixel_size_A, box_size_px)
    verdict = (
        f"maps:              {out / 'reconstruction'}\n"
        f"truth:             {made.truth}\n"
        f"map against truth: FSC 0.5 at {found.words} (final map, known only in a simulation)\n"
        f"claimed from data: {result.summary['resolution']['claim']} (calibrated FSC 0.143, half maps)"
    )
    return DemoResult(result, out / "reconstruction", verdict)
