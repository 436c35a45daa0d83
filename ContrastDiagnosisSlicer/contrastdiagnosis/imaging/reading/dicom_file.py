"""`DicomFile`: one file's header, and where its pixels lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_values import text, whole

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Whoever names a file so means DICOM."""

PREAMBLE = 128
MAGIC = b"DICM"

OVERLAY_BITS = tuple(0x60000102 + (group << 16) for group in range(0, 0x20, 2))
"""Overlay Bit Position of the sixteen overlay groups, DICOM PS3.5 7.6."""

_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
_RADIOTHERAPY = range(0x3002, 0x3011)
"""Groups of contours and doses: long, of no use here, and behind all that is."""

_UNDEFINED = 0xFFFFFFFF

_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "PatientID", "Modality", "ImageType", "SeriesDescription"),
    *("SeriesNumber", "ConvolutionKernel", "SliceThickness", "NumberOfFrames"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"),
    "ConcatenationFrameOffsetNumber",
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("Rows", "Columns", "SamplesPerPixel", "PixelRepresentation"),
    "PhotometricInterpretation",
    *("BitsAllocated", "BitsStored", "HighBit"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_READ_AT_ONCE = [
    keyword
    for keyword in _KEYWORDS
    if dictionary_VR(keyword) in ("UI", "CS", "LO", "SH", "US", "UL", "SQ", "IS")
]
_TAGS: list[BaseTag | int] = [*map(Tag, _KEYWORDS), *OVERLAY_BITS]


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A DICOM file, read as far as its pixels.

    Attributes:
        path: Where it lies.
        name: What messages call it: its path below the folder or in the zip that the user named.
        header: The elements that are looked at here.
        pixel_offset: First byte of the pixels in the file; None where they are deflated with all
            the rest.
        pixel_bytes: Their length as told; None where the file holds no pixels, -1 where they are
            encapsulated, so that their length is not told.
        float_pixels: The pixels are floating-point numbers, which no CT object may hold.
    """

    path: Path
    name: str
    header: FileDataset
    pixel_offset: int | None = None
    pixel_bytes: int | None = None
    float_pixels: bool = False

    @property
    def transfer_syntax(self) -> str:
        """UID of the encoding, empty in files from before there was one."""
        return str(self.header.file_meta.get("TransferSyntaxUID", ""))

    @property
    def sop_class(self) -> UID:
        """What kind of object it is; as its first bytes tell where the header does not."""
        told = text(self.header, "SOPClassUID")
        return UID(told or str(self.header.file_meta.get("MediaStorageSOPClassUID", "")))

    @property
    def little_endian(self) -> bool:
        """Whether the low byte of a number comes first."""
        return bool(self.header.original_encoding[1])

    @cached_property
    def n_frames(self) -> int:
        """How many images it holds.

        Raises:
            InputError: It tells of none, or of half a one.
        """
        count = whole(self.header, "NumberOfFrames", self.name)
        if count is not None and count < 1:
            raise InputError(f"wanted 1 or more as Number of Frames of {self.name}, got {count}")
        return 1 if count is None else count


def is_dicom_file(path: Path) -> bool:
    """Whether the file is DICOM by its first bytes, or means to be by its name."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with _opened(path, path.name) as stream:
        return _head(stream, path.name)[PREAMBLE:] == MAGIC


def read_dicom_file(path: Path, name: str) -> DicomFile | None:
    """The file's header, None where it is no DICOM file.

    Args:
        path: The file.
        name: What messages call it.

    Raises:
        InputError: It cannot be opened, or is DICOM but its header is damaged.
    """
    with _opened(path, name) as stream:
        head = _head(stream, name)
        stream.seek(0)
        with_magic = head[PREAMBLE:] == MAGIC
        # Files from before DICOM's preamble start with group 8 or 2 itself.
        if not with_magic and head[:2] not in (b"\x08\0", b"\0\x08", b"\x02\0"):
            return None
        pixels: list[tuple[BaseTag, int, int]] = []
        try:
            header = _read_header(stream, pixels)
        except Exception as error:  # pydicom lets a dozen kinds through, according to the damage
            if isinstance(error, OSError) and error.errno:  # the disk, not the file
                raise InputError(f"cannot read {name}: {error.strerror}") from error
            if not with_magic:
                return None
            told = f"{name} is cut off or damaged: its DICOM header cannot be read"
            raise InputError(told) from error
    if not with_magic and not (pixels and "Rows" in header):
        return None
    if not pixels:
        return DicomFile(path, name, header)
    tag, offset, length = pixels[-1]
    deflated = header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    return DicomFile(
        path,
        name,
        header,
        None if deflated else offset,
        -1 if length == _UNDEFINED else length,
        float_pixels=tag in _FLOAT_PIXEL_DATA,
    )


def _read_header(stream: BinaryIO, pixels: list[tuple[BaseTag, int, int]]) -> FileDataset:
    """The elements before the pixels, whose (tag, offset, length) is appended to `pixels`."""
    header = read_partial(stream, _stop_at(stream, pixels), force=True, specific_tags=_TAGS)
    for keyword in _READ_AT_ONCE:  # so that damage shows here and not in the midst of the work
        header.get(keyword)
    for keyword in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
        header.file_meta.get(keyword)
    return header


def _stop_at(
    stream: BinaryIO, pixels: list[tuple[BaseTag, int, int]]
) -> Callable[[BaseTag, str | None, int], bool]:
    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        found = tag == _PIXEL_DATA or tag in _FLOAT_PIXEL_DATA
        if found:
            pixels.append((tag, stream.tell(), length))
        return found or tag.group in _RADIOTHERAPY

    return stop


def _head(stream: BinaryIO, name: str) -> bytes:
    """The bytes that tell whether a file is DICOM."""
    try:
        return stream.read(PREAMBLE + len(MAGIC))
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error


def _opened(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot open {name}: {error.strerror}") from error
