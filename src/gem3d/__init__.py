"""gem3d: cryo-EM maps made of Gaussians."""

__version__ = "0.1.0"
