"""The rows of `fsc.csv`: every FSC curve of a run, one row a shell."""

from __future__ import annotations

from gem3d.assess.calibration import CalibratedFSC
from gem3d.assess.phase_randomisation import MaskCorrectedFSC
from gem3d.assess.shells import Curve, shell_resolution_A

FSC_COLUMNS = (
    "shell",
    "frequency_per_A",
    "resolution_A",
    "fsc_unmasked",
    "fsc_masked",
    "fsc_phase_randomised",
    "fsc_corrected",
    "fsc_linear_masked",
    "fsc_calibrated",
    "fsc_calibrated_stderr",
)

FscRow = dict[str, int | float | None]


def fsc_rows(
    gaussian: MaskCorrectedFSC,
    linear_masked: Curve | None,
    calibrated: CalibratedFSC | None,
    *,
    pixel_size_A: float,
    box_size: int,
) -> list[FscRow]:
    """Rows of `fsc.csv`, keys in the order of `FSC_COLUMNS`; None stands for an empty cell.

    Empty are the resolution of shell 0, the randomised FSC below k_r, the calibrated FSC beyond its validity,
    and everything beyond the last shell of the curves.

    Parameters
    ----------
    gaussian: FSC curves of the Gaussian half maps.
    linear_masked: `(n,)` FSC of the masked linear half maps; None where there are none.
    calibrated: None where there are no linear half maps.
    pixel_size_A: A per voxel.
    box_size: voxels per side.
    """
    last_valid = -1
    if calibrated is not None and calibrated.valid_up_to_shell is not None:
        last_valid = calibrated.valid_up_to_shell
    rows: list[FscRow] = []
    for shell in range(box_size // 2 + 1):
        k_r = gaussian.first_randomised_shell
        randomised = k_r is not None and shell >= k_r
        valid = calibrated if shell <= last_valid else None
        values: tuple[int | float | None, ...] = (
            shell,
            shell / (pixel_size_A * box_size),
            shell_resolution_A(shell, pixel_size_A, box_size) if shell > 0 else None,
            _at(gaussian.unmasked, shell),
            _at(gaussian.masked, shell),
            _at(gaussian.randomised, shell) if randomised else None,
            _at(gaussian.corrected, shell),
            None if linear_masked is None else _at(linear_masked, shell),
            _at(valid.smoothed, shell) if valid else None,
            _at(valid.stderr, shell) if valid else None,
        )
        rows.append(dict(zip(FSC_COLUMNS, values, strict=True)))
    return rows


def _at(curve: Curve, shell: int) -> float | None:
    return float(curve[shell]) if shell < len(curve) else None
