"""What can go wrong in a way the user can put right.

Everything raised on purpose derives from `Gem3dError`. A message says what is wrong, where (file, particle,
column), what was found, and what to do; the command line prints it without a traceback and exits with code 2.
"""

import warnings


class Gem3dError(Exception):
    """Base class: the input or the request is at fault, not the program."""


class ParticleFileError(Gem3dError):
    """A particle metadata file is missing, unreadable, incomplete or asks for something not modelled."""


class ImageStackError(Gem3dError):
    """An image stack is missing, truncated, of the wrong shape, or lacks an image that a particle refers to."""


class MapError(Gem3dError):
    """A map file is unreadable or does not fit the other maps."""


class StructureError(Gem3dError):
    """An atomic model is unreadable or holds no atoms."""


class ShardError(Gem3dError):
    """A shard cannot be read, or does not go together with the others."""


class SettingsError(Gem3dError):
    """Settings contradict one another or the data."""


class RunDirectoryError(Gem3dError):
    """The output folder cannot be used as asked."""


class Gem3dWarning(UserWarning):
    """Something the user should know that does not stop the work; shown, and kept in run.log."""


def warn(message: str) -> None:
    """Issue a `Gem3dWarning` at the caller's caller: what the user sees names the function that was called."""
    warnings.warn(message, Gem3dWarning, stacklevel=3)
