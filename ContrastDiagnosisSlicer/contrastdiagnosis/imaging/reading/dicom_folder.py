"""Files below a folder, and which of them are DICOM."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydicom.uid import MediaStorageDirectoryStorage

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import SUFFIXES, DicomFile, read_dicom_file

_QUIET_NAMES = {"thumbs.db", "desktop.ini", "dicomdir", "icon\r"}
_QUIET_SUFFIXES = {
    *(".bat", ".cfg", ".css", ".db", ".dll", ".exe", ".inf", ".ini", ".jar", ".js", ".lnk", ".sh"),
    *(".csv", ".doc", ".docx", ".htm", ".html", ".json", ".log", ".md", ".pdf", ".rtf", ".txt"),
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tsv", ".url", ".xls", ".xlsx", ".xml"),
}
"""Companions of scans on a disc. Nobody misses a slice that is named so."""

_PACKED = (
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"),
    *(b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c"),
)
"""First bytes of gzip, bzip2, xz, zstd, zip, rar and 7-Zip."""

_TAR = slice(257, 262)
"""Where tar says `ustar`."""

_NO_ARCHIVES = (".nii.gz", ".img.gz", ".mgz", ".mrb", ".npz")
"""Ends of names of other images, which are packed but hold no slices."""

_APPLE_DOUBLE = b"\0\5\x16\7"

_WRAPPINGS = {
    *(".gz", ".bz2", ".xz", ".zst", ".zip"),
    *(".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp"),
}
"""Ends of names that are put behind a slice's own when it is packed, or not yet all there."""


@dataclass(frozen=True)
class FoundFiles:
    """What lies in a folder or zip.

    Attributes:
        dicom: The DICOM files, but for indices (DICOMDIR).
        strangers: Names of the others, but for those that lie beside every scan.
    """

    dicom: tuple[DicomFile, ...]
    strangers: tuple[str, ...]


def list_files(folder: Path) -> list[tuple[Path, str]]:
    """Every file below the folder and its path from there, in order of names.

    A file that several links lead to comes once; circles of links end.

    Raises:
        InputError: A folder cannot be opened.
    """
    found: list[tuple[Path, str]] = []
    seen: set[tuple[int, int] | str] = set()
    for here, below, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        if not _is_new(Path(here), seen):
            below.clear()
            continue
        below.sort(key=_natural)
        for name in sorted(names, key=_natural):
            file = Path(here, name)
            linked_to_nothing = not file.exists()
            if linked_to_nothing or (file.is_file() and _is_new(file, seen)):
                found.append((file, file.relative_to(folder).as_posix()))
    return found


def open_files(files: Sequence[tuple[Path, str]]) -> FoundFiles:
    """The DICOM files among these (path, name) pairs.

    Raises:
        InputError: One is damaged, or is no DICOM although its name says that it is a slice.
    """
    dicom: list[DicomFile] = []
    strangers: list[tuple[Path, str]] = []
    for path, stored_name in files:
        # Names may hold line ends, or bytes that are no text: messages must not.
        name = "".join(c if c.isprintable() else "?" for c in stored_name)
        if _is_shadow(path, name):
            continue
        file = read_dicom_file(path, name) if path.exists() else None
        if file is None:
            strangers.append((path, name))
        elif file.sop_class != MediaStorageDirectoryStorage:
            dicom.append(file)
    _refuse_lost_slices(strangers, {file.name for file in dicom})
    return FoundFiles(tuple(dicom), tuple(name for _, name in strangers if not _is_quiet(name)))


def _refuse_lost_slices(strangers: list[tuple[Path, str]], slices: set[str]) -> None:
    """Refuses files that are no DICOM but may be slices that are lost, or hold such."""
    shapes = {_shape(name) for name in slices}
    places = {_place(name) for name in slices}
    for path, name in strangers:
        told = (
            _is_named_like_slice(name, slices, shapes)
            or (not _is_quiet(name) and (_is_blank(path) or _is_archive(path, name)))
            or (not _is_quiet(name) and _place(name) in places and not _is_text(path))
        )
        if told:
            raise InputError(f"{name} is {_what_is_wrong(path)}")


def _is_named_like_slice(name: str, slices: set[str], shapes: set[str]) -> bool:
    """Whether the name, or what stands before its last suffix, is one of a slice.

    A file that adds a suffix of its own to the name of a slice which is there describes that one.
    """
    own = PurePath(name)
    bare = own.parent / own.stem
    wrapped = own.suffix.lower() in _WRAPPINGS or bare.as_posix() not in slices
    return any(
        one.suffix.lower() in SUFFIXES or _shape(one.as_posix()) in shapes
        for one in ([own, bare] if wrapped else [own])
    )


def _place(name: str) -> tuple[str, str]:
    """Folder and suffix of a file, those of slices alike."""
    path = PurePath(name)
    return _shape(path.parent.as_posix()), _shape(path.suffix)


def _is_blank(path: Path) -> bool:
    """Whether the file is empty or all zeros, as what was not copied to its end is."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        return not any(piece.strip(b"\0") for piece in iter(lambda: stream.read(1 << 20), b""))


def _is_archive(path: Path, name: str) -> bool:
    return not name.lower().endswith(_NO_ARCHIVES) and _is_packed(path)


def _is_packed(path: Path) -> bool:
    head = _first_bytes(path, _TAR.stop)
    return head.startswith(_PACKED) or head[_TAR] == b"ustar"


def _is_text(path: Path) -> bool:
    return path.exists() and not re.search(rb"[\0-\x08\x0e-\x1a]", _first_bytes(path, 4096))


def _first_bytes(path: Path, count: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as stream:
        return stream.read(count)


def _what_is_wrong(path: Path) -> str:
    if not path.exists():
        return "a link to a file that is not there"
    if path.stat().st_size == 0:
        return "empty: a DICOM file was wanted"
    if _is_packed(path):
        return "packed: unpack it first"
    return "no DICOM file, or so damaged that it is none any more"


def _is_shadow(path: Path, name: str) -> bool:
    """Whether macOS made the file to keep its own notes on another, of nearly the same name."""
    inside = PurePath(name)
    named = inside.name.startswith("._") or "__MACOSX" in inside.parts
    return named and _first_bytes(path, len(_APPLE_DOUBLE)) in (b"", _APPLE_DOUBLE)


def _is_quiet(name: str) -> bool:
    last = PurePath(name).name.lower()
    suffix = PurePath(last).suffix
    return last.startswith(".") or last in _QUIET_NAMES or suffix in _QUIET_SUFFIXES


def _shape(name: str) -> str:
    """The path with numbers, hexadecimal ones too, left out: slices are named alike but for them.

    Letters alone are a word.
    """
    return re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "#", name, flags=re.IGNORECASE)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts IM2 before IM10."""
    return [(int(part or 0), "") if n % 2 else (0, part) for n, part in _numbered(name)]


def _numbered(name: str) -> list[tuple[int, str]]:
    return list(enumerate(re.split(r"(\d+)", name)))


def _is_new(path: Path, seen: set[tuple[int, int] | str]) -> bool:
    status = path.stat()
    # Network drives and some of Windows' number no file: what its links lead to is its name.
    key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
    if key in seen:
        return False
    seen.add(key)
    return True


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"cannot open the folder {error.filename}: {error.strerror}") from error
