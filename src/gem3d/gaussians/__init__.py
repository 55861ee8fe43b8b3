"""The model: a density as a sum of anisotropic Gaussians of eleven values each."""

from gem3d.gaussians.files import load_gaussians, save_gaussians, save_ply
from gem3d.gaussians.initialise import initialise_from_map, initialise_random
from gem3d.gaussians.model import Gaussians
from gem3d.gaussians.split import split

__all__ = [
    "Gaussians",
    "initialise_from_map",
    "initialise_random",
    "load_gaussians",
    "save_gaussians",
    "save_ply",
    "split",
]
