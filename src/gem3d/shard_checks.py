"""Whether shards may be added up: made alike, of other images each, and all there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gem3d.errors import ImageStackError, ShardError, warn
from gem3d.particles.excluded import MOST_EXCLUDED_SHARE
from gem3d.particles.image_grids import PIXEL_ROUNDING
from gem3d.shards import Shard, ShardFacts

_MUST_AGREE: tuple[tuple[str, Callable[[ShardFacts], Any], str], ...] = (
    ("box size in px", lambda facts: facts.box_size_px, "take all images to one box, see --bin"),
    ("pixel size in A", lambda facts: facts.pixel_size_A, "give all the right --pixel-size"),
    ("last Fourier shell", lambda facts: facts.last_shell, "give all the same --max-resolution"),
    ("seed", lambda facts: facts.settings["seed"], "give all the same --seed"),
    ("CTF", lambda facts: facts.settings["ctf"], "give all --no-ctf, or none"),
    ("normalisation", lambda facts: facts.settings["normalise"], "give all --no-normalise, or none"),
    ("flipped hand", lambda facts: facts.settings["flip_hand"], "give all --flip-hand, or none"),
    (
        "particle diameter in A",
        lambda facts: facts.settings["particle_diameter_A"],
        "give all the same --particle-diameter",
    ),
)


def check_shards(shards: Sequence[Shard], *, incomplete: bool) -> None:
    """Refuse shards that do not go together.

    Parameters
    ----------
    incomplete: some of a set that was cut into N may be missing.

    Raises
    ------
    ShardError, ImageStackError
    """
    _refuse_unlike(shards)
    _refuse_given_twice(shards)
    _refuse_shared_images(shards)
    _refuse_missing(shards, incomplete=incomplete)
    n_excluded, n = (sum(counts) for counts in zip(*map(_counts, shards), strict=True))
    if n_excluded > MOST_EXCLUDED_SHARE * n:
        raise ImageStackError(
            f"{n_excluded} of the {n} images of all shards were left out, as they cannot be used: over "
            f"{100 * MOST_EXCLUDED_SHARE:g} %; extract them again from the micrographs, or remove them from the file"
        )
    if len({shard.facts.half_sets for shard in shards}) > 1:
        drawn = [str(shard.path) for shard in shards if shard.facts.half_sets == "drawn"]
        warn(
            f"the half sets of {', '.join(drawn)} were drawn at random, those of the others are from their files: "
            "the half maps may not be independent; make all shards alike (--halves)"
        )


def _counts(shard: Shard) -> tuple[int, int]:
    return len(shard.facts.excluded), shard.facts.n_images


def _refuse_unlike(shards: Sequence[Shard]) -> None:
    first = shards[0]
    for other in shards[1:]:
        for name, value_of, advice in _MUST_AGREE:
            one, two = value_of(first.facts), value_of(other.facts)
            if one != two and not _is_rounding(one, two):
                raise ShardError(
                    f"{first.path} and {other.path}: {name} {one} and {two}: such shards do not add; {advice}"
                )


def _is_rounding(one: Any, two: Any) -> bool:
    both = isinstance(one, float) and isinstance(two, float)
    return both and math.isclose(one, two, rel_tol=PIXEL_ROUNDING)


def _refuse_given_twice(shards: Sequence[Shard]) -> None:
    seen: dict[str, Shard] = {}
    for shard in shards:
        earlier = seen.setdefault(shard.digest, shard)
        if earlier is not shard:
            raise ShardError(f"{earlier.path} and {shard.path}: are the same shard; give it once")


def _refuse_shared_images(shards: Sequence[Shard]) -> None:
    """Every image counts once, and in one half."""
    of_each = [np.union1d(*shard.images) for shard in shards]
    hashes = np.concatenate(of_each)
    owners = np.repeat(np.arange(len(shards)), [len(found) for found in of_each])
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    pairs = np.unique(np.stack([owners[order[twice]], owners[order[twice + 1]]], axis=1), axis=0)
    overlaps = [(shards[i], shards[j], _n_shared(shards[i], shards[j])) for i, j in pairs.tolist()]
    for one, two, (_, apart) in overlaps:
        if apart:
            raise ShardError(
                f"{one.path} and {two.path}: {_images(apart)} in half set 1 of one and in half set 2 of the other: "
                "the half maps would share noise, and every resolution come out too fine. Make the shards from files "
                "with the same half sets, and of other particles each"
            )
    for one, two, (alike, _) in overlaps:
        raise ShardError(
            f"{one.path} and {two.path}: {_images(alike)} in both, and would count twice; make shards of other "
            "particles each, as --shard K/N does"
        )


def _n_shared(one: Shard, two: Shard) -> tuple[int, int]:
    """Images in both shards: in the same half, and in different ones."""
    n = [[len(np.intersect1d(a, b, assume_unique=True)) for b in two.images] for a in one.images]
    return n[0][0] + n[1][1], n[0][1] + n[1][0]


def _images(n: int) -> str:
    return "1 image is" if n == 1 else f"{n} images are"


def _refuse_missing(shards: Sequence[Shard], *, incomplete: bool) -> None:
    found: dict[tuple[str, int], set[int]] = {}
    for shard in shards:
        if shard.facts.block is not None:
            k, n = shard.facts.block
            found.setdefault((shard.facts.particle_set, n), set()).add(k)
    for (particle_set, n), numbers in found.items():
        missing = [f"{k}/{n}" for k in range(1, n + 1) if k not in numbers]
        if not missing:
            continue
        name = next(s.facts.particle_file for s in shards if s.facts.particle_set == particle_set)
        what = (
            f"{name}: of its {n} shards, {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
        if not incomplete:
            raise ShardError(f"{what}; give all, or go on without them with --incomplete")
        warn(f"{what}; their particles are not in the maps")
