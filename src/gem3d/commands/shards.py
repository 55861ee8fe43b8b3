"""Commands that share out a reconstruction through files.

The text under each field is the option's help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from gem3d.commands.options import Overwrite, PathArgument
from gem3d.option_help import Flag, helped_by_docstrings
from gem3d.settings import FitSettings, PassSettings
from gem3d.summary_table import print_run


@helped_by_docstrings
@dataclass(frozen=True)
class Accumulate:
    """Read some of the particles of a set into a file, a shard; `gem3d fit` adds shards up and makes the maps.

    For clusters: many jobs, each of which reads its share of the images, then one that fits. All shards together give
    what one `gem3d reconstruct` does.
    """

    particles: Annotated[PathArgument, arg(metavar="PARTICLES")]
    """Particle file of a finished 3D refinement: RELION's (run_data.star, version 3.0 to 5) or cryoSPARC's
    (..._particles.cs)."""
    out: Annotated[Path, arg(metavar="FILE")]
    """File to write, such as shard1.safetensors. Its size depends on the box and the last shell, not on the number of
    particles."""
    shard: Annotated[str | None, arg(metavar="K/N", help_behavior_hint="(default: all particles)")] = None
    """Take the K-th of N blocks of the particles: 1/8 to 8/8 in eight jobs. The noise is measured on a sample of all,
    so that it is the same in every job."""
    overwrite: Overwrite = False
    settings: Annotated[PassSettings, arg(name="")] = field(default_factory=PassSettings)

    def run(self) -> None:
        from gem3d.accumulate_shard import accumulate_shard, parse_block

        block = None if self.shard is None else parse_block(self.shard)
        accumulate_shard(self.particles, self.out, self.settings, block=block, overwrite=self.overwrite)


@helped_by_docstrings
@dataclass(frozen=True)
class Fit:
    """Add up shards that `gem3d accumulate` has written, and make of them what `gem3d reconstruct` does.

    Shards must be of other images each and made alike; what does not go together is refused. Seed, last shell and
    particle diameter are those of the shards.
    """

    shards: Annotated[Positional[tuple[Path, ...]], arg(metavar="SHARD")]
    """Shards, in any order."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the results. Made if need be; refused when it holds files."""
    incomplete: Flag = False
    """Go on though some of the N shards of `gem3d accumulate --shard K/N` are missing."""
    settings: Annotated[FitSettings, arg(name="")] = field(default_factory=FitSettings)

    def run(self) -> None:
        from gem3d.fit_shards import fit_shards

        result = fit_shards(self.shards, self.out, self.settings, incomplete=self.incomplete)
        if not self.settings.quiet:
            print_run(result.summary, self.out)
