"""What was measured: the particles' metadata, and their images, read when needed."""

from gem3d.particles.excluded import ExcludedImages
from gem3d.particles.image_grids import ImageGrid
from gem3d.particles.image_source import ImageBatch, ImageSource, file_order, fill_box_size
from gem3d.particles.particles import OpticsGroup, Particles
from gem3d.particles.poses import angles_between_deg, euler_to_matrix, matrix_to_euler
from gem3d.particles.preprocess import ImageStatistics, measure_images, normalise_background
from gem3d.particles.read import read_particles
from gem3d.particles.relion_star import read_relion_star
from gem3d.particles.write_excluded import write_excluded
from gem3d.particles.write_relion_star import write_relion_star

__all__ = [
    "ExcludedImages",
    "ImageBatch",
    "ImageGrid",
    "ImageSource",
    "ImageStatistics",
    "OpticsGroup",
    "Particles",
    "angles_between_deg",
    "euler_to_matrix",
    "file_order",
    "fill_box_size",
    "matrix_to_euler",
    "measure_images",
    "normalise_background",
    "read_particles",
    "read_relion_star",
    "write_excluded",
    "write_relion_star",
]
