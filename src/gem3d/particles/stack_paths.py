"""Where the stacks lie that a particle file names."""

from __future__ import annotations

from pathlib import Path

from gem3d.errors import ImageStackError
from gem3d.input_file import why_not_a_file


def find_stack(name: str, source: Path, where: str, datadir: Path | None) -> Path:
    """The file of a stack.

    Parameters
    ----------
    name: as the particle file `source` writes it.
    where: in that file, for the message.
    datadir: folder that relative names begin in.

    Raises
    ------
    ImageStackError: it is nowhere.
    """
    candidates = stack_candidates(name, source, datadir)
    for candidate in candidates:
        if is_file(candidate):
            return candidate
    for candidate in candidates:
        fault = why_not_a_file(candidate)
        if fault is not None:
            raise ImageStackError(f"{source}: {where}: {candidate} {fault}.")
    searched = ", ".join(dict.fromkeys(str(candidate.absolute().parent) for candidate in candidates))
    raise ImageStackError(
        f"{source}: {where}: no such stack: {name}. Looked in: {searched}. Give the folder that the names begin in "
        "with --datadir."
    )


def stack_candidates(name: str, source: Path, datadir: Path | None) -> list[Path]:
    """Where a stack of this name is looked for, in order; see `gem3d.particles.ImageSource`."""
    # RELION's way to say that a file of another suffix is a stack.
    path = Path(name.removesuffix(":mrcs"))
    folders = [source.parent, Path()]
    if datadir is not None:
        folders.insert(0, datadir)
    # An absolute name keeps itself under every folder, by the rules of joining paths.
    candidates = [path] if path.is_absolute() else [folder / path for folder in folders]
    if datadir is not None:
        candidates.append(datadir / path.name)
    return candidates


def is_file(path: Path) -> bool:
    """Whether there is a file that can be reached."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that must not be read, a NUL
        return False
