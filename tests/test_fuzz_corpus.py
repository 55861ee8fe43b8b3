"""Every file that a reader once failed on, every file that fuzzing starts from, and some damage to them."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from random import Random

import pytest

from gem3d.errors import Gem3dError, Gem3dWarning

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "fuzz.py").exists():
    pytest.skip("benchmarks/ is not part of this copy", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

from fuzz_mutations import Mutator  # noqa: E402
from fuzz_readers import CORPUS, READERS, seeds  # noqa: E402

DAMAGED = 300


def run(name: str, data: bytes, path: Path) -> None:
    """Read a file in every way; anything but an error or a warning of our own fails the test."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Gem3dWarning)
        for way in range(READERS[name].ways):
            with contextlib.suppress(Gem3dError):
                READERS[name].read(path, way)


@pytest.mark.parametrize(
    "file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_replay(file: Path, tmp_path: Path) -> None:
    run(file.parent.name, file.read_bytes(), tmp_path / f"input{READERS[file.parent.name].suffix}")


@pytest.mark.parametrize("name", READERS)
def test_damage(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    mutator = Mutator(seeds(name), reader.damage, reader.words, Random(name))
    for _ in range(DAMAGED):
        run(name, mutator.make(), tmp_path / f"input{reader.suffix}")


def test_there_is_a_corpus_for_each_reader() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(READERS)
    assert all(any(path.name.startswith("seed_") for path in (CORPUS / name).iterdir()) for name in READERS)
