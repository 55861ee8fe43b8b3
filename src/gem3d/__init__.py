"""gem3d: cryo-EM maps made of Gaussians."""

from gem3d.runtime import choose_kernel_cache, tune_libraries

# Before anything imports numba or torch.
tune_libraries()
choose_kernel_cache()

from gem3d.assess import fourier_shell_correlation  # noqa: E402
from gem3d.errors import Gem3dError  # noqa: E402
from gem3d.gaussians import Gaussians, load_gaussians, save_gaussians  # noqa: E402
from gem3d.maps import read_map, write_map  # noqa: E402
from gem3d.particles import Particles, read_particles  # noqa: E402
from gem3d.reconstruct import Reconstruction, reconstruct  # noqa: E402
from gem3d.settings import ReconstructSettings, RefineSettings  # noqa: E402
from gem3d.simulate import simulate  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Gaussians",
    "Gem3dError",
    "Particles",
    "ReconstructSettings",
    "Reconstruction",
    "RefineSettings",
    "fourier_shell_correlation",
    "load_gaussians",
    "read_map",
    "read_particles",
    "reconstruct",
    "save_gaussians",
    "simulate",
    "write_map",
]
