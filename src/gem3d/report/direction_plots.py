"""Pictures over directions: views of the particles, sampling of Fourier space, resolution in cones, slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gem3d.assess.directional import DirectionalFSC
from gem3d.assess.orientations import OrientationDistribution
from gem3d.assess.shells import Curve
from gem3d.assess.slice_correlation import SliceCorrelation
from gem3d.report.parts import Plot
from gem3d.report.style import COUNTS, GREY, SEQUENCE, colour_bar, colour_scale, float32, new_figure

DISC_PIXELS = 161
# The colours span at least so much, relative to the best: noise must not look like a pattern.
LEAST_SPREAD = 0.1
LATITUDES_DEG = (-90, -45, -30, -15, 0, 15, 30, 45, 90)


def views_plot(orientations: OrientationDistribution) -> Plot:
    """Particles per bin of viewing direction, longitude against the sine of latitude: equal areas."""
    figure = new_figure()
    counts = orientations.counts
    figure.add_heatmap(
        x=float32(orientations.longitude_deg),
        y=float32(np.sin(np.radians(orientations.latitude_deg))),
        z=float32(counts),
        customdata=float32(
            np.broadcast_to(_middles(orientations.latitude_deg)[:, None], counts.shape),
        ),
        colorscale=COUNTS,
        zmin=0,
        colorbar=colour_bar("particles"),
        hovertemplate="longitude %{x:.0f}°, latitude %{customdata:.0f}°: %{z:.0f} particles<extra></extra>",
    )
    figure.update_xaxes(title_text="longitude (°)", tickvals=list(range(-180, 361, 60)), showgrid=False)
    figure.update_yaxes(
        title_text="latitude (°)",
        tickvals=[float(np.sin(np.radians(latitude))) for latitude in LATITUDES_DEG],
        ticktext=[str(latitude) for latitude in LATITUDES_DEG],
        range=[-1, 1],
        showgrid=False,
        zeroline=False,
    )
    return Plot("views", figure, 380, 440)


def sampling_plot(orientations: OrientationDistribution) -> Plot:
    """How often Fourier space is sampled along each direction of half a sphere, 1 for uniform views."""
    top = max(2.0, float(np.quantile(orientations.sampling, 0.99)))
    return _disc(
        "sampling",
        orientations.directions,
        orientations.sampling,
        (0.0, top),
        "relative to uniform views",
        "%{z:.2f} of uniform",
    )


def directional_plot(directional: DirectionalFSC) -> Plot:
    """Resolution along each direction of half a sphere."""
    found = directional.resolution_A[np.isfinite(directional.resolution_A)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    return _disc(
        "directional",
        directional.directions,
        directional.resolution_A,
        (low, max(high, low * (1 + LEAST_SPREAD))),
        "resolution (Å)",
        "%{z:.2f} Å",
    )


def slices_plot(slices: SliceCorrelation) -> Plot:
    """Correlation of matching central slices over the direction of their normal."""
    figure = new_figure()
    figure.add_heatmap(
        x=float32(slices.azimuth_deg),
        y=float32(slices.elevation_deg),
        z=float32(slices.values),
        zmin=min(float(slices.values.min()), float(slices.values.max()) - LEAST_SPREAD),
        zmax=float(slices.values.max()),
        colorscale=colour_scale(SEQUENCE),
        colorbar=colour_bar("correlation"),
        hovertemplate="azimuth %{x:.0f}°, elevation %{y:.0f}°: %{z:.3f}<extra></extra>",
    )
    figure.update_xaxes(title_text="azimuth (°)", dtick=60, showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="elevation (°)", dtick=30, showgrid=False, zeroline=False)
    return Plot("slices", figure, 380, 440)


def on_disc(directions: NDArray[np.float64], values: Curve) -> tuple[Curve, NDArray[np.float64]]:
    """Values over half a sphere as a disc (Lambert's azimuthal equal-area projection), seen from +z.

    Each pixel takes the value of the nearest direction, a direction and its opposite being one.

    Returns
    -------
    coordinate, picture: `(n,)` from -1 to 1, and `(n, n)` [y, x], NaN outside the disc.
    """
    coordinate = np.linspace(-1, 1, DISC_PIXELS)
    x, y = np.meshgrid(coordinate, coordinate)
    radius = np.hypot(x, y)
    inside = radius <= 1
    polar = 2 * np.arcsin(np.minimum(radius, 1) / np.sqrt(2))
    azimuth = np.arctan2(y, x)
    points = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1
    )
    tree = cKDTree(np.concatenate([directions, -directions]))
    _, nearest = tree.query(points[inside])
    picture = np.full(x.shape, np.nan)
    picture[inside] = values[nearest % len(directions)]
    return coordinate, picture


def _disc(
    name: str,
    directions: NDArray[np.float64],
    values: Curve,
    limits: tuple[float, float],
    title: str,
    hover: str,
) -> Plot:
    coordinate, picture = on_disc(directions, values)
    figure = new_figure(margin={"l": 12, "r": 12, "t": 24, "b": 24})
    # Beneath the values: where there is none, grey shows.
    circle = {"type": "circle", "x0": -1, "x1": 1, "y0": -1, "y1": 1}
    figure.add_shape(**circle, fillcolor="#e3e7eb", line_width=0, layer="below")
    # Over the values: the steps of their pixels are covered.
    figure.add_shape(**circle, line={"color": "white", "width": 5})
    figure.add_shape(**circle, line={"color": GREY, "width": 1})
    figure.add_heatmap(
        x=float32(coordinate),
        y=float32(coordinate),
        z=float32(picture),
        zmin=limits[0],
        zmax=limits[1],
        colorscale=colour_scale(SEQUENCE),
        colorbar=colour_bar(title),
        hoverongaps=False,
        hovertemplate=f"{hover}<extra></extra>",
    )
    axis = {"visible": False, "range": [-1.16, 1.16], "constrain": "domain"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis, scaleanchor="x")
    for x, y, text in ((1.09, 0, "x"), (0, 1.09, "y")):
        figure.add_annotation(x=x, y=y, text=text, showarrow=False)
    figure.add_annotation(x=0, y=0, text="z", showarrow=False, bgcolor="rgba(255,255,255,0.7)")
    return Plot(name, figure, 380, 320)


def _middles(edges: Curve) -> Curve:
    middles: Curve = (edges[1:] + edges[:-1]) / 2
    return middles
