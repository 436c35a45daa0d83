"""Slices that a scan has lost to another series or kind: refused rather than left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_frames import Frame, Plane, planes_of
from contrastdiagnosis.imaging.reading.dicom_series import Series, group_series
from contrastdiagnosis.imaging.reading.dicom_stack import Stack
from contrastdiagnosis.imaging.reading.dicom_values import text

_TURN_TOLERANCE = 3e-3
_ASIDE_MM = 0.5
_SAME_STEP = 0.1
"""Of a step: what lies closer to a slice is another image of the same place."""

_NEXT_STEP = 1.5
"""Steps from the end of a scan to where the next slice is at most."""


def may_be_lost(chosen: Series, files: Sequence[DicomFile]) -> list[DicomFile]:
    """Images, of any kind, that may be slices of the chosen series but are not among them.

    They have its series UID or none, or are too few for a series of their own; all are of its
    study and frame of reference, as far as they tell.
    """
    own = set(map(id, chosen.files))
    images = [
        file
        for file in files
        if id(file) not in own
        and file.pixel_bytes is not None
        and _agree(file, chosen.files[0], "StudyInstanceUID")
        and _agree(file, chosen.files[0], "FrameOfReferenceUID")
    ]
    return [
        file
        for series in group_series(images)
        if series.uid in (chosen.uid, "") or not series.is_volume
        for file in series.files
    ]


def refuse_lost(stack: Stack, chosen: Series, suspects: Sequence[DicomFile]) -> None:
    """Refuses a scan of which slices, by their place, are among the suspects.

    With the series UID of the scan, or with none, any free place on its axis is one; with another
    UID, the one that follows the last slice, or all places between the slices.

    Raises:
        InputError: As said.
    """
    between: list[str] = []
    n_gaps = len(stack.frames) - 1
    for file in suspects:
        uid = text(file.header, "SeriesInstanceUID")
        for plane in planes_of(file):
            place = _free_place(plane, stack)
            if place is None:
                continue
            if uid in (chosen.uid, ""):
                told = "has the UID of the series" if uid else "tells no Series Instance UID"
                raise InputError(_lost(file, told))
            if not _is_alike(file, plane, stack.frames[0]):
                continue
            if 0 < place < n_gaps:
                between.append(file.name)
            elif -_NEXT_STEP <= place <= n_gaps + _NEXT_STEP:
                raise InputError(_lost(file, "has another series UID"))
            if len(between) >= n_gaps:
                raise InputError(_lost(file, "has another series UID"))


def _lost(file: DicomFile, told: str) -> str:
    return (
        f"{file.name} lies where the scan could have a slice but has none, and {told}, but is not"
        " told to be a CT slice of it: correct its header, or take it away if it is none"
    )


def _agree(file: DicomFile, other: DicomFile, keyword: str) -> bool:
    return len({text(one.header, keyword) for one in (file, other)} - {""}) < 2


def _free_place(plane: Plane, stack: Stack) -> float | None:
    """The place on the scan's axis, in steps from its first slice, None if it is not free there."""
    if plane.position_mm is None or plane.orientation is None:
        return None
    turn = np.reshape(plane.orientation, (2, 3)) - stack.direction[:, :2].T
    offset_mm = stack.direction.T @ (plane.position_mm - stack.origin_mm)
    place = float(offset_mm[2] / stack.spacing_mm[2])
    nearest = np.clip(np.rint(place), 0, len(stack.frames) - 1)
    beside = np.abs(turn).max() > _TURN_TOLERANCE or np.linalg.norm(offset_mm[:2]) > _ASIDE_MM
    return None if beside or abs(place - nearest) <= _SAME_STEP else place


def _is_alike(file: DicomFile, plane: Plane, frame: Frame) -> bool:
    """Whether an image has the size and the pixel spacing of a slice."""
    size = (file.header.get("Rows"), file.header.get("Columns"))
    if size != (frame.pixels.rows, frame.pixels.columns) or plane.spacing_mm is None:
        return False
    return bool(np.allclose(plane.spacing_mm, frame.spacing_mm or (), rtol=1e-3))
