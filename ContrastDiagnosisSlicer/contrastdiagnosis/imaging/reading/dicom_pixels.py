"""Stored values of slices: native and run-length encoded ones here, JPEG of all kinds by GDCM."""

from __future__ import annotations

from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_encapsulated import (
    check_codestream,
    is_signed,
    split_frames,
    unpack_rle,
)
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_frames import Frame
from contrastdiagnosis.imaging.reading.dicom_pixel_format import NATIVE_SYNTAXES, PixelFormat

_PIXEL_GROUP = 0x7FE0
"""Elements behind the pixels are of this group or a later one."""

_MOST_PADDING = 1 << 16


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """One slice before it is rescaled.

    Attributes:
        values: (H, W) integers.
        cells: (H, W) unsigned, all bits that are allocated.
    """

    values: NDArray
    cells: NDArray


class PixelReader:
    """Reads stored values, slice by slice; keeps the compressed frames of the file last read."""

    def __init__(self, scratch: Path) -> None:
        """Writes single compressed frames to the folder, for GDCM reads nothing but files."""
        self._scratch = scratch
        self._file: DicomFile | None = None
        self._frames: list[bytes] = []
        self._inflated = b""

    def read(self, frame: Frame) -> StoredPixels:
        """The slice's stored values.

        Raises:
            InputError: They are cut off, damaged or stored in an unknown way, or the disk fails.
        """
        try:
            return self._read(frame)
        except OSError as error:
            raise InputError(f"cannot read {frame.name}: {error.strerror or error}") from error

    def _read(self, frame: Frame) -> StoredPixels:
        file = frame.file
        pixel_format = frame.pixels
        if self._file is not file:
            self._file, self._frames, self._inflated = file, [], b""
        syntax = UID(file.transfer_syntax)
        if syntax in NATIVE_SYNTAXES:
            cells = self._native(frame)
        else:
            _check_known(syntax, file.name)
            self._frames = self._frames or split_frames(file)
            cells = self._unpack(frame, syntax)
        cells = cells.reshape(pixel_format.rows, pixel_format.columns)
        return StoredPixels(_values(cells, pixel_format), cells)

    def _unpack(self, frame: Frame, syntax: UID) -> NDArray:
        compressed, pixel_format = self._frames[frame.index], frame.pixels
        n_pixels = pixel_format.rows * pixel_format.columns
        if syntax == RLELossless:
            return unpack_rle(compressed, n_pixels, pixel_format.allocated // 8, frame.name)
        check_codestream(compressed, syntax, frame.name)
        values = self._decode(frame, syntax)
        if values.size != n_pixels:
            raise InputError(
                f"{_undecoded(frame, syntax)}: wanted {n_pixels} values, got {values.size}"
            )
        cells = values.astype(f"u{pixel_format.allocated // 8}")
        if (
            is_signed(compressed)
            and not pixel_format.signed
            and (cells >> (pixel_format.allocated - 1)).any()
        ):
            raise InputError(
                f"the compressed pixels of {frame.name} are signed and some are negative, but its"
                " Pixel Representation tells that none is"
            )
        return cells

    def _native(self, frame: Frame) -> NDArray:
        file, pixel_format = frame.file, frame.pixels
        size = pixel_format.frame_bytes
        _check_native(file)
        if file.pixel_offset is None:
            self._inflated = self._inflated or _inflate(file)
            data = self._inflated[frame.index * size : (frame.index + 1) * size]
        else:
            with file.path.open("rb") as stream:
                if frame.index == 0:
                    _check_end(stream, file, file.pixel_offset + (file.pixel_bytes or 0))
                stream.seek(file.pixel_offset + frame.index * size)
                data = stream.read(size)
        if len(data) < size:
            raise InputError(
                f"{file.name} is cut off: wanted {size} bytes of pixels"
                f"{'' if file.n_frames == 1 else f' for frame {frame.index + 1}'}, got {len(data)}"
            )
        order = "<" if file.little_endian else ">"
        cells = np.frombuffer(data, f"{order}u{pixel_format.allocated // 8}")
        return cells.astype(cells.dtype.newbyteorder("="), copy=False)

    def _decode(self, frame: Frame, syntax: UID) -> NDArray:
        """The frame alone in a file without rescale: values come as they are stored."""
        pixel_format = frame.pixels
        alone = Dataset()
        alone.file_meta = FileMetaDataset()
        alone.file_meta.TransferSyntaxUID = syntax
        alone.SOPClassUID = SecondaryCaptureImageStorage
        alone.SOPInstanceUID = generate_uid()
        alone.Rows, alone.Columns = pixel_format.rows, pixel_format.columns
        alone.BitsAllocated, alone.BitsStored = pixel_format.allocated, pixel_format.stored
        alone.HighBit, alone.PixelRepresentation = pixel_format.high, int(pixel_format.signed)
        alone.SamplesPerPixel, alone.PhotometricInterpretation = 1, "MONOCHROME2"
        alone.PixelData = encapsulate([self._frames[frame.index]])
        alone["PixelData"].VR = "OB"
        file = self._scratch / "frame.dcm"
        alone.save_as(file, enforce_file_format=True)
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
        except RuntimeError as error:
            told = f"{_undecoded(frame, syntax)}: they are damaged, or of an unknown kind"
            raise InputError(told) from error


def _undecoded(frame: Frame, syntax: UID) -> str:
    return f"cannot decode the pixels of {frame.name}, compressed as {syntax.name}"


def _check_known(syntax: UID, name: str) -> None:
    if syntax.is_private or not syntax.is_transfer_syntax or not syntax.is_encapsulated:
        told = f", {syntax}" if syntax.is_valid else ""
        raise InputError(f"{name} is stored in an unknown transfer syntax{told}")


def _check_native(file: DicomFile) -> None:
    if file.pixel_bytes == -1:
        raise InputError(
            f"the pixels of {file.name} are compressed, but its transfer syntax tells otherwise"
        )


def _check_end(stream: BinaryIO, file: DicomFile, end: int) -> None:
    """Refuses bytes behind the pixels that are no elements: a transfer as text shifts pixels.

    Downloads by DICOMweb may keep the boundary of their parts.
    """
    size = stream.seek(0, SEEK_END) - end
    stream.seek(end)
    rest = stream.read(_MOST_PADDING)
    if not rest or rest.startswith(b"\r\n--"):
        return
    # Files are of even length: a byte alone is the last one of the pixels.
    odd = ((file.pixel_bytes or 0) + size) % 2
    blank = not rest.strip(b"\0 \r\n\xff")
    if odd or not (blank or _is_element(rest, size, file)):
        raise InputError(f"{file.name} is damaged: behind its pixels lie bytes that tell nothing")


def _is_element(rest: bytes, size: int, file: DicomFile) -> bool:
    """Whether the bytes, of so many, begin as an element does that may follow the pixels."""
    order: Literal["little", "big"] = "little" if file.little_endian else "big"
    if int.from_bytes(rest[:2], order) < _PIXEL_GROUP:
        return False
    if not file.header.original_encoding[0]:
        return rest[4:6].isalpha() and rest[4:6].isupper()
    length = int.from_bytes(rest[4:8], order)
    return length == 0xFFFFFFFF or length <= size - 8


def _inflate(file: DicomFile) -> bytes:
    return bytes(pydicom.dcmread(file.path, force=True).PixelData)


def _values(cells: NDArray, pixel_format: PixelFormat) -> NDArray:
    """The stored bits of the cells, moved to the low end and with their sign."""
    n = pixel_format.allocated
    # Shifting up drops what old scanners keep above the value, such as overlays.
    kind = "i" if pixel_format.signed else "u"
    shifted = cells << (n - 1 - pixel_format.high)
    return shifted.view(f"{kind}{n // 8}") >> (n - pixel_format.stored)
