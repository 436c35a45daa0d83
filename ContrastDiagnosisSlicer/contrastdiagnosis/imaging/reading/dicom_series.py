"""`Series`: files of one DICOM series, and the choice among several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_values import items, text
from contrastdiagnosis.imaging.reading.scan_image import MIN_SLICES

_MAX_ROWS = 12


@dataclass(frozen=True)
class Series:
    """The files that share a series UID.

    Attributes:
        uid: The UID, empty where the files tell none.
        files: At least one.
    """

    uid: str
    files: tuple[DicomFile, ...]

    @cached_property
    def n_slices(self) -> int:
        """How many images the files hold."""
        return sum(file.n_frames for file in self.files)

    @property
    def is_volume(self) -> bool:
        """Whether there are enough slices for one."""
        return self.n_slices >= MIN_SLICES


def group_series(files: Sequence[DicomFile]) -> list[Series]:
    """The files by series, in order of series numbers, then of UIDs."""
    of_uid: dict[str, list[DicomFile]] = {}
    for file in files:
        of_uid.setdefault(text(file.header, "SeriesInstanceUID"), []).append(file)
    series = [Series(uid, tuple(files)) for uid, files in of_uid.items()]
    return sorted(series, key=lambda one: (_series_number(one), one.uid))


def choose_series(series: Sequence[Series], uid: str | None, shown: Path) -> Series:
    """The series that is asked for, or the only one that may be a volume.

    Args:
        series: At least one.
        uid: The one to take, None for the only one.
        shown: Where they lie, for messages.

    Raises:
        InputError: There is none of that UID, or several to choose from, or too few slices.
    """
    volumes = [one for one in series if one.is_volume]
    if uid is not None:
        named = [one for one in series if one.uid == uid]
        if not named:
            told = f"no series {uid} in {shown}; it holds:\n{series_table(series)}"
            raise InputError(told, setting="series")
        return _with_slices(named[0], shown)
    if len(volumes) > 1:
        told = f"{shown} holds {len(volumes)} series; name one:\n{series_table(volumes)}"
        rest = len(series) - len(volumes)
        if rest:
            told += f"\nand {rest} of fewer than {MIN_SLICES} slices"
        raise InputError(told, setting="series")
    if len(series) > 1 and not volumes:
        raise InputError(
            f"wanted a CT of at least {MIN_SLICES} slices, got {len(series)} series of fewer in"
            f" {shown}:\n{_first_rows(series)}"
        )
    return _with_slices((volumes or series)[0], shown)


def series_table(series: Sequence[Series]) -> str:
    """A line for each: UID, slices, size, thickness, kernel and description."""
    rows = [(one.uid or "(no UID)", _slices(one.n_slices), *_told(one.files[0])) for one in series]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _first_rows(series: Sequence[Series]) -> str:
    """The table of as many as help: files whose series was taken from them have each its own."""
    rest = len(series) - _MAX_ROWS
    return series_table(series[:_MAX_ROWS]) + (f"\nand {rest} more" if rest > 0 else "")


def _with_slices(series: Series, shown: Path) -> Series:
    if not series.is_volume:
        told = f"wanted a CT of at least {MIN_SLICES} slices, got {series.n_slices} in {shown}"
        if series.n_slices == 1 and series.files[0].path.name == shown.name:
            told += ": if it is one slice of a scan, name the folder that holds them all"
        raise InputError(told)
    return series


def _slices(n: int) -> str:
    return f"{n} slice" if n == 1 else f"{n} slices"


def _told(file: DicomFile) -> tuple[str, str, str, str]:
    header = file.header
    size = f"{header.get('Rows', '?')} x {header.get('Columns', '?')}"
    thickness = text(header, "SliceThickness")
    for shared in items(header, "SharedFunctionalGroupsSequence"):
        for measures in items(shared, "PixelMeasuresSequence"):
            thickness = thickness or text(measures, "SliceThickness")
    kernel = text(header, "ConvolutionKernel").replace("\\", " ")
    return (
        size,
        f"{thickness[:8]} mm thick" if thickness else "thickness not told",
        f"kernel {kernel[:20]}" if kernel else "kernel not told",
        text(header, "SeriesDescription")[:60],
    )


def _series_number(series: Series) -> float:
    number = text(series.files[0].header, "SeriesNumber")
    return float(number) if number.isdecimal() else float("inf")
