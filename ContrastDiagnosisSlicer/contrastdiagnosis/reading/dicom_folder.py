"""Files below a folder, and which of them are DICOM."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydicom.uid import MediaStorageDirectoryStorage

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading.dicom_file import SUFFIXES, DicomFile, read_dicom_file

_QUIET_NAMES = {"thumbs.db", "desktop.ini", "dicomdir", "icon\r"}
_QUIET_SUFFIXES = {
    *(".bat", ".cfg", ".css", ".db", ".dll", ".exe", ".inf", ".ini", ".jar", ".js", ".lnk", ".sh"),
    *(".csv", ".doc", ".docx", ".htm", ".html", ".json", ".log", ".md", ".pdf", ".rtf", ".txt"),
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tsv", ".url", ".xls", ".xlsx", ".xml"),
}
"""Companions of scans on a disc. Nobody misses a slice that is named so."""

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""First bytes of gzip, bzip2, xz, zstd and zip."""

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
    seen: set[tuple[int, int]] = set()
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
    _refuse_lost_slices(strangers, {_shape(file.name) for file in dicom})
    return FoundFiles(tuple(dicom), tuple(name for _, name in strangers if not _is_quiet(name)))


def _refuse_lost_slices(strangers: list[tuple[Path, str]], shapes: set[str]) -> None:
    """Refuses files that are no DICOM but named like slices: each may be a slice that is lost."""
    for path, name in strangers:
        inside = PurePath(name)
        if inside.suffix.lower() in _WRAPPINGS:
            inside = inside.with_suffix("")
        if inside.suffix.lower() in SUFFIXES or _shape(inside.as_posix()) in shapes:
            raise InputError(f"{name} is {_what_is_wrong(path)}")


def _what_is_wrong(path: Path) -> str:
    if not path.exists():
        return "a link to a file that is not there"
    if path.stat().st_size == 0:
        return "empty: a DICOM file was wanted"
    with path.open("rb") as stream:
        if stream.read(6).startswith(_PACKED):
            return "packed: unpack it first"
    return "no DICOM file, or so damaged that it is none any more"


def _is_shadow(path: Path, name: str) -> bool:
    """Whether macOS made the file to keep its own notes on another, of nearly the same name."""
    parts = PurePath(name).parts
    return parts[-1].startswith("._") or "__MACOSX" in parts


def _is_quiet(name: str) -> bool:
    last = PurePath(name).name.lower()
    suffix = PurePath(last).suffix
    return last.startswith(".") or last in _QUIET_NAMES or suffix in _QUIET_SUFFIXES


def _shape(name: str) -> str:
    """The path with numbers left out: slices of a series are named alike but for them."""
    return re.sub(r"\d+", "#", name)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts IM2 before IM10."""
    return [(int(part or 0), "") if n % 2 else (0, part) for n, part in _numbered(name)]


def _numbered(name: str) -> list[tuple[int, str]]:
    return list(enumerate(re.split(r"(\d+)", name)))


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"cannot open the folder {error.filename}: {error.strerror}") from error
