"""Run benchmarks, print their tables and keep the numbers.

python benchmarks/run.py --list
python benchmarks/run.py low_snr --structures 5a1a --seeds 1
python benchmarks/run.py all --ctf-table empiar10028_ctf.pkl
python benchmarks/run.py tables        # the pages in docs/ from benchmarks/results/*.csv
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

# gem3d first: it chooses the cache of compiled kernels before anything imports numba.
import gem3d  # noqa: F401  # isort: skip
import ahead_of_time  # noqa: F401
import assessment  # noqa: F401
import curves  # noqa: F401
import faults  # noqa: F401
import fuzz  # noqa: F401
import gpu  # noqa: F401
import honesty  # noqa: F401
import images  # noqa: F401
import kernels  # noqa: F401
import million  # noqa: F401
import quality  # noqa: F401
import reader_memory  # noqa: F401
import reading  # noqa: F401
import refinement  # noqa: F401
import refinement_design  # noqa: F401
import relion
import scaling  # noqa: F401
import several  # noqa: F401
import speed  # noqa: F401
import store
import tables
from context import Context
from measure import CommandFailed
from registry import REGISTRY, Benchmark, Skipped

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE_NAMES = ("results.md", "assessment.md", "survival.md", "fuzzing.md", "performance.md", "cluster.md")
PAGES = tuple(HERE.parent / "docs" / name for name in PAGE_NAMES)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        for found in REGISTRY.values():
            print(f"{found.name:<18}{found.what}{'' if found.in_all else ' (not part of all)'}")
        return 0
    if options.names == ["tables"]:
        for page in PAGES:
            page.write_text(tables.fill(page.read_text(), RESULTS))
        return 0
    try:
        chosen = choose(options.names)
    except KeyError as error:
        print(f"no benchmark {error.args[0]}; see --list", file=sys.stderr)
        return 2
    context = Context(
        work=options.work.resolve(),
        structures=tuple(options.structures),
        seeds=tuple(options.seeds),
        threads=options.threads,
        repeats=options.repeats,
        quick=options.quick,
        cryodrgn=options.cryodrgn,
        ctf_table=None if options.ctf_table is None else options.ctf_table.resolve(strict=True),
    )
    # A quick run only shows that everything works; its numbers mean nothing and stay out of the documentation.
    results = options.results or (context.work / "quick-results" if context.quick else RESULTS)
    if not relion.available():
        print(relion.MISSING, file=sys.stderr)
    if context.ctf_table is None:
        print("no --ctf-table: defoci of 0.8 to 2.5 um instead of measured ones", file=sys.stderr)
    return max(run_one(found, context, results) for found in chosen)


def choose(names: list[str]) -> list[Benchmark]:
    """Benchmarks by name; "all" stands for those that are part of it."""
    chosen: dict[str, Benchmark] = {}
    for name in names:
        for found in REGISTRY.values() if name == "all" else [REGISTRY[name]]:
            if found.in_all or name != "all":
                chosen[found.name] = found
    return list(chosen.values())


def run_one(found: Benchmark, context: Context, results: Path) -> int:
    """Run, store and print one benchmark; 1 if it failed."""
    print(f"== {found.name}: {found.what}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        rows = store.append(results / f"{found.name}.csv", found.run(context), store.made_with())
    except Skipped as reason:
        print(f"   skipped: {reason}", file=sys.stderr)
        return 0
    except CommandFailed as error:
        print(f"   failed: {error}", file=sys.stderr)
        return 1
    except Exception:  # one benchmark's fault must not cost the night's other results
        traceback.print_exc()
        return 1
    print(f"\n## {found.name}\n\n{tables.render(rows)}\n")
    for note in tables.notes(rows):
        print(f"- {note}")
    print(f"   {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["all"], help="benchmarks, all, or tables")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument(
        "--structures", nargs="+", default=["5a1a", "6v8o"], help="5a1a, 6v8o, or PDB and mmCIF files"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--ctf-table", type=Path, help="cryoDRGN ctf.pkl or STAR file; see benchmarks/data/README.md"
    )
    parser.add_argument("--cryodrgn", type=Path, help="the program of an environment that has cryoDRGN 4.3.1")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for images and maps, kept")
    parser.add_argument("--results", type=Path, help="folder of the CSV files instead of benchmarks/results")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=int, default=cores, help="of gem3d, and ranks of relion_reconstruct_mpi"
    )
    parser.add_argument("--repeats", type=int, default=1, help="of the time benchmark, whose median counts")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
