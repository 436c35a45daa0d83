"""`PixelFormat`: how a file stores its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading.dicom_file import DicomFile
from contrastdiagnosis.reading.dicom_values import name_of, whole


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
