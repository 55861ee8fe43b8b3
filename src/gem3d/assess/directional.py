"""Directional resolution: FSC within cones around many directions of Fourier space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from gem3d.assess.cones import ConicalSums
from gem3d.assess.fsc import FSC_THRESHOLD, resolution_at
from gem3d.assess.shells import Curve, FloatVolume, check_same_box, fourier_transform, ratio
from gem3d.assess.smoothing import local_quadratic_weights, pooled_number
from gem3d.assess.sphere import half_sphere

N_DIRECTIONS = 500
# Where a cone holds fewer independent values, no direction can be told from another: all get the curve of all.
FEWEST_VALUES = 3.0
# A cone with less power than this share of its shell's holds nothing but what rounding left there.
ROUNDING_POWER = 1e-6
G1, G2, B1, B2 = range(4)

Products = dict[tuple[int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class DirectionalFSC:
    """FSC within cones (3DFSC; Tan et al. 2017, Nat. Methods 14:793).

    directions: `(n, 3)` unit vectors x y z of the cones' axes, over half a sphere.
    curves: `(n, shells)` FSC in each cone.
    resolution_A: `(n,)` first crossing of the threshold; NaN where there is none.
    area: `(n,)` area under each curve from shell 1 to `last_shell`, over its length.
    half_angle_deg: of the cones.
    last_shell: last shell that counted for areas: where the best direction falls below the threshold.
    sphericity: of the surface where the directional FSC is at the threshold, 1 for a sphere; None where it has none.
    cfar: smallest area over largest; below 0.5 means preferred orientation. The spread that noise alone gives the
        areas is taken out first, so that it is at least `area.min() / area.max()`. NaN where nothing is resolved.
    """

    directions: NDArray[np.float64]
    curves: NDArray[np.float64]
    resolution_A: Curve
    area: Curve
    half_angle_deg: float
    last_shell: int
    sphericity: float | None
    cfar: float


def directional_fsc(
    half1: FloatVolume,
    half2: FloatVolume,
    mask: FloatVolume | None,
    pixel_size_A: float,
    *,
    linear: tuple[FloatVolume, FloatVolume] | None = None,
    threshold: float = FSC_THRESHOLD,
    last_shell: int | None = None,
    half_angle_deg: float = 20.0,
    n_directions: int = N_DIRECTIONS,
) -> DirectionalFSC:
    """FSC within cones, calibrated where linear half maps are given (`gem3d.assess.calibration`).

    F = <G1,B2> <G2,B1> / (|G1| |G2| <B1,B2>) with inner products over the cone's part of a shell, 0 unless all three
    are positive; without linear half maps the ordinary FSC, <G1,G2> / (|G1| |G2|). A cone holds few values, so the
    inner products, of maps brought to equal power in all shells, are smoothed over shells before they are divided,
    and FSC(B1,B2) counts in the denominator for at least its standard error where there is no signal: F then goes
    to 0 with the signal of the linear maps, instead of dividing noise by noise.

    The mask multiplies the maps before the shells are taken, so values leak into their neighbours by the width of the
    mask's transform: a gap narrower than that is not seen, and the lowest shells, where a cone is, are not judged.

    Parameters
    ----------
    half1, half2: `(D, D, D)` half maps, unmasked.
    mask: `(D, D, D)` in [0, 1]; None for no mask.
    pixel_size_A: A per voxel.
    linear: half maps without a prior, of the same halves.
    threshold: at which the resolution is read.
    last_shell: last Fourier shell that the maps were made from; curves end there. None for D//2.
    half_angle_deg: between a cone's axis and its surface; 20 as in 3DFSC.
    n_directions: cones.

    Raises
    ------
    MapError: the maps are not cubic, alike and finite.
    """
    maps = [half1, half2, *(linear or ())]
    box_size = check_same_box(**{f"map {i + 1}": volume for i, volume in enumerate(maps)}, mask=mask)
    last_shell = box_size // 2 if last_shell is None else last_shell
    directions = half_sphere(n_directions)
    cones = ConicalSums(box_size, last_shell, directions, half_angle_deg)
    values = [cones.take(fourier_transform(v if mask is None else v * mask)) for v in maps]
    of_all, of_cones = _mean_products(values, cones)

    n = _independent_values(cones, mask, half_angle_deg)
    kernel = local_quadratic_weights(n)
    null_stderr = 1 / np.sqrt(2 * pooled_number(kernel, n))
    curves = _correlation(of_cones, kernel, null_stderr)
    first = int(np.argmax(np.append(n >= FEWEST_VALUES, True)))
    curves[:, :first] = _correlation(of_all, kernel, np.zeros_like(null_stderr))[:first]

    start = max(first - 1, 1)
    crossings = [resolution_at(c, threshold, pixel_size_A, box_size, first_shell=start) for c in curves]
    # Where there is no crossing, the curve stays above the threshold to its end, or begins below it.
    uncrossed = np.where(curves[:, start] >= threshold, last_shell, 0)
    surface = np.array([u if c.shell is None else c.shell for c, u in zip(crossings, uncrossed, strict=True)])
    end = max(int(np.ceil(surface.max())), 1)
    area = curves[:, 1 : end + 1].mean(axis=1)
    judged = slice(first, end + 1)
    noise_variance = (1 - np.clip(curves[:, judged], 0, 1) ** 2) ** 2 / (2 * n[judged])
    area_noise_variance = float(noise_variance.sum(axis=1).mean()) / end**2
    resolved = end > first
    bounded = any(crossing.shell is not None for crossing in crossings)
    return DirectionalFSC(
        directions=directions,
        curves=curves,
        resolution_A=np.array([np.nan if c.resolution_A is None else c.resolution_A for c in crossings]),
        area=area,
        half_angle_deg=half_angle_deg,
        last_shell=end,
        sphericity=_sphericity(directions, surface, half_angle_deg / 2) if resolved and bounded else None,
        cfar=_area_ratio(area, area_noise_variance) if resolved else float("nan"),
    )


def _mean_products(values: list[NDArray[np.complex64]], cones: ConicalSums) -> tuple[Products, Products]:
    """Mean inner products over each shell `(shells,)` and each cone's part of it `(n, shells)`.

    Every map is scaled to the power 1 in each shell, so that shells may be averaged.
    """
    pairs = [(G1, B2), (G2, B1), (B1, B2)] if len(values) == 4 else [(G1, G2)]
    pairs += [(i, i) for i in range(len(values))]
    n_all, n_cones = cones.sums()
    of_all, of_cones = {}, {}
    for i, j in pairs:
        a, b = values[i], values[j]
        of_all[i, j], of_cones[i, j] = cones.sums(a.real * b.real + a.imag * b.imag)
    amplitude = [np.sqrt(of_all[i, i] / n_all) for i in range(len(values))]
    for i, j in pairs:
        scale = amplitude[i] * amplitude[j]
        of_all[i, j] = ratio(of_all[i, j], n_all * scale)
        of_cones[i, j] = ratio(of_cones[i, j], n_cones * scale)
    return of_all, of_cones


def _correlation(products: Products, kernel: NDArray[np.float64], null_stderr: Curve) -> NDArray[np.float64]:
    """The FSC, calibrated where there are products of linear maps, of products smoothed over shells."""
    smooth = {pair: product @ kernel.T for pair, product in products.items()}
    power = {i: product for (i, j), product in smooth.items() if i == j}
    norm = {i: np.sqrt(np.where(p > ROUNDING_POWER, p, 0)) for i, p in power.items()}
    if (B1, B2) not in smooth:
        return ratio(smooth[G1, G2], norm[G1] * norm[G2])
    norm_b = np.sqrt(norm[B1] * norm[B2])
    cross12 = ratio(smooth[G1, B2], norm[G1] * norm_b)
    cross21 = ratio(smooth[G2, B1], norm[G2] * norm_b)
    fsc_linear = ratio(smooth[B1, B2], norm_b**2)
    positive = (cross12 > 0) & (cross21 > 0) & (fsc_linear > 0)
    return ratio(cross12 * cross21 * positive, np.maximum(fsc_linear, null_stderr))


def _independent_values(cones: ConicalSums, mask: FloatVolume | None, half_angle_deg: float) -> Curve:
    """Independent complex values in a cone's part of each shell, `(shells,)`.

    Half of its Fourier pixels; under a mask M, which ties neighbours together, (sum M^2)^2 / (D^3 sum M^4) of those.
    """
    n_cone: Curve = cones.sums()[0] / 2 * (1 - np.cos(np.deg2rad(half_angle_deg)))
    if mask is None:
        return n_cone
    square = np.square(mask)
    fourth = float(np.square(square).sum(dtype=np.float64))
    return n_cone * (float(square.sum(dtype=np.float64)) ** 2 / (square.size * fourth) if fourth > 0 else 0.0)


def _area_ratio(area: Curve, noise_variance: float) -> float:
    """Smallest over largest area, their spread about the mean brought to what it would be without noise."""
    variance = float(area.var())
    spread = np.sqrt(max(1 - noise_variance / variance, 0)) if variance > 0 else 1.0
    corrected = area.mean() + (area - area.mean()) * spread
    return max(0.0, float(corrected.min())) / float(corrected.max())


def _sphericity(directions: NDArray[np.float64], radius: Curve, smoothing_deg: float) -> float:
    """Sphericity pi^(1/3) (6 V)^(2/3) / S of the surface with `radius` `(n,)` along each direction and its opposite.

    A sphere has 1. The surface is first averaged over `smoothing_deg`: where noise makes a curve cross early, a step
    between neighbouring directions would count as area. Its triangles are those of the directions on the unit
    sphere, whose own sphericity is divided out.
    """
    near = np.abs(directions @ directions.T) >= np.cos(np.deg2rad(smoothing_deg))
    smooth = (near @ radius) / near.sum(axis=1)
    sphere = np.concatenate([directions, -directions])
    triangles = ConvexHull(sphere).simplices
    surface = sphere * np.tile(smooth, 2)[:, None]
    return _polyhedron_sphericity(surface[triangles]) / _polyhedron_sphericity(sphere[triangles])


def _polyhedron_sphericity(triangles: NDArray[np.float64]) -> float:
    """Of a polyhedron around the origin, whose every point is seen from there, with corners `(n, 3, 3)`."""
    a, b, c = triangles.transpose(1, 0, 2)
    surface = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    volume = np.abs(np.sum(a * np.cross(b, c), axis=1)).sum() / 6
    return float(np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 / surface)
