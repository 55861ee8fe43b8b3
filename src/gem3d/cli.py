"""The command line: parse, call, and what to say and return when it fails."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from importlib.metadata import version

import tyro

from gem3d.atomic import advice, why
from gem3d.commands import COMMANDS
from gem3d.errors import Gem3dError
from gem3d.place import is_out_of_memory
from gem3d.progress import error_console, flushing
from gem3d.ranks import help_first, joined, name_of_process
from gem3d.signals import Terminated, stopping_on_sigterm

DESCRIPTION = """Cryo-EM maps made of Gaussians, from particle images with known poses.

Begin with `gem3d demo`, then `gem3d inspect particles.star` and `gem3d reconstruct particles.star --out results`.
Each command explains itself: `gem3d reconstruct --help`. Maps are MRC files, lengths are in A (angstroms)."""


# Reasons of the operating system that no input and no fault of ours can bring about.
OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point.

    Exits with 2 where the input or the machine is at fault, 1 where the program is, 130 on Ctrl-C, 143 on SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with stopping_on_sigterm(), flushing(sys.stdout):
            if arguments == ["--version"]:
                print(f"gem3d {version('gem3d')}")
                return
            with joined() as leads:
                if leads:
                    _run(arguments)
                else:
                    help_first()
    except Gem3dError as error:
        _complain(f"gem3d: {error}", error)
        sys.exit(2)
    except Terminated as error:
        _complain(f"gem3d: {error}", error)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt as error:
        _complain("gem3d: interrupted", error)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has gone
        sys.exit(1)
    except Exception as error:
        if is_out_of_memory(error):
            _complain(
                "gem3d: not enough memory; try --max-resolution, fewer --gaussians, a smaller box, or --device cpu "
                "where it is the GPU's",
                error,
            )
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            where = error.filename or "a file or standard output"
            _complain(f"gem3d: {where}: cannot be used ({why(error)}); {advice(error)}", error)
            sys.exit(2)
        _complain(traceback.format_exc())
        _complain(
            "gem3d: this is a fault of gem3d, not of your input. Please report it to its maintainers with the "
            "lines above, the command, and run.log from the output folder."
        )
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments or ["--help"],
        prog="gem3d",
        description=DESCRIPTION,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command.run()


def _complain(message: str, error: BaseException | None = None) -> None:
    """Print a message, and what the error has to say of how to go on; as well as it can be printed."""
    lines = [message.replace("gem3d:", f"{name_of_process()}:", 1), *getattr(error, "__notes__", ())]
    error_console().print("\n".join(lines), markup=False)
