"""`PixelFormat`: how a file stores its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_values import name_of, text, whole

NATIVE_SYNTAXES = {
    "",
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
"""Encodings in which pixels stand one behind the other."""

_ITEM_BYTES = 8
"""Least length of a compressed frame, which is an item, DICOM PS3.5 A.4."""


@dataclass(frozen=True)
class PixelFormat:
    """How pixels are stored, DICOM PS3.5 8.1.1.

    Attributes:
        rows: Voxels along a column.
        columns: Voxels along a row.
        allocated: Bits per pixel: 8, 16 or 32.
        stored: Bits of them that hold the value.
        high: Place of the value's highest bit, from 0.
        signed: Whether the value is in two's complement.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Length of one native frame."""
        return self.rows * self.columns * self.allocated // 8


def pixel_format_of(file: DicomFile) -> PixelFormat:
    """How the file stores its pixels.

    Raises:
        InputError: It does not tell, or in a way that no CT is stored.
    """
    if file.float_pixels:
        raise InputError(f"wanted whole numbers as pixels, got floating-point ones in {file.name}")
    numbers = {}
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        value = whole(file.header, keyword, file.name)
        if value is None or (value < 1 and keyword != "PixelRepresentation"):
            raise InputError(
                f"{file.name} does not tell its {name_of(keyword)}: its pixels cannot be read"
            )
        numbers[keyword] = value
    samples = whole(file.header, "SamplesPerPixel", file.name)
    if samples not in (None, 1):
        raise InputError(f"wanted grey voxels, got {samples} samples per pixel in {file.name}")
    colours = text(file.header, "PhotometricInterpretation").upper()
    if colours not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"wanted grey voxels, got {colours[:16]} as Photometric Interpretation in {file.name}"
        )
    allocated, stored = numbers["BitsAllocated"], numbers["BitsStored"]
    high = whole(file.header, "HighBit", file.name)
    high = stored - 1 if high is None else high
    if allocated not in (8, 16, 32) or not stored - 1 <= high < allocated:
        raise InputError(
            f"wanted pixels of 8, 16 or 32 bits, got {stored} bits up to bit {high} of {allocated}"
            f" in {file.name}"
        )
    signed = numbers["PixelRepresentation"] == 1
    return PixelFormat(numbers["Rows"], numbers["Columns"], allocated, stored, high, signed)


def check_length(file: DicomFile, pixel_format: PixelFormat) -> None:
    """Refuses pixels that cannot be, or are not all, those of the images the header tells of.

    Raises:
        InputError: As said.
    """
    told = file.pixel_bytes or 0
    if told < 0:
        room = file.path.stat().st_size - (file.pixel_offset or 0)
        if file.pixel_offset is not None and file.n_frames * _ITEM_BYTES > room:
            raise InputError(
                f"{file.name} tells of {file.n_frames} images but has only {room} bytes of"
                " compressed pixels: it is damaged"
            )
        return
    if file.transfer_syntax not in NATIVE_SYNTAXES:
        return
    wanted = pixel_format.frame_bytes * file.n_frames
    row = pixel_format.columns * pixel_format.allocated // 8
    if told < wanted or told >= wanted + max(row, 2):
        raise InputError(
            f"wanted {wanted} bytes of pixels for {file.n_frames} images of {pixel_format.rows} x"
            f" {pixel_format.columns}, got {told} in {file.name}: it is damaged"
        )
