"""Where stacks that are not found may be: what to give as --datadir.

RELION's names begin in its project folder, some folders above the STAR file, cryoSPARC's in its own, and sets that
were moved keep the names of the old place. So the folders above the particle file are tried for each name, whole or
less its first folders; and its folder and the one above are searched for the bare name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem3d.particles.particles import Particles
from gem3d.particles.stack_paths import is_file, stack_candidates

MOST_ANCESTORS = 12
# The search for bare names ends after so many entries, and goes so deep: it must not take long on a file server.
MOST_ENTRIES, DEEPEST = 20_000, 5


@dataclass(frozen=True)
class MissingStacks:
    """Stacks that particles refer to and that are not there.

    Attributes
    ----------
    names: as the particle file has them.
    n_stacks: in use, in all.
    datadir: folder that would do, if one was found.
    n_found_there: of the missing ones.
    """

    names: tuple[str, ...]
    n_stacks: int
    datadir: Path | None
    n_found_there: int

    @property
    def advice(self) -> str:
        """What to do."""
        if self.datadir is None:
            return "none of them is nearby; give the folder that the names begin in with --datadir"
        found = (
            "all" if self.n_found_there == len(self.names) else f"{self.n_found_there} of {len(self.names)}"
        )
        return f"{found} found under --datadir {self.datadir}"


def find_missing_stacks(particles: Particles, datadir: Path | None) -> MissingStacks:
    """The stacks that are not where they are looked for, and the best folder to look in instead."""
    used = [particles.stacks[stack] for stack in np.unique(particles.stack_index).tolist()]
    names = tuple(name for name in used if not _is_there(name, particles.source, datadir))
    best, most = None, 0
    if names:
        for folder in dict.fromkeys(_suggestions(names[0], particles.source)):
            n = sum(_is_there(name, particles.source, folder) for name in names)
            if n > most:
                best, most = folder, n
            if n == len(names):
                break
    return MissingStacks(names, len(used), best, most)


def _is_there(name: str, particle_file: Path, datadir: Path | None) -> bool:
    return any(is_file(path) for path in stack_candidates(name, particle_file, datadir))


def _suggestions(name: str, particle_file: Path) -> Iterator[Path]:
    """Folders in which a stack would be found, the likeliest first."""
    wanted = Path(name)
    start = particle_file.absolute().parent
    above = [start, *start.parents][:MOST_ANCESTORS]
    relative = wanted.relative_to(wanted.anchor) if wanted.is_absolute() else wanted
    for folder in above:
        if is_file(folder / relative):
            # An absolute name is looked for by its last part only.
            yield (folder / relative).parent if wanted.is_absolute() else folder
    for skipped in range(1, len(relative.parts)):
        tail = Path(*relative.parts[skipped:])
        for folder in above:
            if (folder / tail).is_file():
                yield (folder / tail).parent
    # In the folder of the particle file and in that above, which may be the project's.
    for folder in above[:2]:
        found = _search(folder, wanted.name)
        if found is not None:
            yield found


def _search(folder: Path, name: str) -> Path | None:
    """The folder below this one that holds a file of the name, nearest first."""
    level, entries = [folder], 0
    for _ in range(DEEPEST):
        below: list[Path] = []
        for place in level:
            try:
                with os.scandir(place) as found:
                    for entry in found:
                        entries += 1
                        if entry.name == name and entry.is_file():
                            return place
                        if entry.is_dir(follow_symlinks=False):
                            below.append(Path(entry.path))
                        if entries >= MOST_ENTRIES:
                            return None
            except OSError:
                continue
        level = sorted(below)
    return None
