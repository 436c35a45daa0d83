"""Stored values to Hounsfield units, and which of them are no tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from scipy.ndimage import label

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import OVERLAY_BITS, DicomFile
from contrastdiagnosis.imaging.reading.dicom_frames import Frame
from contrastdiagnosis.imaging.reading.dicom_pixel_format import PixelFormat
from contrastdiagnosis.imaging.reading.dicom_pixels import PixelReader, StoredPixels
from contrastdiagnosis.imaging.reading.dicom_values import whole
from contrastdiagnosis.imaging.reading.scan_image import LOWEST_HU, NO_VOXEL_HU

_INT16 = np.iinfo(np.int16)


def hounsfield_volume(frames: Sequence[Frame], reader: PixelReader) -> NDArray:
    """(D, H, W) Hounsfield units; int16 where that holds every one exactly, else float32.

    Raises:
        InputError: A slice cannot be read.
    """
    first = frames[0].pixels
    volume = np.empty((len(frames), first.rows, first.columns), np.int16)
    for k, frame in enumerate(frames):
        hu = hounsfield(frame, reader)
        if volume.dtype == np.int16 and not _fits_int16(hu):
            volume = volume.astype(np.float32)
        volume[k] = hu
    return volume


def hounsfield(frame: Frame, reader: PixelReader) -> NDArray:
    """(H, W) Hounsfield units of a slice, `NO_VOXEL_HU` where the scanner measured nothing.

    A padding value that no tissue has is padding everywhere. One that air may have as well is
    padding only where it reaches the border of the slice.

    Raises:
        InputError: The slice cannot be read.
    """
    stored = reader.read(frame)
    values, is_padding = _find_padding(stored, frame.file, frame.pixels)
    _check_high_bits(stored, is_padding, frame)
    hu = _rescale(values, frame)
    if is_padding.any():
        impossible = (hu < LOWEST_HU) | (hu > _INT16.max)
        hu[is_padding & (impossible | _reaches_border(is_padding))] = NO_VOXEL_HU
    return hu


def _rescale(values: NDArray, frame: Frame) -> NDArray:
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    if slope == int(slope) and intercept == int(intercept):
        wide = values.astype(np.int64 if values.dtype.itemsize > 2 else np.int32)
        if abs(slope) < 2**14 and abs(intercept) < 2**30:
            return wide * int(slope) + int(intercept)
    return values.astype(np.float64) * slope + intercept


def _fits_int16(hu: NDArray) -> bool:
    if hu.min() < _INT16.min or hu.max() > _INT16.max:
        return False
    return np.issubdtype(hu.dtype, np.integer) or bool((hu == np.rint(hu)).all())


def _find_padding(
    stored: StoredPixels, file: DicomFile, pixel_format: PixelFormat
) -> tuple[NDArray, NDArray]:
    """The stored values, and where they are padding.

    Padding may use bits above those that hold a value: such voxels get the value of all bits.
    """
    values = stored.values
    ends = _padding_range(file, pixel_format)
    if ends is None:
        return values, np.zeros(values.shape, bool)
    low, high = ends
    is_padding = (values >= low) & (values <= high)
    if pixel_format.high != pixel_format.stored - 1:
        return values, is_padding
    kind = "i" if pixel_format.signed else "u"
    cells = stored.cells.view(f"{kind}{stored.cells.dtype.itemsize}")
    in_all_bits = (cells >= low) & (cells <= high)
    return np.where(in_all_bits, cells, values), is_padding | in_all_bits


def _padding_range(file: DicomFile, pixel_format: PixelFormat) -> tuple[int, int] | None:
    """Lowest and highest padding value, DICOM PS3.3 C.7.5.1.1.2."""
    value = _pixel_value(file, "PixelPaddingValue", pixel_format)
    if value is None:
        return None
    limit = _pixel_value(file, "PixelPaddingRangeLimit", pixel_format)
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _pixel_value(file: DicomFile, keyword: str, pixel_format: PixelFormat) -> int | None:
    """An element's bits, read as the pixels' bits are: its own VR is often the wrong one."""
    element = file.header.get_item(keyword)
    if element is None or element.value in (None, b"", ""):
        return None
    if isinstance(element, RawDataElement):
        order = "little" if element.is_little_endian else "big"
        bits = int.from_bytes(element.value[:2], order)
    else:
        bits = int(element.value) & 0xFFFF
    n = min(pixel_format.allocated, 16)
    bits &= (1 << n) - 1
    return bits - (1 << n) if pixel_format.signed and bits >> (n - 1) else bits


def _reaches_border(mask: NDArray) -> NDArray:
    """Where regions of the mask, connected in plane, touch the edge of the slice."""
    regions, n = label(mask)
    touching = np.zeros(n + 1, bool)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        touching[edge] = True
    touching[0] = False
    return touching[regions]


def _check_high_bits(stored: StoredPixels, is_padding: NDArray, frame: Frame) -> None:
    """Refuses values that do not fit into the bits that are said to hold them.

    Above those may lie a declared overlay, or the sign again.
    """
    cells, pixel_format = stored.cells, frame.pixels
    n = pixel_format.allocated
    if pixel_format.high + 1 >= n:
        return
    above = ((1 << n) - 1) & ~((1 << (pixel_format.high + 1)) - 1)
    for tag in OVERLAY_BITS:
        place = whole(frame.file.header, tag, frame.name)
        if place is not None:
            above &= ~(1 << min(place, 64))
    held = cells & cells.dtype.type(above)
    strange = (held != 0) & ~is_padding
    if pixel_format.signed:
        strange &= ~((held == above) & (stored.values < 0))
    if strange.any():
        raise InputError(
            f"{int(strange.sum())} voxels of {frame.name} do not fit into the {pixel_format.stored}"
            " bits that it tells as Bits Stored: their values are not known"
        )
