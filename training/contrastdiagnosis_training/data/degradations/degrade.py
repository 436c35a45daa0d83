"""`degrade`: scans made poorer in a named way by a known degree. The one door of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.artefacts import hu_offset, ring, streak
from contrastdiagnosis_training.data.degradations.items import Items, hashed
from contrastdiagnosis_training.data.degradations.kernel import blur, sharp_kernel, soft_kernel
from contrastdiagnosis_training.data.degradations.motion import motion
from contrastdiagnosis_training.data.degradations.noise import low_dose, low_dose_soft
from contrastdiagnosis_training.data.degradations.slices import thick_slices

Operation = Literal[
    "low_dose", "low_dose_soft", "thick_slices", "soft_kernel", "sharp_kernel", "motion", "ring",
    "streak", "blur", "hu_offset",
]  # fmt: skip

DEGRADATIONS: tuple[str, ...] = get_args(Operation)

WORST = 5
"""Severities go from 1 to this; 0 changes nothing."""

_RUN: Mapping[str, Callable[[Items], Tensor]] = {
    "low_dose": low_dose,
    "low_dose_soft": low_dose_soft,
    "thick_slices": thick_slices,
    "soft_kernel": soft_kernel,
    "sharp_kernel": sharp_kernel,
    "motion": motion,
    "ring": ring,
    "streak": streak,
    "blur": blur,
    "hu_offset": hu_offset,
}


@torch.no_grad()
def degrade(
    hu: Tensor,
    operations: Sequence[str],
    severity: Tensor,
    spacing_mm: tuple[float, float, float],
    seeds: Sequence[int],
) -> Tensor:
    """(B, D, H, W) degraded scans; what an item becomes does not depend on the others.

    Nothing is clipped, and no mask is needed: an operation leaves the nodule where it was. Nor does
    what is drawn depend on the severity: with one seed the same disturbance grows.

    Args:
        hu: (B, D, H, W) float32 Hounsfield units, not windowed.
        operations: One of `DEGRADATIONS` an item.
        severity: (B,) whole numbers from 0, unchanged bit by bit, to `WORST`.
        spacing_mm: Distance between voxels along (k, j, i).
        seeds: One an item, such as `item_seed` gives.

    Raises:
        ValueError: One of these is not so.
    """
    _check_scans(hu, spacing_mm)
    steps = _checked_steps(len(hu), operations, severity, seeds)
    degraded = hu.clone()
    # Half precision would round Hounsfield units to 8.
    with torch.autocast(hu.device.type, enabled=False):
        for operation in dict.fromkeys(operations):
            rows = [n for n, o in enumerate(operations) if o == operation and steps[n]]
            if not rows:
                continue
            own_seeds = [hashed(f"{operation} {seeds[n]}") for n in rows]
            items = Items(hu[rows], [steps[n] for n in rows], spacing_mm, own_seeds)
            degraded[rows] = _RUN[operation](items)
    return degraded


def faults_of(operation: str) -> list[str]:
    """The faults that an operation makes one after the other, one or several.

    Example:
        >>> faults_of("motion+blur")
        ['motion', 'blur']
    """
    return operation.split("+")


def item_seed(case_id: str, operation: str, severity: int) -> int:
    """A seed of 63 bits for a nodule, an operation and a severity, the same on every machine.

    Example:
        >>> item_seed("LIDC-IDRI-0001_1", "ring", 3)
        5210946955693421267
    """
    return hashed(f"{case_id}\n{operation}\n{severity}")


def _check_scans(hu: Tensor, spacing_mm: tuple[float, float, float]) -> None:
    if hu.ndim != 4 or hu.dtype != torch.float32 or min(hu.shape[1:]) < 1 or max(hu.shape[2:]) < 2:
        raise ValueError(
            "wanted (B, D, H, W) float32 Hounsfield units with more than a pixel a slice, got"
            f" {tuple(hu.shape)} {hu.dtype}"
        )
    if not torch.isfinite(hu).all():
        raise ValueError("wanted finite Hounsfield units, got NaN or infinite ones")
    spacing = torch.tensor(spacing_mm, dtype=torch.float64)
    if spacing.shape != (3,) or not (torch.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"wanted three distances above 0 mm along (k, j, i), got {spacing_mm}")


def _checked_steps(
    count: int, operations: Sequence[str], severity: Tensor, seeds: Sequence[int]
) -> list[int]:
    """The severities."""
    if len(operations) != count or severity.shape != (count,) or len(seeds) != count:
        raise ValueError(
            f"wanted an operation, a severity and a seed for each of {count} items, got"
            f" {len(operations)}, {tuple(severity.shape)} and {len(seeds)}"
        )
    unknown = sorted({o for o in operations if o not in _RUN})
    if unknown:
        raise ValueError(f"wanted operations among {DEGRADATIONS}, got {unknown}")
    if severity.is_floating_point() or severity.is_complex() or severity.dtype == torch.bool:
        raise ValueError(f"wanted whole severities, got {severity.dtype}")
    steps: list[int] = severity.tolist()
    if any(not 0 <= step <= WORST for step in steps):
        raise ValueError(f"wanted severities from 0 to {WORST}, got {steps}")
    return steps
