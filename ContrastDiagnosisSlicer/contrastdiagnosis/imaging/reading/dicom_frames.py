"""`Frame`: one slice, in a file of its own or in a multi-frame file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_concatenation import check_concatenations
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_pixel_format import (
    PixelFormat,
    check_length,
    pixel_format_of,
)
from contrastdiagnosis.imaging.reading.dicom_values import decimals, items, name_of, text

Numbers = tuple[float, ...]

Levels = tuple[list[Dataset], list[Dataset]]
"""Functional groups of a frame alone, and those that all frames share."""

_NOT_HU = {
    "OD": "optical densities",
    "MGML": "mg/ml",
    "PCT": "per cent",
    "Z_EFF": "atomic numbers",
    "ED": "electron densities",
    "EDW": "electron densities",
}
"""Rescale Types other than Hounsfield units, DICOM PS3.3 C.11.1.1.2."""


@dataclass(frozen=True)
class Plane:
    """Where a slice lies; what its file does not tell is None.

    Attributes:
        position_mm: Centre of its first voxel, (x, y, z) in LPS.
        orientation: LPS directions of its rows, then of its columns.
        spacing_mm: Distance between rows, then between columns.
    """

    position_mm: Numbers | None
    orientation: Numbers | None
    spacing_mm: Numbers | None


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice; what its file does not tell is None.

    Attributes:
        file: Where it is stored.
        index: Its place there, from 0.
        pixels: How its pixels are stored.
        position_mm: Centre of its first voxel, (x, y, z) in LPS.
        orientation: LPS directions of its rows, then of its columns.
        spacing_mm: Distance between rows, then between columns.
        slope: Hounsfield units per stored value.
        intercept: Hounsfield units of a stored 0.
        stack: Stack and point in time that a multi-frame file assigns it to.
    """

    file: DicomFile
    index: int
    pixels: PixelFormat
    position_mm: Numbers | None
    orientation: Numbers | None
    spacing_mm: Numbers | None
    slope: float | None
    intercept: float | None
    stack: tuple[str, str]

    @property
    def name(self) -> str:
        """What messages call it."""
        return _frame_name(self.file, self.index)


def frames_of(files: Iterable[DicomFile]) -> list[Frame]:
    """Every slice of the files.

    Raises:
        InputError: A value is malformed, or a file describes fewer frames than it holds.
    """
    frames: list[Frame] = []
    for file in files:
        try:
            frames += _frames_of(file)
        except InputError:
            raise
        except Exception as error:  # pydicom converts the items of sequences only now
            told = f"{file.name} is damaged: its functional groups cannot be read"
            raise InputError(told) from error
    return frames


def check_frames(frames: Sequence[Frame]) -> None:
    """Refuses slices of unknown place or scale, and those that do not belong together.

    Raises:
        InputError: As said.
    """
    _check_same_object(frames)
    for name, values in (
        ("Image Position (Patient)", [frame.position_mm for frame in frames]),
        ("Image Orientation (Patient)", [frame.orientation for frame in frames]),
        ("Pixel Spacing", [frame.spacing_mm for frame in frames]),
    ):
        _refuse_lacking(frames, name, values, "so the geometry of the scan is not known")
    slopes = [frame.slope for frame in frames]
    intercepts = [frame.intercept for frame in frames]
    # Where no slice is rescaled, the voxels tell whether they are Hounsfield units all the same.
    if any(value is not None for value in (*slopes, *intercepts)):
        why = "so their Hounsfield units are not known"
        _refuse_lacking(frames, "Rescale Intercept", intercepts, why)
        _refuse_lacking(frames, "Rescale Slope", slopes, why)
    for frame in frames:
        if frame.slope is not None and frame.slope <= 0:
            raise InputError(
                f"wanted a positive Rescale Slope, got {frame.slope:g} in {frame.name}"
            )


def planes_of(file: DicomFile) -> list[Plane]:
    """Where the file's slices lie, whatever they show; none where it does not tell clearly."""
    try:
        return [_plane(file, n, groups) for n, groups in enumerate(_groups_of(file))]
    except Exception:  # damage in what is not read here
        return []


def _frames_of(file: DicomFile) -> list[Frame]:
    groups_of_frames = _groups_of(file)
    pixels = pixel_format_of(file)
    check_length(file, pixels)
    return [_frame(file, n, pixels, groups) for n, groups in enumerate(groups_of_frames)]


