"""Whether a file holds all the bytes that its header announces, and holds them undamaged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO

import numpy as np

from contrastdiagnosis.errors import InputError

GZIP = 31
"""Window bits by which zlib expects gzip, and checks its CRC and length."""

GZIP_OR_ZLIB = 47
"""Window bits by which zlib takes either, and checks the checksum."""

MAX_PADDING_BYTES = 1 << 16
"""That programs append to voxels."""

_PIECE = 1 << 20


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def first_bytes(path: Path, count: int) -> bytes:
    """A file's first bytes, unpacked where it is gzip; fewer where it holds fewer.

    Raises:
        InputError: It is damaged before.
    """
    with path.open("rb") as stream:
        if not is_gzip(path):
            return stream.read(count)
        found = b""
        for piece in _unpack(_pieces(stream), GZIP):
            found += piece
            if len(found) >= count:
                break
        return found[:count]


def unpacked_size(
    stream: BinaryIO, window_bits: int, enough: int, packed: int | None = None
) -> int:
    """Bytes to which the rest of a stream unpacks, its checksums verified.

    Args:
        stream: At the start of gzip or zlib data.
        window_bits: `GZIP` or `GZIP_OR_ZLIB`.
        enough: Unpacking stops once there are more: no file fills the memory or takes for ever.
        packed: So many bytes of the stream belong to it, None for all.

    Raises:
        InputError: The data is none of that kind, cut or damaged.
    """
    size = 0
    for piece in _unpack(_pieces(stream, packed), window_bits):
        size += len(piece)
        if size > enough:
            break
    return size


def check_there(file: Path) -> None:
    """Refuses a file of voxels, named by a header, that is none.

    Raises:
        InputError: There is nothing, or a folder.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise InputError(f"its voxels should be in {file.name}, which {what}")


def check_plain(stream: BinaryIO, wanted: int, voxel_bytes: int, padded: bool) -> None:
    """Refuses a stream whose rest is not so many bytes.

    Args:
        stream: At the start of the voxels.
        wanted: Bytes that the header announces.
        voxel_bytes: Of one voxel.
        padded: Zeros and blanks may follow, as many as whole voxels have, and line ends. Anything
            else that follows is voxels: the header belongs to others, or something before them,
            such as a blank line or a transfer as text, has shifted them.

    Raises:
        InputError: They are fewer or more, or shifted.
    """
    start = stream.tell()
    found = stream.seek(0, SEEK_END) - start
    if padded and wanted < found <= wanted + MAX_PADDING_BYTES:
        stream.seek(start)
        first = stream.read(2)
        stream.seek(start + wanted)
        tail = stream.read()
        if not tail.strip(b"\0 \t\r\n") and len(tail.rstrip(b"\r\n")) % voxel_bytes == 0:
            if len(tail) > 1 and first in (b"\r\n", b"\n\n"):
                raise InputError("a blank line stands before its voxels and shifts them")
            return
    check_stored(found, wanted)


def check_stored(found: int, wanted: int) -> None:
    """Refuses voxels that are fewer bytes than announced, or more.

    Raises:
        InputError: They do not fit.
    """
    if found < wanted:
        raise InputError(
            f"the file is cut short or its header is wrong: wanted {wanted} bytes of voxels,"
            f" got {max(found, 0)}"
        )
    if found > wanted:
        raise InputError(
            f"its header does not belong to its voxels: wanted {wanted} bytes of them, got more"
        )


def check_text(text: bytes, wanted: int, dtype: np.dtype) -> None:
    """Refuses text that is not so many numbers of a kind.

    Raises:
        InputError: They are fewer or more, no numbers, or do not fit; ITK would wrap or cut them.
    """
    words = text.split()
    if len(words) != wanted:
        raise InputError(f"wanted {wanted} values as text, got {len(words)}")
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        values = None
    fits = values is not None and b"_" not in text
    if values is not None and dtype.kind != "f":
        ends = np.iinfo(dtype)
        whole = (values >= ends.min) & (values <= ends.max) & (values == np.rint(values))
        # ITK reads 1 where 1e3 stands.
        fits &= bool(whole.all()) and b"e" not in text.lower()
    if not fits:
        raise InputError(f"its text holds values that are no {dtype.name} numbers")


def _unpack(pieces: Iterator[bytes], window_bits: int) -> Iterator[bytes]:
    """The unpacked data piece by piece; gzip may consist of several members, then padding."""
    packed = next(pieces, b"")
    while True:
        unpacker = zlib.decompressobj(window_bits)
        while not unpacker.eof:
            packed = packed or next(pieces, b"")
            if not packed:
                raise InputError("its compressed data breaks off: the file is cut short")
            try:
                yield unpacker.decompress(packed, 4 * _PIECE)
            except zlib.error as error:
                reason = str(error).split(": ")[-1]
                raise InputError(f"its compressed data is damaged ({reason})") from error
            packed = unpacker.unconsumed_tail
        packed = unpacker.unused_data
        if len(packed) < 2:
            packed += next(pieces, b"")
        if window_bits != GZIP and packed:
            raise InputError("its compressed data ends before the bytes that its header tells of")
        if not packed.startswith(b"\x1f\x8b"):
            return


def _pieces(stream: BinaryIO, size: int | None = None) -> Iterator[bytes]:
    """A stream's bytes to its end, or so many."""
    left = size
    while piece := stream.read(_PIECE if left is None else min(_PIECE, left)):
        yield piece
        left = None if left is None else left - len(piece)
