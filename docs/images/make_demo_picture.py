"""Draw docs/images/demo.png from a finished demo: an image, the maps and their curves, beside the truth.

gem3d demo --out gem3d_demo && python docs/images/make_demo_picture.py gem3d_demo docs/images/demo.png

Needs matplotlib (the extra `benchmarks`). Truth and maps are drawn alike: one view, one threshold rule (the same
share of the volume inside), no other treatment.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl
import mrcfile
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from gem3d.assess import fourier_shell_correlation
from gem3d.maps import read_map

mpl.use("Agg")
import matplotlib.pyplot as plt

VIEW = Rotation.from_euler("zyx", [20, 35, 15], degrees=True).as_matrix()
INSIDE = 0.034  # share of the box inside the surface
SIZE = 330  # pixels of a rendering
SURFACE = np.array([0.43, 0.66, 0.80])


def surface(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shaded view of an isosurface, `(SIZE, SIZE, 3)`: the first crossing along each ray, lit from above left."""
    n = len(values)
    threshold = float(np.quantile(values, 1 - INSIDE))
    x = np.linspace(-0.42, 0.42, SIZE) * n
    depth = np.linspace(-0.5, 0.5, SIZE) * n
    step = depth[1] - depth[0]
    found = np.full((SIZE, SIZE), np.nan)
    previous = np.zeros((SIZE, SIZE))
    columns, rows = np.meshgrid(x, x)
    for d in depth:
        points = np.stack([columns.ravel(), rows.ravel(), np.full(columns.size, d)]).T @ VIEW + n // 2
        here = map_coordinates(values, points.T[::-1], order=1, mode="constant").reshape(SIZE, SIZE)
        first = np.isnan(found) & (here >= threshold)
        share = np.clip((threshold - previous) / np.maximum(here - previous, 1e-12), 0, 1)
        found[first] = (d - step * (1 - share))[first]
        previous = here
    hit = np.isfinite(found)
    z = np.where(hit, found, np.nanmax(found))
    smooth = gaussian_filter(z, 0.8)
    slope_y, slope_x = np.gradient(smooth, x[1] - x[0])
    normal = np.stack([slope_x, slope_y, -np.ones_like(z)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.array([-0.45, -0.55, -0.70])
    diffuse = np.clip(normal @ (light / np.linalg.norm(light)), 0, 1)
    crevices = np.clip(1 - 0.05 * np.clip(z - gaussian_filter(z, 9), 0, None), 0.45, 1)
    far = 1 - 0.35 * (z - np.nanmin(found)) / np.ptp(found[hit])
    shade = (0.30 + 0.70 * diffuse) * crevices * far
    picture = np.clip(shade[..., None] * SURFACE + 0.25 * diffuse[..., None] ** 20, 0, 1)
    picture[~hit] = 1
    return picture


def main(demo: Path, target: Path) -> None:
    """Draw the picture."""
    run = demo / "reconstruction"
    truth, final = (read_map(path) for path in (demo / "simulated" / "truth.mrc", run / "map.mrc"))
    unfiltered = read_map(run / "map_unfiltered.mrc").values
    summary = json.loads((run / "summary.json").read_text())
    with mrcfile.mmap(demo / "simulated" / "particles.mrcs") as stack:
        image, n_images = np.array(stack.data[0]), len(stack.data)
    with (run / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]
    frequency = [float(row["frequency_per_A"]) for row in rows]
    mask = read_map(run / "mask.mrc").values
    to_truth = fourier_shell_correlation(unfiltered, truth.values, mask)[1:]

    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(
        1, 4, figsize=(10.4, 2.75), layout="constrained", width_ratios=[1, 1, 1, 1.25]
    )
    axes[0].imshow(image, cmap="gray", vmin=np.quantile(image, 0.005), vmax=np.quantile(image, 0.995))
    axes[0].set_title(f"one of {n_images} images")
    axes[1].imshow(surface(final.values))
    axes[1].set_title("map.mrc")
    axes[2].imshow(surface(truth.values))
    axes[2].set_title("truth")
    for axis in axes[:3]:
        axis.axis("off")
    plot = axes[3]
    # Empty beyond the data and, for the calibrated one, beyond its validity.
    masked, calibrated = (
        [float(row[name] or "nan") for row in rows] for name in ("fsc_masked", "fsc_calibrated")
    )
    plot.plot(frequency, masked, color="0.6", lw=1, label="half maps, masked")
    plot.plot(frequency, calibrated, color="tab:blue", lw=1.6, label="half maps, calibrated")
    plot.plot(frequency, to_truth, color="tab:orange", lw=1.2, ls="--", label="final map and truth, masked")
    plot.axhline(0.143, color="0.8", lw=0.8, zorder=0)
    estimate_A = summary["resolution"]["calibrated"]["estimate_A"]
    if summary["resolution"]["calibrated"]["kind"] == "crossing":
        plot.plot(1 / estimate_A, 0.143, "o", color="tab:blue", ms=4)
        plot.annotate(f"{estimate_A:.1f} Å", (1 / estimate_A, 0.143), (5, 5), textcoords="offset points")
    ticks_A = [20, 10, 7, 5.5, 4.5]
    plot.set(xlim=(0, frequency[-1]), ylim=(-0.05, 1.05), ylabel="FSC", xlabel="resolution (Å)")
    plot.set_xticks([1 / t for t in ticks_A], [f"{t:g}" for t in ticks_A])
    plot.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0.0, 0.16))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130, metadata={"Software": None})
    Image.open(target).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE).save(
        target, optimize=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
