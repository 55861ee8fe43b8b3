"""The commands: one dataclass each, which only parses, calls and prints."""

from collections.abc import Callable
from typing import Any

from gem3d.commands.maps import Assess, Fsc, Render
from gem3d.commands.particles import Convert, Inspect, Reconstruct, Refine
from gem3d.commands.shards import Accumulate, Fit
from gem3d.commands.simulations import Demo, Simulate

COMMANDS: dict[str, Callable[..., Any]] = {
    "inspect": Inspect,
    "reconstruct": Reconstruct,
    "refine": Refine,
    "accumulate": Accumulate,
    "fit": Fit,
    "convert": Convert,
    "assess": Assess,
    "simulate": Simulate,
    "render": Render,
    "fsc": Fsc,
    "demo": Demo,
}
