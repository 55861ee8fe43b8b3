"""The command line: parse, call, and what to say and return when it fails."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version

import tyro
from rich.console import Console

from gem3d.commands import COMMANDS
from gem3d.errors import Gem3dError

DESCRIPTION = """Cryo-EM maps made of Gaussians, from particle images with known poses.

Begin with `gem3d demo`, then `gem3d inspect particles.star` and `gem3d reconstruct particles.star --out results`.
Each command explains itself: `gem3d reconstruct --help`. Maps are MRC files, lengths are in A (angstroms)."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with 2 where the input is at fault, 1 where the program is, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"gem3d {version('gem3d')}")
        return
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=arguments or ["--help"],
            prog="gem3d",
            description=DESCRIPTION,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except Gem3dError as error:
        _complain(f"gem3d: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("gem3d: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to write the rest to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if _is_out_of_memory(error):
            _complain("gem3d: not enough memory; try --max-resolution, fewer --gaussians, or a smaller box")
            sys.exit(2)
        traceback.print_exc()
        _complain(
            "gem3d: this is a fault of gem3d, not of your input. Please report it to its maintainers with the "
            "lines above, the command, and run.log from the output folder."
        )
        sys.exit(1)


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError.
    return isinstance(error, MemoryError) or "allocate memory" in str(error)
