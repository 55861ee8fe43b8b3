"""What a run writes: one folder of known names, every file whole or not there.

From its beginning to its end a reconstruction keeps `checkpoint/run.json` in its folder, which says what run it is
and whose results lie there. A folder without it holds a finished run, or none.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gem3d.atomic import check_writable, is_temporary, refusing, remove_leftovers, replacing
from gem3d.errors import RunDirectoryError

RUN_LOG = "run.log"
CHECKPOINTS = "checkpoint"
"""Folder of a run that has not come to its end, with what it can go on from; ours if it holds a `CHECKPOINT_RUN`."""
CHECKPOINT_RUN = "run.json"
STAGES = ("refinement", "accumulate", "accumulate1", "accumulate2", "half1", "half2", "final")
"""Stages of a run that may leave a checkpoint each."""
CHECKPOINT_FILES = (CHECKPOINT_RUN, *(f"{stage}.safetensors" for stage in STAGES))
ASSESSMENT_RESULTS = (
    "map.mrc",
    "map_unfiltered.mrc",
    "map_local.mrc",
    "local_resolution.mrc",
    "mask.mrc",
    "fsc.csv",
    "directional.csv",
    "sharpening.csv",
    "fsc.xml",
    "view.cxc",
    "report.html",
    "summary.json",
)
"""Every file of an assessment; some are missing where no resolution can be claimed."""
REFERENCE_RESULTS = ("reference.csv",)
"""One more where a reference is given."""
RESULTS = (
    *ASSESSMENT_RESULTS,
    "half1.mrc",
    "half2.mrc",
    "linear_half1.mrc",
    "linear_half2.mrc",
    "gaussians.safetensors",
    "gaussians.ply",
    "likelihood.csv",
)
"""Every file of a finished run but its log."""
REFINED_STAR, REFINEMENT_ROUNDS, REFINEMENT_PAGE = REFINEMENT_RESULTS = (
    "particles_refined.star",
    "refinement.csv",
    "refinement.html",
)
"""Further ones where particles were refined."""
EXCLUDED_STAR = "excluded.star"
"""One more where images could not be used."""
ALL_RESULTS = (*RESULTS, *REFERENCE_RESULTS, *REFINEMENT_RESULTS, EXCLUDED_STAR)


def check(out: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a folder that holds files, unless `overwrite`; what a run left that had saved nothing does not count.

    With `resume`, a folder that holds a run that has not come to its end is welcome.

    Raises
    ------
    RunDirectoryError
    """
    with refusing(out):
        if out.exists() and not out.is_dir():
            raise RunDirectoryError(f"{out}: is a file; give a folder with --out")
        if overwrite or holds_nothing(out):
            return
        begun = is_begun(out)
    if resume:
        if not begun:
            raise RunDirectoryError(
                f"{out}: holds files, but no checkpoint to go on from, so it is not that of a run that was stopped; "
                "choose another folder, or use --overwrite to replace the results in it"
            )
        return
    if begun:
        raise RunDirectoryError(
            f"{out}: holds a run that has not come to its end; go on with --resume, or begin anew with --overwrite"
        )
    raise RunDirectoryError(
        f"{out}: the folder is not empty; choose another, or use --overwrite to replace the results in it"
    )


def is_begun(out: Path) -> bool:
    """Whether the folder holds a run that has not come to its end."""
    return (out / CHECKPOINTS / CHECKPOINT_RUN).exists()


def holds_nothing(out: Path) -> bool:
    """Whether the folder is new, or holds no more than what a run leaves that had saved nothing."""

    def counts_for_nothing(path: Path) -> bool:
        if path.name == CHECKPOINTS and path.is_dir():
            return all(file.name == CHECKPOINT_RUN or is_temporary(file) for file in path.iterdir())
        return path.name == RUN_LOG or is_temporary(path)

    return not out.is_dir() or all(map(counts_for_nothing, out.iterdir()))


def refuse_inputs(out: Path, *inputs: Path | str | None) -> None:
    """Refuse to read from a file that this run would replace, such as the refined particles of an earlier one.

    Raises
    ------
    RunDirectoryError
    """
    results = {(out / name).resolve() for name in ALL_RESULTS}
    for given in inputs:
        if given is not None and Path(given).resolve() in results:
            raise RunDirectoryError(
                f"{given}: lies in the output folder and would be replaced; give another --out"
            )


def prepare(out: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Make the output folder and see that it can be written.

    Nothing in it is touched but temporary files that killed runs have left.

    Raises
    ------
    RunDirectoryError
    """
    check(out, overwrite=overwrite, resume=resume)
    with refusing(out):
        out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out / CHECKPOINTS)
    check_writable(out)


def remove_results(out: Path, names: Sequence[str] = ALL_RESULTS) -> None:
    """Remove the results of an earlier run, so that old and new ones never stand side by side."""
    with refusing(out):
        for name in names:
            (out / name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, readable."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the given columns; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_text(path, buffer.getvalue())
