"""The report: what it says, that it says it of the right data, and that its files are what they claim to be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d.assess import resolution_at, sphere_mask
from gem3d.assess.claim import claim_resolution
from gem3d.assess.overfit import LikelihoodGain
from gem3d.assess.shells import Curve
from gem3d.assess.sphere import half_sphere
from gem3d.assessment import Assessment
from gem3d.report import RunFacts, write_report
from gem3d.report.chimerax import chimerax_script
from gem3d.report.direction_plots import on_disc
from gem3d.report.emdb import fsc_xml
from gem3d.report.fsc_plots import fsc_plot
from gem3d.report.local_plots import colour_range_A
from gem3d.report.page import report_page, typeset
from gem3d.report.style import BLUE, ORANGE, TICKS_A, resolution_axis
from gem3d.report.surface import contour_level, enclosed_kDa, isosurface, local_at
from gem3d.report.verdict import SHARED_ERRORS, verdict
from report_example import BOX, PIXEL_A, example, example_facts

LAST = BOX // 2
SHELLS = np.arange(LAST + 1)
OPTIONAL = (
    "local",
    "directional",
    "slices",
    "orientations",
    "reference",
    "likelihood",
    "guinier",
    "map_local",
)


def said(assessment: Assessment, warnings: tuple[str, ...] = ()) -> str:
    return "\n".join(f"{finding.level}: {finding.text}" for finding in verdict(assessment, warnings))


def with_curve(curve: Curve, valid: int | None = LAST, last: int = LAST) -> Assessment:
    """The example with another calibrated FSC, and nothing else to find."""
    valid = None if valid is None else min(valid, last)
    curve, errors = curve[: last + 1], np.full(last + 1, 0.01)
    claim = claim_resolution(
        curve,
        errors,
        first_shell=1,
        valid_up_to_shell=valid,
        last_tested_shell=last,
        threshold=0.143,
        pixel_size_A=PIXEL_A,
        box_size=BOX,
    )
    calibrated = replace(
        example().calibrated,
        smoothed=curve,
        stderr=errors,
        first_tested_shell=1,
        valid_up_to_shell=valid,
        claim=claim,
    )
    nothing = dict.fromkeys(OPTIONAL)
    return replace(example(), calibrated=calibrated, **nothing)


def without_claim() -> Assessment:
    found = with_curve(np.zeros(LAST + 1), valid=None)
    assert found.claim.kind == "none"
    return found


def bare() -> Assessment:
    return ordinary(replace(example(), **dict.fromkeys(OPTIONAL)))


def ordinary(assessment: Assessment) -> Assessment:
    """As if no linear half maps had been given."""
    return replace(assessment, has_linear=False, linear=None)


# What is said


def test_verdict_begins_with_the_claim_and_ends_with_what_no_half_map_can_show() -> None:
    findings = verdict(example())
    assert findings[0].level == "good"
    assert findings[0].text.startswith(f"Resolution: {example().claim.resolution_A:.2f} A, 90 % interval")
    assert findings[-1].text == SHARED_ERRORS
    assert "wrong poses" in SHARED_ERRORS
    assert "pixel size" in SHARED_ERRORS


@pytest.mark.parametrize(
    ("curve", "ends", "words"),
    [
        (1 / (1 + np.exp((SHELLS - 13) / 1.5)), {}, "the curve falls smoothly, from 0.5 at 9.2 A"),
        (np.full(LAST + 1, 0.8), {}, "Nyquist, the end of the data"),
        (np.full(LAST + 1, 0.8), {"last": 15}, "nothing finer is in the maps"),
        (np.full(LAST + 1, 0.4), {"valid": 12}, "do not correlate significantly"),
        (np.where(SHELLS < 14, 0.9, 0.0), {}, "something abrupt"),
    ],
)
def test_what_limits_the_resolution(curve: Curve, ends: dict[str, int], words: str) -> None:
    limits = [line for line in said(with_curve(curve, **ends)).splitlines() if "What limits it" in line]
    assert len(limits) == 1
    assert words in limits[0]


def test_only_a_run_that_was_limited_is_told_to_ask_for_more() -> None:
    short, whole = with_curve(np.full(LAST + 1, 0.8), last=15), with_curve(np.full(LAST + 1, 0.8))
    for assessment, limited in ((short, True), (short, False), (whole, True)):
        text = " ".join(finding.text for finding in verdict(assessment, limited=limited))
        assert ("--max-resolution" in text) == (assessment is short and limited)
    page = report_page(short, RunFacts(summary={"settings": {"max_resolution_A": 6.4}}))
    assert "finer --max-resolution" in page


def test_the_head_of_the_page_says_or_finer_only_where_the_data_end() -> None:
    open_end = with_curve(np.full(LAST + 1, 0.8))
    assert "or finer: the calibrated FSC" in report_page(open_end, RunFacts())
    faded = report_page(with_curve(np.full(LAST + 1, 0.4), valid=12), RunFacts())
    assert "or finer" not in faded
    assert "the last shell that can be judged" in faded


def test_an_ordinary_claim_never_speaks_of_linear_half_maps_as_if_there_were_some() -> None:
    last_valid = ordinary(with_curve(np.full(LAST + 1, 0.4), valid=12))
    silent = ordinary(without_claim())
    for found, words in (
        (
            last_valid,
            "note: What limits it: the number of particles, or their noise. Beyond 10.00 A the half maps",
        ),
        (last_valid, "note: Resolution: 10.00 A, 90 % interval"),
        (silent, "warning: Resolution: none claimed: the half maps do not correlate"),
    ):
        assert words in said(found)
        assert "the linear half maps" not in said(found)
        assert "calibrated FSC" not in report_page(found, RunFacts()).split("<script>")[0]
    head = "ordinary FSC, masked after the shell filter, 90 % interval"
    page = report_page(last_valid, RunFacts())
    assert head in page
    assert "the last shell that can be judged" in page
    assert "or finer" not in page
    assert head not in report_page(silent, RunFacts())


def test_nothing_claimed_is_a_warning_and_nothing_limits_it() -> None:
    findings = verdict(without_claim())
    assert findings[0].level == "warning"
    assert "none claimed" in findings[0].text
    assert "What limits it" not in said(without_claim())


def test_preferred_orientation_is_named_below_a_cfar_of_one_half() -> None:
    a = example()
    assert a.directional is not None
    resolution_A = a.directional.resolution_A.copy()
    resolution_A[3], resolution_A[4] = 4.0, 9.0
    for cfar in (0.2, 0.49, 0.5, 0.9):
        text = said(replace(a, directional=replace(a.directional, cfar=cfar, resolution_A=resolution_A)))
        assert ("preferred orientation" in text) == (cfar < 0.5)
        assert ("worst direction reaches 9.0 A against 4.0 A" in text) == (cfar < 0.5)
        assert f"cFAR {cfar:.2f}" in text
    nothing = replace(a.directional, cfar=float("nan"), resolution_A=np.full_like(resolution_A, np.nan))
    assert "cFAR" not in said(replace(a, directional=nothing))
    assert "nan" not in report_page(replace(a, directional=nothing), RunFacts()).split("<script>")[0].lower()


def test_directions_without_a_crossing_are_the_best_or_the_worst_by_where_their_curve_is() -> None:
    a = example()
    assert a.directional is not None
    resolution_A, curves = a.directional.resolution_A.copy(), a.directional.curves.copy()
    resolution_A[:2] = np.nan
    curves[0], curves[1] = 0.9, 0.01
    directional = replace(a.directional, cfar=0.1, resolution_A=resolution_A, curves=curves)
    text = said(replace(a, directional=directional))
    assert "worst direction reaches nothing against 6.0 A, where the valid range ends, in the best" in text


def test_flexibility_is_named_where_quartiles_are_far_apart() -> None:
    a = example()
    assert a.local is not None
    assert "flexibility" not in said(replace(a, local=replace(a.local, quartiles_A=(4.0, 4.9))))
    assert "go from 4.0 to 5.1 A" in said(replace(a, local=replace(a.local, quartiles_A=(4.0, 5.1))))


def test_agreement_that_the_prior_made_is_measured() -> None:
    a = example()
    assert "Agreement the prior made" in said(a), "structure was put into both halves"
    assert a.claim.estimate_A is not None
    # An ordinary curve that crosses at a known place.
    last = BOX * PIXEL_A / a.claim.estimate_A * 1.1
    steep = np.clip(0.143 + 0.4 * (last - SHELLS), -1, 1)
    text = said(replace(a, half=replace(a.half, masked=steep)))
    crossing = resolution_at(steep, 0.143, PIXEL_A, BOX).resolution_A
    assert f"crosses 0.143 at {crossing:.2f} A, 10 % finer" in text
    same = np.clip(0.143 + 0.4 * (last / 1.1 - SHELLS), -1, 1)
    text = said(replace(a, half=replace(a.half, masked=same)))
    assert "Agreement" not in text
    assert "next to no agreement" in text


def test_without_linear_half_maps_the_ordinary_fsc_is_called_so() -> None:
    text = said(bare())
    assert "No linear half maps were given" in text
    assert "ordinary FSC" in text
    assert "Agreement" not in text
    page = report_page(bare(), RunFacts())
    assert "ordinary FSC of the half maps" in page
    assert "calibrated FSC" not in page.split("<script>")[0]


def test_without_linear_half_maps_the_number_of_other_programs_stands_beside_the_claim() -> None:
    a = bare()
    corrected_A = a.half.resolution.resolution_A
    assert corrected_A is not None
    tile = "<dt>masked, corrected by random phases</dt>"
    assert f"{tile}<dd>{corrected_A:.2f} Å</dd>" in report_page(a, RunFacts())
    assert tile not in report_page(example(), RunFacts())
    endless = resolution_at(np.ones(LAST + 1), 0.143, PIXEL_A, BOX)
    page = report_page(replace(a, half=replace(a.half, resolution=endless)), RunFacts())
    assert f"{tile}<dd>not below 0.143 up to Nyquist</dd>" in page


def test_tight_mask_is_a_warning() -> None:
    a = example()
    assert a.linear is not None
    assert "too tight" not in said(a)
    text = said(replace(a, linear=replace(a.linear, mask_too_tight=True)))
    assert (
        "warning: The mask is too tight for the masked and corrected curves of the linear half maps:" in text
    )
    text = said(replace(bare(), half=replace(a.half, mask_too_tight=True)))
    assert "for the masked and corrected curves of the half maps:" in text
    assert "The claim is masked after the shell filter and hardly affected" in text


def test_held_out_particles_count_up_to_the_resolution() -> None:
    a = example()
    assert a.claim.estimate_A is not None
    assert "good: Up to the resolution the maps explain particles that they have never seen" in said(a)
    last = int(BOX * PIXEL_A / a.claim.estimate_A)
    stderr = np.full(LAST + 1, 0.01)

    def with_bad(shells: slice, gain: float = -0.05) -> str:
        unseen = np.full(LAST + 1, 0.02)
        unseen[shells] = gain
        bad = LikelihoodGain(None, unseen, stderr, 950, 50)
        good = LikelihoodGain(None, np.full(LAST + 1, 0.02), stderr, 950, 50)
        return said(replace(a, likelihood=(good, bad)))

    assert "follows noise" not in with_bad(slice(last + 3, None)), "beyond the resolution"
    assert "follows noise" not in with_bad(slice(last - 1, last)), "one shell among good ones"
    chance = with_bad(slice(last - 6, last + 1), -0.005)
    assert "follows noise" not in chance, "not more than chance"
    assert "note: The particles that were held out (50 and 50 of the two halves) are too few" in chance
    text = with_bad(slice(last - 6, last))
    assert "warning: Half 2 explains held-out particles worse than no map at all between" in text
    assert "Half 1" not in text


def test_unseen_directions_reference_and_warnings_of_the_run() -> None:
    a = example()
    assert a.orientations is not None
    assert "No image reaches" not in said(a)
    text = said(replace(a, orientations=replace(a.orientations, unseen=0.125)), ("poses were guessed",))
    assert "warning: No image reaches 12.5 %" in text
    assert "warning: Said during the run: poses were guessed." in text
    assert "Against the reference truth.mrc: the masked FSC crosses 0.5" in text


# What is drawn


def test_calibrated_curve_ends_at_its_validity_and_hover_says_angstroms() -> None:
    a = example()
    curves = {trace.name: trace for trace in fsc_plot(a).figure.data}
    assert a.calibrated.valid_up_to_shell is not None
    valid = slice(1, a.calibrated.valid_up_to_shell + 1)
    assert a.calibrated.valid_up_to_shell < LAST
    np.testing.assert_allclose(curves["calibrated"].x, SHELLS[valid] / (BOX * PIXEL_A))
    np.testing.assert_allclose(curves["calibrated"].y, a.calibrated.smoothed[valid], atol=1e-6)
    assert len(curves["masked"].x) == LAST
    assert curves["corrected"].line.color == ORANGE
    of_ordinary = {trace.name: trace for trace in fsc_plot(bare()).figure.data}
    claimed = of_ordinary["masked after the shell filter"]
    np.testing.assert_allclose(claimed.y, a.calibrated.smoothed[valid], atol=1e-6)
    assert (claimed.line.color, of_ordinary["corrected"].line.color) == (BLUE, ORANGE)
    hover = curves[""]
    np.testing.assert_allclose(hover.customdata, 1 / hover.x, rtol=1e-5)
    assert "customdata" in hover.hovertemplate


@given(st.floats(0.02, 0.9), st.sampled_from([1, 2]))
def test_ticks_in_angstroms_are_where_they_belong_and_apart(last_per_A: float, power: int) -> None:
    axis = resolution_axis(last_per_A, power=power)
    ticks, labels = np.array(axis["tickvals"]), [float(text) for text in axis["ticktext"]]
    np.testing.assert_allclose(ticks, [label**-power for label in labels])
    assert set(labels) <= set(TICKS_A)
    assert (ticks <= last_per_A**power).all()
    assert (np.abs(np.diff(ticks)) > 0.08 * last_per_A**power).all()


@pytest.mark.parametrize("box_size", [40, 41])
def test_surface_of_a_ball_lies_on_it(box_size: int) -> None:
    ball = sphere_mask(box_size, 2.0, 44.0, 4.0)
    mask = sphere_mask(box_size, 2.0, 70.0, 4.0)
    level = contour_level(ball, mask)
    assert 0.05 < level < 0.95
    surface = isosurface(ball, mask, level, 2.0)
    assert surface is not None
    radius = np.linalg.norm(surface.vertices_A, axis=1)
    assert radius.min() > 21.5
    assert radius.max() < 26.5
    assert np.abs(surface.vertices_A.mean(0)).max() < 0.05, "around the centre of the box"
    edges = np.sort(surface.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, times = np.unique(edges, axis=0, return_counts=True)
    assert (times == 2).all(), "closed"
    volume_A3 = 4 / 3 * np.pi * radius.mean() ** 3
    assert enclosed_kDa(ball, mask, level, 2.0) == pytest.approx(volume_A3 / 1210, rel=0.05)


def test_surface_axes_are_x_y_z_and_local_resolution_is_read_there() -> None:
    z, y, x = np.indices((41,) * 3) - 20.0
    rod = (np.exp(-((x / 12) ** 4) - (y / 4) ** 4 - (z / 6) ** 4)).astype(np.float32)
    surface = isosurface(rod, np.ones_like(rod), 0.5, 1.5)
    assert surface is not None
    extent = np.ptp(surface.vertices_A, axis=0)
    assert extent[0] > extent[2] > extent[1]
    assert example().local is not None
    values = (10 + 0.1 * x + 0.2 * y + 0.3 * z).astype(np.float32)
    local = replace(example().local, values_A=values)
    expected = 10 + surface.vertices_A @ np.array([0.1, 0.2, 0.3]) / 1.5
    np.testing.assert_allclose(local_at(surface, local, 1.5), expected, rtol=1e-4)


def test_large_surfaces_are_coarsened_and_stay_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ball = sphere_mask(48, 1.0, 30.0, 6.0)
    monkeypatch.setattr("gem3d.report.surface.MOST_VERTICES", 1000)
    surface = isosurface(ball, np.ones_like(ball), 0.5, 1.0)
    assert surface is not None
    assert len(surface.vertices_A) <= 1000
    assert surface.grid_A > 1.5
    radius = np.linalg.norm(surface.vertices_A, axis=1)
    assert np.abs(radius - 18).max() < 1
    assert np.abs(surface.vertices_A.mean(0)).max() < 0.1


def test_molecule_at_the_border_is_closed_and_nothing_has_no_surface() -> None:
    full = np.ones((16,) * 3, dtype=np.float32)
    surface = isosurface(full, full, 0.5, 1.0)
    assert surface is not None
    assert np.ptp(surface.vertices_A, axis=0) == pytest.approx([16, 16, 16], abs=1.1)
    assert isosurface(full, full, 2.0, 1.0) is None
    assert isosurface(np.zeros_like(full), full, contour_level(np.zeros_like(full), full), 1.0) is None


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_disc_shows_equal_areas_and_takes_opposites_for_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    directions = half_sphere(500)
    _, height = on_disc(directions, np.abs(directions[:, 2]))
    inside = np.isfinite(height)
    assert inside.mean() == pytest.approx(np.pi / 4, abs=0.015)
    cut = rng.uniform(0.1, 0.9)
    assert (height[inside] > cut).mean() == pytest.approx(1 - cut, abs=0.02)
    signs = rng.choice([-1.0, 1.0], (500, 1))
    np.testing.assert_array_equal(on_disc(directions * signs, np.abs(directions[:, 2]))[1], height)


def test_disc_has_x_to_the_right_and_y_upwards() -> None:
    directions = half_sphere(500)
    coordinate, picture = on_disc(directions, directions[:, 0] + 10 * directions[:, 1])
    middle, edge = len(coordinate) // 2, np.searchsorted(coordinate, 0.9)
    assert picture[middle, edge] == pytest.approx(1, abs=0.5)
    assert picture[edge, middle] == pytest.approx(10, abs=0.5)


# The page


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(example(), example_facts())


def test_page_loads_nothing_and_is_small(page: str) -> None:
    assert len(page.encode()) < 8e6
    tags = _Tags(page)
    assert not tags.all("src")
    assert not tags.all("action")
    assert all(link.startswith("#") for link in tags.all("href"))
    assert not {"link", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in tags.tags}
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    own_script = page.rsplit("<script>", 1)[1]
    assert not re.search(r"fetch|XMLHttpRequest|import|http", own_script)


def test_page_hangs_together(page: str) -> None:
    tags = _Tags(page)
    names = tags.all("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in tags.all("href")} <= set(names)
    plots = [a["id"] for _, a in tags.tags if "plot" in (a.get("class") or "").split()]
    assert len(plots) == 16
    for name in plots:
        content = page.split(f'id="{name}-data">')[1].split("</script>")[0]
        figure = json.loads(content)
        assert figure["data"], name
    assert page.count("<figcaption>") == page.count("<figure>")


def test_equal_input_gives_equal_bytes(page: str) -> None:
    assert report_page(example(), example_facts()) == page


def test_page_says_what_is_known_of_the_run(page: str) -> None:
    for words in (
        "made-up molecule",
        "2,001 particles",
        "gem3d reconstruct particles.star --out results",
        "/data/set/particles.star",
        "2 min 6 s",
        "the defocus of 3 particles is zero",
        "linear_half1.mrc and linear_half2.mrc: unmasked, unfiltered, unsharpened, on the grid of the primary map",
        "400 Gaussians, 3 steps, not kept",
    ):
        assert words in page, words


def test_linear_half_maps_that_were_given_are_named_as_the_user_names_them() -> None:
    given = RunFacts(summary={"maps": {"linear": ["/data/run/half1_unfil.mrc", "/data/run/half2_unfil.mrc"]}})
    page = report_page(example(), given)
    assert "half1_unfil.mrc and half2_unfil.mrc: unmasked" in page
    assert "linear_half1.mrc" not in page


def test_what_is_absent_from_the_data_is_absent_from_the_page_with_a_reason() -> None:
    reasons = {
        "local": "too narrow to tell so few shells apart",
        "directional": "Directions were not compared.",
        "orientations": "No particle file was given, so the distribution of views is not known.",
        "likelihood": "The maps were not made here, so there are no held-out particles to judge them by.",
        "guinier": "No B factor was measured.",
    }
    page = report_page(bare(), RunFacts())
    for reason in [*reasons.values(), "there are no Gaussians to show", "how they were made is not known"]:
        assert reason in page, reason
    for name in (
        "local",
        "directional",
        "cones",
        "views",
        "sampling",
        "slices",
        "likelihood",
        "loss",
        "gaussians",
    ):
        assert f'id="{name}"' not in page, name
    full = report_page(example(), example_facts())
    assert not any(reason in full for reason in reasons.values())
    assert "No resolution can be claimed, so there is none to compare" in report_page(
        without_claim(), RunFacts()
    )


def test_text_from_outside_is_escaped_everywhere() -> None:
    attack = '<img src="x" onerror="alert(1)"> </script><script>alert(2)</script> & "5 A"'
    a = example()
    assert a.reference is not None
    facts = replace(
        example_facts(),
        title=attack,
        command=attack,
        summary={
            "particle_file": attack,
            "settings": {attack: attack},
            "versions": {attack: attack},
            "seconds": {attack: 1.0},
            "warnings": [attack],
        },
        rounds={attack: example_facts().rounds["half 1"]},
    )
    page = report_page(replace(a, reference=replace(a.reference, name=attack)), facts)
    tags = _Tags(page)
    assert "img" not in {tag for tag, _ in tags.tags}
    assert not tags.all("onerror")
    assert "<script>alert" not in page
    assert page.count("<script>") == 2, "plotly and the page's own"


def test_angstroms_are_typeset_where_they_are_units() -> None:
    assert (
        typeset("4.2 A, 90 % interval 4.3 to open A; B = 80 A^2")
        == "4.2 Å, 90 % interval 4.3 to open Å; B = 80 Å²"
    )
    assert typeset("A map. 3 Andes") == "A map. 3 Andes"


# The other files


def test_fsc_xml_is_the_claimed_curve_up_to_its_validity() -> None:
    a = example()
    text = fsc_xml(a)
    assert text is not None
    root = ElementTree.fromstring(text)
    assert root.tag == "fsc"
    assert root.attrib == {
        "title": "gem3d calibrated FSC",
        "xaxis": "Resolution (A-1)",
        "yaxis": "Correlation Coefficient",
    }
    last = a.calibrated.valid_up_to_shell
    assert last is not None
    assert [child.tag for child in root] == ["coordinate"] * last
    x, y = (np.array([float(child.findtext(axis)) for child in root]) for axis in "xy")
    np.testing.assert_allclose(x, SHELLS[1 : last + 1] / (BOX * PIXEL_A), atol=1e-6)
    np.testing.assert_allclose(y, np.minimum(a.calibrated.smoothed[1 : last + 1], 1), atol=1e-6)
    assert fsc_xml(without_claim()) is None
    assert 'title="gem3d FSC, masked after the shell filter"' in str(fsc_xml(bare()))


def test_chimerax_script_opens_files_beside_it_as_the_report_shows_them() -> None:
    a = example()
    script = chimerax_script(a)
    opened = re.findall(r"^open (\S+) id \d$", script, re.MULTILINE)
    assert opened == ["map_local.mrc", "mask.mrc", "local_resolution.mrc"]
    assert "/" not in "".join(line for line in script.splitlines() if not line.startswith("#"))
    assert a.map_local is not None
    assert a.local is not None
    level = contour_level(a.map_local, a.mask)
    assert f"volume #1 style surface step 1 level {level:g}\n" in script
    assert f"at the level {level:g} (" in report_page(a, RunFacts())
    stops = re.search(r"palette (\S+)", script)
    assert stops is not None
    values = [float(stop.split(",")[0]) for stop in stops[1].split(":")]
    low_A, high_A = colour_range_A(a.local, a.mask)
    assert (values[0], values[-1]) == pytest.approx((low_A, high_A))
    assert f'"cmin":{low_A},' in report_page(a, RunFacts())
    without = chimerax_script(bare())
    assert "open map.mrc id 1" in without
    assert "local" not in without


@pytest.mark.parametrize("spread_A", [0.0, 3.0])
def test_colours_span_most_of_the_mask(spread_A: float) -> None:
    values = np.linspace(4, 4 + spread_A, BOX**3, dtype=np.float32).reshape((BOX,) * 3)
    assert example().local is not None
    low_A, high_A = colour_range_A(replace(example().local, values_A=values), np.ones_like(values))
    assert low_A <= 4.1
    assert high_A >= 3.9 + spread_A
    assert 0.39 < high_A - low_A < spread_A + 0.5


def test_write_report_leaves_no_curve_of_an_earlier_one(tmp_path: Path) -> None:
    write_report(tmp_path, example(), example_facts())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fsc.xml", "report.html", "view.cxc"]
    write_report(tmp_path, without_claim())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "view.cxc"]
    assert "no resolution claimed" in (tmp_path / "report.html").read_text(encoding="utf-8")
