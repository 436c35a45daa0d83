"""What DICOM objects are: slices that may form a CT, or something to set aside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_values import is_told, text, words

_CT = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
_CAPTURE = {
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
}
_LOCALIZER_WORDS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
"""LOCALIZER is the standard's, PS3.3 C.8.2.1.1.1; scanners' own names stand in old files."""

_PLURALS = {
    kind: f"{kind}s"
    for kind in ("localizer image", "secondary capture", "duplicate slice", "other object")
}


def sort_out(files: Iterable[DicomFile]) -> tuple[list[DicomFile], Counter[str]]:
    """Files that may be slices of a CT, and how many of each kind are set aside.

    Captured screens are set aside where there is anything better.

    Raises:
        InputError: A file that may be a slice ends before its pixels.
    """
    aside: Counter[str] = Counter()
    slices: list[DicomFile] = []
    captures: list[DicomFile] = []
    for file in files:
        kind = _other_kind(file)
        if kind:
            aside[kind] += 1
            continue
        if file.pixel_bytes is None:
            raise InputError(f"{file.name} is cut off or damaged: it ends before its pixel data")
        (captures if _is_capture(file) else slices).append(file)
    if not slices:
        return captures, aside
    if captures:
        aside["secondary capture"] += len(captures)
    return slices, aside


def count_kinds(kinds: Counter[str]) -> str:
    """Such as `2 localizer images, 1 RTSTRUCT`."""
    return ", ".join(
        f"{n} {_PLURALS.get(kind, kind) if n > 1 else kind}" for kind, n in sorted(kinds.items())
    )


def _other_kind(file: DicomFile) -> str:
    """What the file is if it cannot be a CT slice, else empty."""
    modality = text(file.header, "Modality").upper()
    without_pixels = file.pixel_bytes is None
    meant = str(file.header.file_meta.get("MediaStorageSOPClassUID", ""))
    if without_pixels and (meant in _CT or not modality):
        return ""  # a slice that was cut off, wherever its header ends
    if modality not in ("", "CT"):
        if file.sop_class in _CAPTURE:
            return "secondary capture"
        # Some files hold free text there.
        return modality if re.fullmatch(r"[A-Z0-9_]{2,16}", modality) else "other object"
    if _LOCALIZER_WORDS & words(file.header, "ImageType"):
        return "localizer image"
    if file.sop_class in _CT or file.sop_class in _CAPTURE or not file.sop_class:
        return ""
    if file.sop_class.name != file.sop_class:  # one that the standard knows, and it is no CT
        return file.sop_class.name.removesuffix(" Storage")
    return "other object" if without_pixels else ""


def _is_capture(file: DicomFile) -> bool:
    """Whether it is a picture of a screen: in colour, or captured and without a place."""
    if str(file.header.get("SamplesPerPixel", 1)) != "1":
        return True
    screen = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT"} & words(file.header, "ImageType")
    if file.sop_class not in _CAPTURE and not screen:
        return False
    placed = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence")
    return not any(is_told(file.header, keyword) for keyword in placed)
