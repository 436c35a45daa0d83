"""Compressed frames in a file: found, counted, and refused where one is cut off."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile

_ITEM = 0xE000FFFE
_SEQUENCE_END = 0xE0DDFFFE
_START_OF_IMAGE = (b"\xff\xd8", b"\xff\x4f")
_JPEG_2000 = b"\xff\x4f\xff\x51"
_END_OF_IMAGE = b"\xff\xd9"
"""Markers of JPEG and JPEG-LS (ITU-T T.81, T.87) and of JPEG 2000 (T.800)."""

_CODESTREAMS = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}

_RLE_HEADER = struct.Struct("<16L")


def split_frames(file: DicomFile) -> list[bytes]:
    """The file's compressed frames.

    Raises:
        InputError: The file is cut off, or holds another number of frames than it tells.
    """
    with file.path.open("rb") as stream:
        stream.seek(file.pixel_offset or 0)
        data = stream.read()
    if file.pixel_bytes != -1:
        raise InputError(
            f"the pixels of {file.name} are not compressed, but its transfer syntax tells so"
        )
    fragments = _fragments(data, file.name)[1:]  # the first is a table of offsets
    n_frames = file.n_frames
    if len(fragments) == n_frames:
        return fragments
    if n_frames == 1 and fragments:
        starts = sum(fragment[:2] in _START_OF_IMAGE for fragment in fragments)
        if starts < 2:
            return [b"".join(fragments)]
        raise InputError(f"{file.name} tells of 1 image but holds {starts}")
    try:
        frames = list(generate_frames(data, number_of_frames=n_frames))
    except ValueError:
        frames = []
    if len(frames) != n_frames:
        raise InputError(
            f"{file.name} tells of {n_frames} images but holds"
            f" {len(frames) or len(fragments)}: it is damaged"
        )
    return frames


def check_codestream(frame: bytes, syntax: UID, name: str) -> None:
    """Refuses a JPEG frame of any kind that ends too early: decoders fill up with grey.

    Args:
        frame: The compressed frame.
        syntax: How it is compressed.
        name: What messages call it.

    Raises:
        InputError: It is cut off.
    """
    if syntax in _CODESTREAMS and not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
        raise InputError(f"{name} is cut off or damaged: its compressed pixels do not end")


def is_signed(frame: bytes) -> bool:
    """Whether a JPEG 2000 frame says of itself that its values are signed, ITU-T T.800 A.5.1."""
    return frame[:4] == _JPEG_2000 and len(frame) > 42 and bool(frame[42] >> 7)


def unpack_rle(frame: bytes, n_pixels: int, n_bytes: int, name: str) -> NDArray:
    """The pixels of a run-length encoded frame, unsigned, DICOM PS3.5 G.

    Args:
        frame: The compressed frame.
        n_pixels: How many pixels it must hold.
        n_bytes: Bytes per pixel; each has a segment of its own, the highest first.
        name: What messages call it.

    Raises:
        InputError: It is cut off or damaged.
    """
    n_segments, *offsets = _RLE_HEADER.unpack(frame[: _RLE_HEADER.size].ljust(_RLE_HEADER.size))
    bounds = [*offsets[:n_bytes], len(frame)]
    planes: list[NDArray] = []
    if n_segments == n_bytes and bounds == sorted(bounds):
        planes = [
            np.frombuffer(_unpack_bits(frame[start:end]), np.uint8, -1)[:n_pixels]
            for start, end in pairwise(bounds)
        ]
    if len(planes) != n_bytes or any(plane.size < n_pixels for plane in planes):
        raise InputError(f"{name} is cut off or damaged: its compressed pixels are not complete")
    joined = np.stack(planes, axis=-1).view(f">u{n_bytes}").ravel()
    return joined.astype(joined.dtype.newbyteorder("="))


def _fragments(data: bytes, name: str) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at + 8 <= len(data):
        tag, length = struct.unpack_from("<LL", data, at)
        if tag == _SEQUENCE_END:
            return found
        if tag != _ITEM or at + 8 + length > len(data):
            break
        found.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    raise InputError(f"{name} is cut off or damaged: its compressed pixels do not end")


def _unpack_bits(segment: bytes) -> bytearray:
    unpacked, at, end = bytearray(), 0, len(segment)
    # The last byte may be padding to an even length.
    while at < end - 1:
        run = segment[at]
        if run < 128:
            unpacked += segment[at + 1 : at + 2 + run]
            at += run + 2
        elif run > 128:
            unpacked += segment[at + 1 : at + 2] * (257 - run)
            at += 2
        else:
            at += 1
    return unpacked
