"""Draw docs/images/report.png from a finished report: its verdict and sections, its FSC curves and its surface.

gem3d demo --out gem3d_demo --particles 2000 && \
    python docs/images/make_report_picture.py gem3d_demo/reconstruction/report.html docs/images/report.png

Needs playwright, pillow and a chromium. The parts are the page's own, put beside one another; nothing is redrawn.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
COLUMNS = (("#verdict", "figure:has(#slice-z)"), ("figure:has(#fsc)", "figure:has(#surface)"))
WINDOW = {"width": 1000, "height": 900}
GAP_PX = 80
SCALE = 0.62


def columns(report: Path) -> list[list[Image.Image]]:
    """Every part as it is on the page, twice as fine as on a screen."""
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport=WINDOW, device_scale_factor=2)
        page.goto(report.absolute().as_uri())
        page.wait_for_selector("body.drawn", timeout=180_000)
        page.add_style_tag(content="nav, .modebar { display: none !important }")
        found = [[page.locator(part).screenshot() for part in parts] for parts in COLUMNS]
        browser.close()
    return [[Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots] for shots in found]


def main(report: Path, target: Path) -> None:
    """Draw the picture."""
    found = columns(report)
    widths = [max(part.width for part in column) for column in found]
    height = max(sum(part.height + GAP_PX for part in column) for column in found)
    picture = Image.new("RGB", (sum(widths) + GAP_PX * (len(found) - 1), height), "white")
    left = 0
    for column, width in zip(found, widths, strict=True):
        top = 0
        for part in column:
            picture.paste(part, (left, top))
            top += part.height + GAP_PX
        left += width + GAP_PX
    size = (round(picture.width * SCALE / 2), round(picture.height * SCALE / 2))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    small.save(target, optimize=True)  # in full colours: a palette would falsify the colour bar


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
