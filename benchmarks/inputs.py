"""What the benchmarks start from: atomic models, and the voxel maps made of them."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gem3d.assess.shells import frequency_radius
from gem3d.structures import Structure, packaged_structure, read_compact_structure

Volume = NDArray[np.float32]

DATA = Path(__file__).parent / "data"

# Of the voxel truth: texture inside the molecule and around it, as shares of the density inside.
INNER_TEXTURE = 0.25
SOLVENT_TEXTURE = 0.08
SOLVENT_REACH_A = 12.0
INNER_BAND_A = (4.0, 15.0)
SOLVENT_BAND_A = (5.0, 30.0)
LOW_PASS_EDGE_SHELLS = 2.0


def load_structure(name: str) -> Structure:
    """5a1a comes with gem3d, 6v8o with the benchmarks; see data/README.md."""
    if name == "5a1a":
        return packaged_structure()
    path = DATA / f"{name}.npz"
    if not path.exists():
        known = ", ".join(["5a1a", *sorted(file.stem for file in DATA.glob("*.npz"))])
        raise FileNotFoundError(f"no structure {name}; known are {known}, or give a PDB or mmCIF file")
    return read_compact_structure(path)


def structure_file(name: str, folder: Path) -> Path:
    """A structure as a file that `gem3d simulate` reads; a path is taken as it is."""
    if Path(name).suffix:
        return Path(name).resolve()
    path = folder / f"{name}.cif"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_mmcif(load_structure(name), path)
    return path


def write_mmcif(structure: Structure, path: Path) -> None:
    """Atoms alone, each in a residue of its own: only positions, elements and B factors matter here."""
    model, chain = gemmi.Model(1), gemmi.Chain("A")
    for number, (position, atomic_number, bfactor) in enumerate(
        zip(structure.positions_A, structure.atomic_numbers, structure.bfactors_A2, strict=True), start=1
    ):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(int(atomic_number))
        atom.name = atom.element.name
        atom.pos = gemmi.Position(*map(float, position))
        atom.b_iso, atom.occ = float(bfactor), 1.0
        residue = gemmi.Residue()
        residue.name, residue.seqid = "UNK", gemmi.SeqId(number, " ")
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    whole = gemmi.Structure()
    whole.add_model(model)
    whole.make_mmcif_document().write_file(str(path))


def voxel_truth(molecule: Volume, pixel_size_A: float, seed: int) -> Volume:
    """A density that no sum of positive Gaussians gives: random texture inside the molecule and around it.

    The texture inside multiplies the density; the one outside, of either sign, fades out over 12 A as ordered solvent
    does.
    """
    rng = np.random.default_rng([seed, 4])
    smooth = gaussian_filter(molecule, 5.0 / pixel_size_A)
    inside = np.clip(smooth / (0.3 * smooth.max()), 0, 1)
    around = np.clip(gaussian_filter(inside, SOLVENT_REACH_A / 2 / pixel_size_A) * 2, 0, 1)
    level = float((molecule * inside).sum() / inside.sum())
    inner = _texture(molecule.shape[0], pixel_size_A, INNER_BAND_A, rng)
    solvent = _texture(molecule.shape[0], pixel_size_A, SOLVENT_BAND_A, rng)
    density = (
        molecule * (1 + INNER_TEXTURE * inner) + SOLVENT_TEXTURE * level * around * (1 - inside) * solvent
    )
    return np.ascontiguousarray(density, dtype=np.float32)


def low_passed(volume: Volume, pixel_size_A: float, resolution_A: float) -> Volume:
    """Nothing beyond a resolution, with a cosine edge two shells wide around it."""
    size = volume.shape[0]
    shell = frequency_radius(size)
    edge = (shell - size * pixel_size_A / resolution_A) / LOW_PASS_EDGE_SHELLS + 0.5
    keep = 0.5 + 0.5 * np.cos(np.pi * np.clip(edge, 0, 1))
    filtered = scipy.fft.irfftn(scipy.fft.rfftn(volume) * keep, s=volume.shape)
    return np.ascontiguousarray(filtered, dtype=np.float32)


def _texture(size: int, pixel_size_A: float, band_A: tuple[float, float], rng: np.random.Generator) -> Volume:
    """Band-limited Gaussian noise of unit variance."""
    shell = frequency_radius(size) / (size * pixel_size_A)
    band = (shell > 1 / band_A[1]) & (shell < 1 / max(band_A[0], 2 * pixel_size_A))
    noise = rng.standard_normal((size,) * 3, dtype=np.float32)
    texture: Volume = scipy.fft.irfftn(scipy.fft.rfftn(noise) * band, s=noise.shape)
    return texture / texture.std()
