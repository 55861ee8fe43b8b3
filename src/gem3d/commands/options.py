"""What commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

PathArgument = Positional[Path]
Threads = Annotated[
    int, arg(metavar="N", help="CPU cores to use.", help_behavior_hint="(default: 0, all cores)")
]
Overwrite = Annotated[bool, arg(help="Replace files of an earlier run.", help_behavior_hint="")]
Quiet = Annotated[bool, arg(help="Print errors only.", help_behavior_hint="")]


def use_threads(n_threads: int) -> None:
    """Take so many cores, or all for 0."""
    from gem3d.errors import SettingsError
    from gem3d.threads import available_threads, set_threads

    if n_threads < 0:
        raise SettingsError(f"--threads {n_threads}: give a positive number, or 0 for all cores")
    set_threads(n_threads or available_threads())
