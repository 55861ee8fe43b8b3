"""What was measured: the particles' metadata, and their images, read when needed."""

from gem3d.particles.particles import OpticsGroup, Particles

__all__ = ["OpticsGroup", "Particles"]
