"""Zip archives, unpacked without trusting them."""

from __future__ import annotations

import shutil
import struct
import zipfile
import zlib
from io import SEEK_END
from lzma import LZMAError
from pathlib import Path

from contrastdiagnosis.errors import InputError

MAX_BYTES = 8 * 2**30
"""Ten of the largest chest CTs."""

MAX_RATIO = 200
"""CTs shrink to a half or a third; made to do harm, files shrink a thousand times."""

HARMLESS_BYTES = 2**28
"""Below this size any ratio will do."""

MAX_FILES = 200_000

_END = b"PK\5\6"
_END_64 = b"PK\6\6"
_END_BYTES = 22
"""End of central directory, of zip64 too, and its least length (APPNOTE 4.3.14 and 4.3.16)."""

_MOST_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFF

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, struct.error),
    *(EOFError, OSError, IndexError, ValueError),
)
"""What zipfile lets through, according to the damage."""


def is_zip(path: Path) -> bool:
    """Whether the file is a zip archive by its name, or by its first bytes."""
    if path.suffix.lower() == ".zip":
        return True
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def unpack_zip(archive: Path, folder: Path) -> list[tuple[Path, str]]:
    """The archive's files as (path in the folder, name in the archive).

    Files are numbered in the folder: the names in the archive, which may lead anywhere, name
    nothing on disk.

    Raises:
        InputError: The archive is damaged, encrypted, or too large when unpacked.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_directory(opened.infolist(), archive)
            members = [one for one in opened.infolist() if one.file_size or not one.is_dir()]
            _check_members(members, archive, folder)
            return [
                (_unpack_member(opened, member, folder / f"{n:06}"), member.filename)
                for n, member in enumerate(members)
            ]
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{archive} is a damaged zip archive: {error}") from error
    except (NotImplementedError, RuntimeError) as error:
        raise InputError(f"cannot unpack {archive}: {error}") from error


def _check_directory(members: list[zipfile.ZipInfo], archive: Path) -> None:
    """Refuses a directory of which zipfile lists a part: it stops in silence."""
    told = _n_told(archive)
    if (len(members) - told) % (1 << 16):  # old packers let the number run over
        raise zipfile.BadZipFile(f"it tells of {told} files but lists {len(members)}")
    if not all(member.filename for member in members):
        raise zipfile.BadZipFile("a file in it has no name")


def _n_told(archive: Path) -> int:
    """How many entries the end of the archive tells of."""
    with archive.open("rb") as stream:
        size = stream.seek(0, SEEK_END)
        stream.seek(max(0, size - 2 * _MOST_COMMENT))
        tail = stream.read()
    at = tail.rfind(_END, 0, len(tail) - _END_BYTES + len(_END))
    told = int(struct.unpack_from("<H", tail, at + 10)[0])
    at_64 = tail.rfind(_END_64, 0, at)
    return told if told != _IN_ZIP64 or at_64 < 0 else struct.unpack_from("<Q", tail, at_64 + 32)[0]


def _check_members(members: list[zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{archive} is encrypted: unpack it first, with its password")
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if size > MAX_BYTES or len(members) > MAX_FILES:
        raise InputError(
            f"wanted a zip archive of at most {MAX_BYTES / 2**30:.0f} GiB and {MAX_FILES} files"
            f" when unpacked, got {size / 2**30:.1f} GiB and {len(members)} files in {archive}"
        )
    if size > HARMLESS_BYTES and size > MAX_RATIO * packed:
        raise InputError(
            f"{archive} would grow {size // max(packed, 1)} times when unpacked: it holds no CT"
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{archive} holds {size / 2**30:.1f} GiB, but {folder.parent} has only"
            f" {free / 2**30:.1f} GiB left"
        )


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> Path:
    with opened.open(member) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target, 2**20)  # the checksum is compared at the end
    return file