def _groups_of(file: DicomFile) -> list[Levels]:
    """The functional groups of every frame."""
    n_frames = file.n_frames
    own = items(file.header, "PerFrameFunctionalGroupsSequence")
    if own and len(own) != n_frames:
        raise InputError(f"{file.name} holds {n_frames} frames but describes {len(own)}")
    if not own and n_frames > 1:
        raise InputError(
            f"{n_frames} of {n_frames} slices lack Image Position (Patient) (the first is"
            f" {_frame_name(file, 0)}), so the geometry of the scan is not known"
        )
    shared = items(file.header, "SharedFunctionalGroupsSequence")
    return [(own[index : index + 1], shared) for index in range(n_frames)]


def _frame(file: DicomFile, index: int, pixel_format: PixelFormat, groups: Levels) -> Frame:
    where, header = _frame_name(file, index), file.header
    scale = "PixelValueTransformationSequence"
    slope = _told(groups, scale, "RescaleSlope", 1, header, where)
    intercept = _told(groups, scale, "RescaleIntercept", 1, header, where)
    every = [group for level in groups for group in level]
    _check_hounsfield(file, every, where)
    plane = _plane(file, index, groups)
    return Frame(
        file,
        index,
        pixel_format,
        plane.position_mm,
        plane.orientation,
        plane.spacing_mm,
        slope[0] if slope else None,
        intercept[0] if intercept else None,
        _stack(every),
    )


def _plane(file: DicomFile, index: int, groups: Levels) -> Plane:
    where, header = _frame_name(file, index), file.header
    # The header's own position is that of one slice: several frames cannot share it.
    placed = header if file.n_frames == 1 else None
    return Plane(
        _told(groups, "PlanePositionSequence", "ImagePositionPatient", 3, placed, where),
        _told(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6, header, where),
        _told(groups, "PixelMeasuresSequence", "PixelSpacing", 2, header, where),
    )


def _told(
    groups: Levels, sequence: str, keyword: str, count: int, header: Dataset | None, where: str
) -> Numbers | None:
    """What a frame's own groups tell, else what the shared ones do, else the header."""
    places = [[item for group in level for item in items(group, sequence)] for level in groups]
    for level in [*places, [header] if header is not None else []]:
        told = {decimals(place, keyword, count, where) for place in level} - {None}
        if len(told) > 1:
            raise InputError(f"{where} tells {len(told)} different values of {name_of(keyword)}")
        if told:
            return told.pop()
    return None


def _stack(groups: list[Dataset]) -> tuple[str, str]:
    for content in (item for group in groups for item in items(group, "FrameContentSequence")):
        return text(content, "StackID"), text(content, "TemporalPositionIndex")
    return "", ""


def _frame_name(file: DicomFile, index: int) -> str:
    return file.name if file.n_frames == 1 else f"frame {index + 1} of {file.name}"


def _check_hounsfield(file: DicomFile, groups: list[Dataset], where: str) -> None:
    if items(file.header, "ModalityLUTSequence"):
        raise InputError(
            f"{where} is scaled by a Modality LUT: wanted Rescale Slope and Intercept, which give"
            " Hounsfield units"
        )
    places = [i for group in groups for i in items(group, "PixelValueTransformationSequence")]
    for place in (*places, file.header):
        kind = text(place, "RescaleType").upper()
        if kind in _NOT_HU:
            raise InputError(f"wanted Hounsfield units, got {_NOT_HU[kind]} in {where}")


def _check_same_object(frames: Sequence[Frame]) -> None:
    for keyword, told in (
        ("StudyInstanceUID", "belong to {} studies"),
        ("PatientID", "belong to {} patients"),
        ("FrameOfReferenceUID", "lie in {} frames of reference, which tell nothing of each other"),
    ):
        values = {text(frame.file.header, keyword) for frame in frames} - {""}
        if len(values) > 1:
            raise InputError(f"the slices of one series {told.format(len(values))}")
    for n, told in ((0, "stacks"), (1, "points in time")):
        values = {frame.stack[n] for frame in frames} - {""}
        if len(values) > 1:
            raise InputError(
                f"wanted one volume, got {len(values)} {told} in one series; the first file is"
                f" {frames[0].file.name}"
            )
    check_concatenations({id(frame.file): frame.file for frame in frames}.values())


def _refuse_lacking(
    frames: Sequence[Frame], name: str, values: Sequence[object], consequence: str
) -> None:
    lacking = [frame for frame, value in zip(frames, values, strict=True) if value is None]
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(frames)} slices lack {name} (the first is"
            f" {lacking[0].name}), {consequence}"
        )
