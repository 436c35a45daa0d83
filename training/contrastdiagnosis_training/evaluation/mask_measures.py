"""`mask_measures`: size, shape and density under the readers' consensus, for the control forest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contrastdiagnosis.cases.case_folder import Nodule, NoduleScan, read_scan
from contrastdiagnosis.imaging.measure import axial_diameters, bounding_box
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.objectives.metrics import forest_baseline

MEASURES = (
    "volume_mm3", "long_mm", "short_mm", "depth_mm",
    "sphericity", "elongation", "flatness", "fill",
    "mean_hu", "sd_hu", "low_hu", "median_hu", "high_hu",
)  # fmt: skip
"""Four of size; four of shape: surface of the ball of the same volume over the mask's, principal
extents 2 over 1 and 3 over 1, share of the bounding box; five of the HU under the mask, the 5th and
95th percentile among them."""

FOLDS = 5
"""Parts that patients are left out in where the case folder names no folds."""


def mask_measures(scan: NoduleScan) -> NDArray[np.float64]:
    """(F,) the `MEASURES` of a nodule's consensus."""
    box = bounding_box(scan.consensus)
    mask, hu = scan.consensus[box], scan.volume.hu[box]
    k, j, i = (float(mm) for mm in scan.volume.spacing_mm)
    inside = hu[mask].astype(np.float64)
    diameters = axial_diameters(np.pad(mask, 1).astype(np.float32), (k, j, i))
    volume_mm3 = float(mask.sum()) * scan.volume.voxel_volume_mm3
    first, second, third = _extents(mask, np.array([k, j, i]))
    low, median, high = np.percentile(inside, [5, 50, 95])
    return np.array(
        [
            volume_mm3, diameters.long_mm, diameters.short_mm, len(mask) * k,
            np.pi ** (1 / 3) * (6 * volume_mm3) ** (2 / 3) / _surface_mm2(mask, (k, j, i)),
            second / first, third / first, float(mask.mean()),
            inside.mean(), inside.std(), low, median, high,
        ]
    )  # fmt: skip


def _surface_mm2(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Area of the voxels' faces towards the outside."""
    padded = np.pad(mask, 1).astype(np.int8)
    face_mm2 = np.prod(spacing_mm) / np.array(spacing_mm)
    faces = [np.abs(np.diff(padded, axis=axis)).sum() for axis in range(3)]
    return float(np.dot(faces, face_mm2))


def _extents(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) standard deviations along the principal axes in mm, largest first."""
    where = np.argwhere(mask) * spacing_mm
    spread = np.cov(where.T, bias=True) if len(where) > 1 else np.zeros((3, 3))
    # The voxels' own extent is added, so that a mask of one slice has one across it too.
    return np.sqrt(np.linalg.eigvalsh(spread + np.diag(spacing_mm**2 / 12)))[::-1]


@dataclass(frozen=True, eq=False)
class Control:
    """Nodules of a case folder with their measures, cross-fitted by whole patients.

    Attributes:
        case_id: (N,) text.
        malignancy: (N,) mean, NaN where unknown.
        fold: (N,) no patient stands in two.
        measures: (N, F) `mask_measures`.
    """

    case_id: NDArray
    malignancy: NDArray[np.float64]
    fold: NDArray[np.int64]
    measures: NDArray[np.float64]

    def probability(self, rule: str, case_id: NDArray, seed: int = 0) -> NDArray[np.float64]:
        """(M,) by `forest_baseline` fitted to the other folds' nodules that a label rule keeps.

        Args:
            rule: One of `RULES`.
            case_id: (M,) text, whose probabilities are asked.
            seed: Grows the trees.
        """
        row = {case: n for n, case in enumerate(self.case_id.tolist())}
        asked = np.array([row[case] for case in case_id.tolist()], dtype=np.int64)
        kept, malignant = RULES[rule](self.malignancy), is_malignant(self.malignancy)
        found = np.full(len(asked), np.nan)
        for fold in np.unique(self.fold[asked]):
            mine, others = self.fold[asked] == fold, kept & (self.fold != fold)
            found[mine] = forest_baseline(
                self.measures[others], malignant[others], self.measures[asked[mine]], seed
            )
        return found


def control_of(nodules: Sequence[Nodule]) -> Control:
    """The control of a case folder, by its own folds; else patients are parted evenly."""
    patient = [n.patient_id for n in nodules]
    if all(n.fold is not None for n in nodules):
        fold = np.array([n.fold for n in nodules], dtype=np.int64)
    else:
        fold = np.zeros(len(nodules), dtype=np.int64)
        parts = min(FOLDS, len(set(patient)))
        if parts > 1:
            for number, (_, held) in enumerate(GroupKFold(parts).split(patient, groups=patient)):
                fold[held] = number
    return Control(
        np.array([n.case_id for n in nodules]),
        np.array([n.malignancy for n in nodules]),
        fold,
        np.array([mask_measures(read_scan(n)) for n in nodules]),
    )
