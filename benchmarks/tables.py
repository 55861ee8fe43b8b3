"""Markdown tables of the measurements, and the documentation page that holds them."""

from __future__ import annotations

import re
from pathlib import Path

import store

Row = dict[str, str]

BEGIN, END = "<!-- results: {} -->", "<!-- end of results -->"
_BLOCK = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end of results -->", re.DOTALL)
NOT_YET = "Not measured yet."


def latest(rows: list[Row]) -> list[Row]:
    """The last measurement of every table, case and measure, in the order in which they first appear."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        found[row["table"], row["case"], row["measure"]] = row
    return list(found.values())


def render(rows: list[Row]) -> str:
    """Tables with a line a case and a column a measure; targets stand in the head, what misses them is bold."""
    rows = latest(rows)
    blocks = []
    for table in _distinct(row["table"] for row in rows):
        inside = [row for row in rows if row["table"] == table]
        measures = _distinct(row["measure"] for row in inside)
        targets = {row["measure"]: row["target"] for row in inside if row["target"]}
        head = [
            measure + (f" (target {targets[measure]})" if measure in targets else "") for measure in measures
        ]
        lines = [_line([table, *head]), _line(["---"] + ["---:"] * len(measures))]
        for case in _distinct(row["case"] for row in inside):
            cells = {row["measure"]: _cell(row) for row in inside if row["case"] == case}
            lines.append(_line([case, *(cells.get(measure, "") for measure in measures)]))
        blocks.append("\n".join(lines))
        judged = [row for row in inside if row["met"]]
        if judged:
            met = sum(row["met"] == "yes" for row in judged)
            blocks.append(f"Targets met: {met} of {len(judged)}.")
    return "\n\n".join([*blocks, *_made_with(rows)])


def notes(rows: list[Row]) -> list[str]:
    """What has to be said beside a number, one line each."""
    return [f"{row['case']}: {row['measure']}: {row['note']}" for row in latest(rows) if row["note"]]


def fill(page: str, results: Path) -> str:
    """Replace what stands between the marks of a page by the tables of the CSV files in `results`."""

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        path = results / f"{name}.csv"
        body = render(store.read(path)) if path.exists() else NOT_YET
        return f"{BEGIN.format(name)}\n{body}\n{END}"

    return _BLOCK.sub(block, page)


def _cell(row: Row) -> str:
    if not row["value"]:
        text = "none"
    else:
        value = float(row["value"])
        # Three significant digits, but all of a whole number.
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"**{text}**" if row["met"] == "no" else text


def _made_with(rows: list[Row]) -> list[str]:
    """One line for each machine and set of versions among the rows."""
    lines = []
    for row in rows:
        relion = f", RELION {row['relion']}" if row["relion"] else ""
        line = (
            f"{row['date'][:10]}, commit {row['commit']}, {row['machine']}, {row['cores']} cores, "
            f"{row['memory_GB']} GB; gem3d {row['gem3d']}{relion}, Python {row['python']}, numpy {row['numpy']}, "
            f"torch {row['torch']}, numba {row['numba']}."
        )
        if line not in lines:
            lines.append(line)
    return lines


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _distinct(values: object) -> list[str]:
    return list(dict.fromkeys(values))  # type: ignore[call-overload]
