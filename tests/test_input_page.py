"""docs/input.md names files and tests: all of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "input.md").read_text()
FORMATS = TESTS.parents[1] / "shared" / "data" / "formats"


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE))
    assert len(named) > 30
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in ((TESTS / file).read_text() if (TESTS / file).is_file() else "")
    ]
    assert not missing


@pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared reference data is not here")
def test_every_shared_file_is_on_the_page() -> None:
    assert [path.name for path in FORMATS.iterdir() if f"`{path.name}`" not in PAGE] == []
