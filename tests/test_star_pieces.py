"""STAR files whose tables are so long that they are read a piece at a time."""

from __future__ import annotations

import codecs
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gem3d.errors import ParticleFileError
from gem3d.particles import read_particles, star_pieces, write_relion_star
from gem3d.particles.star_table import read_star
from gem3d.simulate import Simulation

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnVoltage #2\n# rows follow\n\n1 300\n\n"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(star_pieces, "PIECE_BYTES", 100)


def table(n: int) -> str:
    """A table whose rows tell them apart, with comments, blank lines and quotes in it."""
    between = {7: "# a comment\n", 9: "\n", 11: "   # another\n"}
    return "data_particles\nloop_\n_rlnNumber #1\n_rlnName #2\n_rlnThird\n" + "".join(
        f"{between.get(i, '')}  {i} 'name of {i}' {i / 7:.6f} {'# said of it' if i % 5 == 0 else ''}\n"
        for i in range(n)
    )


def values(path: Path) -> dict[str, dict[str, list[str]]]:
    return {
        block.name: {column: list(block.raw(column)) for column in block.columns} for block in read_star(path)
    }


def values_at_once(path: Path) -> dict[str, dict[str, list[str]]]:
    document = gemmi.cif.read_string(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    found = {}
    for block in document:
        item = next(iter(block), None)
        tags = [] if item is None else list(item.loop.tags) if item.loop else [each.pair[0] for each in block]
        found[block.name.strip()] = {tag[1:]: list(block.find_values(tag)) for tag in tags}
    return found


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("begins", [b"", codecs.BOM_UTF8, b"# version 50001\n"])
def test_pieces_make_up_the_whole(n: int, newline: str, begins: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    for text in (table(n), OPTICS + table(n), table(n) + OPTICS, OPTICS + table(n).rstrip("\n")):
        path.write_bytes(begins + text.replace("\n", newline).encode())
        assert values(path) == values_at_once(path)
        (found,) = [block for block in read_star(path) if block.name == "particles"]
        np.testing.assert_array_equal(found.integers("rlnNumber"), np.arange(n))
        assert found.text("rlnName")[-1] == f"name of {n - 1}"


def test_a_piece_of_blank_lines_holds_no_row(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(table(40) + "\n" * 300 + OPTICS)
    assert values(path) == values_at_once(path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 59)) | st.sets(st.integers(0, 59)).map(sorted))
def test_rows_of_a_column(rows: list[int], tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(table(60))
    found = read_star(path)[0].raw("rlnNumber").at(np.array(rows, np.int64))
    assert [int(value) for value in found] == rows


IRREGULAR = {
    "rows of several lines": "data_\nloop_\n_a\n_b\n" + "1\n2\n" * 101,
    "several rows a line": "data_\nloop_\n_a\n_b\n" + "1 2 3 4 5 6\n" * 101,
    "texts of several lines": "data_\nloop_\n_a\n_b\n" + "1\n;\ntwo\nlines\n;\n" * 50,
    "two tables in a block": "data_\n" + "".join(f"loop_\n_{c}\n" + "1\n" * 200 for c in "ab"),
    "the first row in the header": "data_\nloop_\n_a\n_b 1 2\n" + "1 2\n" * 200,
    "a table inside a row": "data_\nloop_\n_a\n_b\n" + "1 2\n" * 200 + "1 2 loop_ _c 5\n" + "1 2\n" * 200,
    "a block inside a row": "data_\nloop_\n_a\n_b\n" + "1 2\n" * 200 + "1 2 data_other\n",
    "a long line": "data_\nloop_\n_a\n" + "1 " * 1000,
    "capitals": "DATA_\nLOOP_\n_A\n_B\n" + "1 2\n" * 200,
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_what_cannot_be_taken_to_pieces_is_read_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(IRREGULAR[name])
    assert values(path) == values_at_once(path)


def test_large_files_have_one_row_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(star_pieces, "LARGEST_AT_ONCE_BYTES", 300)
    path = tmp_path / "p.star"
    path.write_text(OPTICS + table(100))
    assert values(path) == values_at_once(path)
    for text in (IRREGULAR["texts of several lines"], table(100) + "100\n", table(100) + "'open\n"):
        path.write_text(text)
        with pytest.raises(ParticleFileError, match=r"p\.star: .* one particle a line"):
            read_star(path)


def test_small_files_that_are_not_well_formed_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(table(100) + "'open\n")
    n_lines = path.read_text().count("\n")
    with pytest.raises(ParticleFileError, match=rf"line {n_lines}: not a well-formed STAR file"):
        read_star(path)


def test_particles_and_what_is_written_of_them(
    made: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str) -> bytes:
        particles = read_particles(made.star)
        chosen = particles.subset(np.arange(len(particles))[::3])
        write_relion_star(chosen, tmp_path / name, template=made.star)
        return (tmp_path / name).read_bytes()

    in_pieces = written("pieces.star")
    monkeypatch.setattr(star_pieces, "PIECE_BYTES", 1 << 20)
    assert in_pieces == written("whole.star")
