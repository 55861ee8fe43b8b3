"""gem3d: cryo-EM maps made of Gaussians."""

from gem3d.runtime import choose_kernel_cache

choose_kernel_cache()

__version__ = "0.1.0"
