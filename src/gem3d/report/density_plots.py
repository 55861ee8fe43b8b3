"""Pictures of the map: slices through its centre, the surface, and the Gaussians it is made of."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gem3d.assess.local_resolution import LocalResolution
from gem3d.assess.shells import FloatVolume
from gem3d.gaussians import Gaussians
from gem3d.report.parts import Plot
from gem3d.report.style import ORANGE, SEQUENCE, colour_bar, colour_scale, float32, new_figure
from gem3d.report.surface import Surface, local_at

MOST_SLICE_PIXELS = 256
MOST_GAUSSIANS = 8000
GREY_QUANTILES = (0.002, 0.998)
SCALE_QUANTILES = (0.03, 0.95)
LARGEST_MARKER_PX, SMALLEST_MARKER_PX = 9.0, 1.5
_LIGHTING = {"ambient": 0.5, "diffuse": 0.8, "specular": 0.15, "roughness": 0.6, "fresnel": 0.05}
# Longest side of what is shown, in plotly's units, and where the eye is: far off, so that sizes compare.
LONGEST_SIDE = 2.0
EYE = {"x": 1.35, "y": 1.6, "z": 1.1}


def slice_plots(density: FloatVolume, mask: FloatVolume, pixel_size_A: float) -> tuple[Plot, ...]:
    """Three central sections in grey, the mask's edge (0.5) drawn over them."""
    centre = len(density) // 2
    step = -(-len(density) // MOST_SLICE_PIXELS)
    sections = {
        "z": (density[centre], mask[centre], "x", "y"),
        "y": (density[:, centre], mask[:, centre], "x", "z"),
        "x": (density[:, :, centre], mask[:, :, centre], "y", "z"),
    }
    values = np.concatenate([section[0].ravel() for section in sections.values()])
    low, high = np.quantile(values, GREY_QUANTILES)
    plots = []
    for axis, (section, outline, across, up) in sections.items():
        small, edge = _binned(section, step), _binned(outline, step)
        # Centres of the binned pixels.
        position_A = ((np.arange(len(small)) + 0.5) * step - 0.5 - centre) * pixel_size_A
        figure = new_figure(margin={"l": 46, "r": 8, "t": 30, "b": 42})
        figure.add_heatmap(
            x=float32(position_A),
            y=float32(position_A),
            z=float32(small),
            colorscale=[[0, "black"], [1, "white"]],
            zmin=float(low),
            zmax=float(high),
            showscale=False,
            zsmooth="best",
            hovertemplate=f"{across} %{{x:.0f}} Å, {up} %{{y:.0f}} Å: %{{z:.3g}}<extra></extra>",
        )
        figure.add_contour(
            x=float32(position_A),
            y=float32(position_A),
            z=np.rint(100 * edge).astype(np.uint8),
            contours={"start": 50, "end": 50, "size": 1, "coloring": "none"},
            line={"color": ORANGE, "width": 1.6},
            showscale=False,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.update_layout(
            title={"text": f"{axis} = 0", "x": 0.5, "y": 0.99, "yanchor": "top", "font_size": 13}
        )
        figure.update_xaxes(title_text=f"{across} (Å)", constrain="domain", showgrid=False, zeroline=False)
        figure.update_yaxes(title_text=f"{up} (Å)", title_standoff=2, showgrid=False, zeroline=False)
        figure.update_yaxes(scaleanchor="x", constrain="domain", constraintoward="top")
        plots.append(Plot(f"slice-{axis}", figure, 325, 250))
    return tuple(plots)


def surface_plot(
    surface: Surface,
    local: LocalResolution | None,
    range_A: tuple[float, float] | None,
    pixel_size_A: float,
) -> Plot:
    """The surface, coloured by local resolution where it is known."""
    x, y, z = surface.vertices_A.T
    index = np.uint16 if len(x) <= np.iinfo(np.uint16).max else np.int32
    i, j, k = np.ascontiguousarray(surface.faces.T.astype(index))
    mesh = go.Mesh3d(
        x=float32(x),
        y=float32(y),
        z=float32(z),
        i=i,
        j=j,
        k=k,
        lighting=_LIGHTING,
        lightposition={"x": 1000, "y": 2000, "z": 3000},
        hovertemplate="%{x:.0f}, %{y:.0f}, %{z:.0f} Å<extra></extra>",
    )
    if local is None or range_A is None:
        mesh.update(color="#8fb7d3")
    else:
        values = local_at(surface, local, pixel_size_A)
        mesh.update(
            intensity=values,
            colorscale=colour_scale(SEQUENCE),
            cmin=range_A[0],
            cmax=range_A[1],
            colorbar=colour_bar("local resolution (Å)"),
            hovertemplate="%{intensity:.2f} Å<br>at %{x:.0f}, %{y:.0f}, %{z:.0f} Å<extra></extra>",
        )
    figure = _scene(surface.vertices_A)
    figure.add_trace(mesh)
    return Plot("surface", figure, 560, in_space=True)


def gaussians_plot(gaussians: Gaussians) -> Plot:
    """Centres of the Gaussians; all, or so many drawn at random."""
    n = len(gaussians)
    chosen = np.arange(n)
    if n > MOST_GAUSSIANS:
        chosen = np.sort(np.random.default_rng(0).permutation(n)[:MOST_GAUSSIANS])
    centres, masses, scales = (
        tensor.detach().numpy()[chosen]
        for tensor in (gaussians.centres_A, gaussians.masses, gaussians.log_scales.mean(1).exp())
    )
    low, high = np.quantile(scales, SCALE_QUANTILES)
    figure = _scene(centres)
    figure.add_scatter3d(
        x=float32(centres[:, 0]),
        y=float32(centres[:, 1]),
        z=float32(centres[:, 2]),
        mode="markers",
        marker={
            "size": _marker_sizes(masses),
            "color": float32(scales),
            "colorscale": colour_scale(SEQUENCE),
            "cmin": float(low),
            "cmax": float(high),
            "colorbar": colour_bar("scale (Å)"),
            "line_width": 0,
            "opacity": 0.85,
        },
        customdata=float32(masses / np.median(masses)),
        hovertemplate="scale %{marker.color:.2f} Å<br>%{customdata:.2f} of the median mass<extra></extra>",
    )
    return Plot("gaussians", figure, 520, in_space=True)


def _marker_sizes(masses: NDArray[np.floating]) -> NDArray[np.float32]:
    """Diameters in screen pixels: volumes go with the masses."""
    top = float(np.quantile(masses, 0.995)) or 1.0
    sizes = LARGEST_MARKER_PX * np.cbrt(np.clip(masses / top, 0, 1))
    return float32(np.maximum(sizes, SMALLEST_MARKER_PX))


def _scene(points_A: NDArray[np.float32]) -> go.Figure:
    """An empty scene around points `(n, 3)`, without axes, equal in scale along all three."""
    low, high = points_A.min(0), points_A.max(0)
    extent = np.maximum(high - low, 1.0)
    shares = LONGEST_SIDE * extent / extent.max()
    axes = {
        f"{name}axis": {
            "visible": False,
            "showspikes": False,
            "range": [float(low[i]), float(low[i] + extent[i])],
        }
        for i, name in enumerate("xyz")
    }
    return new_figure(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        scene={
            **axes,
            "aspectmode": "manual",
            "aspectratio": {name: float(shares[i]) for i, name in enumerate("xyz")},
            "dragmode": "orbit",
            "camera": {"eye": EYE},
        },
    )


def _binned(image: FloatVolume, step: int) -> FloatVolume:
    """Means over `step` x `step` pixels; what is left over at the end is cut off."""
    n = len(image) // step * step
    means: FloatVolume = image[:n, :n].reshape(n // step, step, n // step, step).mean((1, 3))
    return means
