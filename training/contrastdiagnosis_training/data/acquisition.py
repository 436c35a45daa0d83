"""How a series was scanned, and whether that makes its images poor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_table

THICK_MM = 2.5
"""Thicker slices are poor (docs/methods.md 8.2)."""

NOISY_HU = 60.0
"""More noise than this in lung is poor: one LIDC-IDRI scan in seven has it (training/LOG.md)."""

LOW_CURRENT_MA = 60.0
"""Less is a low-dose scan (National Lung Screening Trial, Radiology 2011;258:243: 40-80 mA)."""

SHARP_KERNELS = re.compile(
    r"LUNG|BONE(PLUS)?|EDGE|D|E|L|Y[A-D]"  # GE, Philips.
    r"|(?!FC)[A-Z][A-Z]?[6-9]\d[A-Z]*|[BH]L5\d[A-Z]*"  # Siemens: B70f, Br64d, Bl57d.
    r"|FC([358]\d)"  # Toshiba: bone, lung, high resolution.
)
"""As GE, Philips, Siemens and Toshiba name convolution kernels for lung and bone."""


@dataclass(frozen=True)
class Acquisition:
    """What is told of a series; None where it is not.

    A kernel of several values, as DICOM allows (0018,1210), is sharp if one of them is.
    """

    slice_mm: float | None = None
    current_ma: float | None = None
    kernel: str = ""

    @property
    def poor(self) -> bool:
        """Whether thick slices, a sharp kernel or a low dose make it a poor image."""
        return (
            (self.slice_mm or 0) > THICK_MM
            or 0 < (self.current_ma or 0) < LOW_CURRENT_MA
            or any(
                SHARP_KERNELS.fullmatch(name.strip().upper()) for name in self.kernel.split("\\")
            )
        )


def is_poor_scan(slice_mm: float, noise_hu: float | None, told: Acquisition | None) -> bool:
    """Whether an image is poor by what is measured of it and what is told of its series.

    Args:
        slice_mm: Distance between the slices.
        noise_hu: In lung; None or NaN where there is none.
        told: Of its series, if anything is.
    """
    return slice_mm > THICK_MM or (noise_hu or 0) > NOISY_HU or (told is not None and told.poor)


def read_acquisitions(file: Path) -> Mapping[str, Acquisition]:
    """The table's series by their UID.

    Args:
        file: CSV with `series_uid`, `slice_thickness_mm`, `tube_current_ma` and `kernel`.

    Raises:
        InputError: It cannot be read, lacks a column or a UID, or holds what is no number.
    """
    columns = ("series_uid", "slice_thickness_mm", "tube_current_ma", "kernel")
    found = {}
    for line, row in read_table(file, columns):
        if not row["series_uid"]:
            raise InputError(f"{file}, line {line}: wanted a series_uid, got none")
        try:
            found[row["series_uid"]] = Acquisition(
                _number(row["slice_thickness_mm"]), _number(row["tube_current_ma"]), row["kernel"]
            )
        except ValueError:
            raise InputError(
                f"{file}, line {line}: wanted numbers of mm and mA, got"
                f" {row['slice_thickness_mm']!r} and {row['tube_current_ma']!r}"
            ) from None
    return found


def _number(text: str) -> float | None:
    if not text.strip():
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no measure")
    return value
