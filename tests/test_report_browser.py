"""The report in a real browser: no errors, no network, pictures that answer to the mouse, no sideways scrolling.

Skipped where no browser is installed, unless GEM3D_REQUIRE_BROWSER=1: then a missing one is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gem3d.report import write_report
from report_example import example, example_facts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALLED = next((found for name in BROWSERS if (found := shutil.which(name))), None)
REQUIRED = os.environ.get("GEM3D_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(
    INSTALLED is None and not REQUIRED,
    reason=f"none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)",
)

# WebGL without a graphics card; a sandbox is for pages of others.
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
PATIENCE_MS = 120_000
CAMERA = "document.getElementById('surface').layout.scene.camera.eye"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium or its like; playwright's own browsers are not downloaded."""
    from playwright.sync_api import sync_playwright

    assert INSTALLED is not None, f"GEM3D_REQUIRE_BROWSER=1, but none of {', '.join(BROWSERS)} is installed"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=INSTALLED, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, example(), example_facts())
    return folder / "report.html"


class Visit:
    """A page opened from disk with the network cut, and what went wrong on it."""

    def __init__(self, browser: Browser, report: Path, width_px: int) -> None:
        self.page: Page = browser.new_page(viewport={"width": width_px, "height": 900})
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.context.set_offline(True)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_selector("body.drawn")

    def middle_of(self, name: str) -> tuple[float, float]:
        """Of a plot, in the window, once it is scrolled into view."""
        plot = self.page.locator(f"#{name}")
        plot.evaluate("element => element.scrollIntoView({ block: 'center', behavior: 'instant' })")
        box = plot.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="module")
def visit(browser: Browser, report: Path) -> Iterator[Visit]:
    opened = Visit(browser, report, 1280)
    yield opened
    opened.page.close()


def test_every_plot_is_drawn_without_errors_or_network(visit: Visit, report: Path) -> None:
    assert visit.errors == []
    outside = [url for url in visit.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [report.as_uri()]
    plots = visit.page.locator(".plot")
    assert plots.count() == 16
    assert visit.page.locator(".plot .main-svg").count() >= plots.count()
    assert visit.page.locator(".plot.scene canvas").count() >= 2


def test_hovering_a_curve_names_its_values_and_the_resolution(visit: Visit) -> None:
    x, y = visit.middle_of("fsc")
    visit.page.mouse.move(x - 5, y)
    visit.page.mouse.move(x, y)
    label = visit.page.locator("#fsc .hoverlayer .legend")
    label.wait_for()
    text = label.text_content() or ""
    assert "calibrated" in text
    assert "Å" in text
    visit.page.mouse.move(0, 0)
    label.wait_for(state="detached")


def test_dragging_turns_the_surface(visit: Visit) -> None:
    x, y = visit.middle_of("surface")
    before = visit.page.evaluate(CAMERA)
    visit.page.mouse.move(x, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x + 120, y + 40, steps=5)
    visit.page.mouse.up()
    visit.page.wait_for_function(f"before => Math.abs({CAMERA}.x - before.x) > 0.05", arg=before)
    assert visit.errors == []


@pytest.mark.parametrize("width_px", [1280, 390])
def test_nothing_reaches_beyond_the_window(browser: Browser, report: Path, width_px: int) -> None:
    visit = Visit(browser, report, width_px)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width_px
    wide = visit.page.evaluate(
        "() => [...document.querySelectorAll('main *')].filter((e) => !e.closest('.plot, details')"
        " && e.getBoundingClientRect().right > window.innerWidth + 1).map((e) => e.tagName + e.textContent)"
    )
    assert wide == []
    assert visit.errors == []
    visit.page.close()
