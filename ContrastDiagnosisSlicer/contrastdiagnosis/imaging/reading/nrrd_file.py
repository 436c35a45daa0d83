"""NRRD: what its header tells, and whether its voxels are all there.

Format: https://teem.sourceforge.net/nrrd/format.html. Voxels are read by ITK, which takes a missing
space for LPS, a missing direction for 1 mm, a missing origin for 0 and any unit for millimetres.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import SEEK_END
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.image_header import (
    ImageHeader,
    check_size,
    header_of,
    mm_per,
    numbered_files,
    numbers_of,
    whole_numbers_of,
)
from contrastdiagnosis.imaging.reading.stored_bytes import (
    GZIP,
    check_plain,
    check_stored,
    check_text,
    check_there,
    unpacked_size,
)

_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
"""Signs that turn the vectors of each space with an anatomical meaning into ITK's."""

_NAMES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: np.dtype(code) for code, names in _NAMES.items() for name in names.split("|")}

_RAW, _GZIP, _TEXT, _HEX = "raw", "gzip", "text", "hex"
_ENCODINGS = {
    "raw": _RAW, "gzip": _GZIP, "gz": _GZIP, "ascii": _TEXT, "text": _TEXT, "txt": _TEXT,
    "hex": _HEX,
}  # fmt: skip

_MAX_BYTES = 1 << 36
"""That are unpacked in search of the last ones."""

_DOMAIN_KINDS = {"domain", "space", "???", "none"}


@dataclass(frozen=True)
class _Fields:
    """A header as it is written.

    Attributes:
        values: By field, its name in small letters without blanks.
        listed: Files that follow `data file: LIST`.
        end: Byte at which attached voxels begin.
    """

    values: dict[str, str]
    listed: tuple[str, ...]
    end: int

    def __getitem__(self, name: str) -> str:
        """The value of a field that must be there."""
        value = self.values.get(name.replace(" ", ""))
        if not value:
            raise InputError(f"its header gives no {name}")
        return value

    def get(self, name: str) -> str:
        """The value of a field, empty where it is absent."""
        return self.values.get(name.replace(" ", ""), "")


def is_nrrd(head: bytes) -> bool:
    """Whether a file that begins so is NRRD."""
    return head.startswith(b"NRRD0")


def read_nrrd_header(path: Path) -> ImageHeader:
    """The grid of a .nrrd or .nhdr whose voxels are all there.

    Raises:
        InputError: The header leaves the geometry open or contradicts itself, or voxels lack.
    """
    fields = _read_fields(path)
    sizes = whole_numbers_of(fields["sizes"], "sizes")
    if whole_numbers_of(fields["dimension"], "dimension") != [len(sizes)]:
        raise InputError(f"it has dimension {fields['dimension']}, but sizes {fields['sizes']}")
    vectors = _axis_vectors(fields, sizes)
    in_space = [axis for axis, vector in enumerate(vectors) if vector is not None]
    size_ijk = [sizes[axis] for axis in in_space]
    check_size(size_ijk, prod(n for axis, n in enumerate(sizes) if axis not in in_space))
    _check_kinds(fields, in_space)
    signs = _signs_to_lps(fields)
    scale = _mm_per_unit(fields)
    axes = np.stack([_vector(vectors[axis] or "", "space directions") for axis in in_space], axis=1)
    origin = _vector(fields["space origin"], "space origin")
    header = header_of(
        size_ijk, signs[:, None] * axes * scale, signs * origin * scale, "NrrdImageIO"
    )
    _check_voxels(path, fields, sizes)
    return header


def _read_fields(path: Path) -> _Fields:
    values: dict[str, str] = {}
    listed: tuple[str, ...] = ()
    with path.open("rb") as stream:
        stream.readline()
        for number, line in enumerate(iter(stream.readline, b""), 2):
            text = line.decode(errors="replace").rstrip("\r\n")
            if not text:
                break
            if text.startswith("#") or re.match(r"[^:]*:=", text):
                continue
            name, colon, value = text.partition(":")
            name = re.sub(r"\s", "", name).lower()
            if not colon:
                # What it holds may name the patient.
                raise InputError(f"its header is damaged: line {number} is no field")
            if name in values:
                raise InputError(f"its header gives {name!r} twice")
            values[name] = value.strip()
            if name == "datafile" and value.split()[:1] == ["LIST"]:
                rest = stream.read().decode(errors="replace").splitlines()
                listed = tuple(filter(None, map(str.strip, rest)))
        return _Fields(values, listed, stream.tell())


def _axis_vectors(fields: _Fields, sizes: list[int]) -> list[str | None]:
    """Each axis's direction as written, None for axes that do not lie in space."""
    text = fields.get("space directions")
    if not text:
        check_size(sizes)
        raise InputError(
            "its header gives no space directions"
            + (": spacings do not tell how it lies" if fields.get("spacings") else "")
        )
    parts = re.findall(r"\([^)]*\)|[^\s()]+", text)
    if len(parts) != len(sizes):
        raise InputError(f"wanted {len(sizes)} space directions, got {text!r}")
    return [None if part.lower() == "none" else part for part in parts]


def _vector(text: str, name: str) -> NDArray[np.float64]:
    inside = re.fullmatch(r"\(([^()]*)\)", text.strip())
    return numbers_of(inside[1].replace(",", " ") if inside else text, 3, f"a vector of {name}")


def _check_kinds(fields: _Fields, in_space: list[int]) -> None:
    kinds = fields.get("kinds").split()
    if kinds and not {kinds[axis] for axis in in_space if axis < len(kinds)} <= _DOMAIN_KINDS:
        raise InputError(f"wanted three axes of space, got the kinds {' '.join(kinds)}")


def _signs_to_lps(fields: _Fields) -> NDArray[np.float64]:
    space = fields.get("space")
    if not space:
        raise InputError(
            "its header names no space, so it is unknown which way is left"
            " (wanted left-posterior-superior, right-anterior-superior or left-anterior-superior)"
        )
    signs = _TO_LPS.get(space.lower())
    if signs is None:
        raise InputError(
            f"its space {space!r} does not tell where left, front and top are (wanted"
            " left-posterior-superior, right-anterior-superior or left-anterior-superior)"
        )
    return np.array(signs, dtype=np.float64)


def _mm_per_unit(fields: _Fields) -> float:
    text = fields.get("space units")
    quoted = re.findall(r'"([^"]*)"', text)
    if text and not quoted:
        raise InputError(f"wanted space units in quotes, got {text}")
    units = set(quoted) - {""}
    if len(units) > 1:
        raise InputError(f"its space units differ between the axes: {text}")
    return mm_per(units.pop()) if units else 1.0


def _check_voxels(path: Path, fields: _Fields, sizes: list[int]) -> None:
    kind = fields["type"].lower()
    if kind not in _DTYPES:
        raise InputError(f"wanted numbers as voxels, got the type {kind!r}")
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise InputError(
            f"its encoding {fields['encoding']!r} cannot be read, wanted raw, gzip, ascii or hex"
        )
    dtype = _DTYPES[kind]
    if dtype.itemsize > 1 and encoding != _TEXT:
        fields["endian"]
    files, detached = _data_files(path, fields, sizes)
    voxels = prod(sizes) // len(files)
    skip = whole_numbers_of(fields.get("byte skip") or "0", "byte skip")[0]
    lines = whole_numbers_of(fields.get("line skip") or "0", "line skip")[0]
    if min(skip + 1, lines) < 0:
        raise InputError(f"a byte skip of {skip} and a line skip of {lines} cannot be read")
    for file in files:
        check_there(file)
        with file.open("rb") as stream:
            stream.seek(0 if detached else fields.end)
            for _ in range(lines):
                stream.readline()
            if encoding == _TEXT:
                check_text(stream.read().replace(b",", b" "), voxels, dtype)
            elif encoding == _HEX:
                _check_hex(stream.read(), voxels * dtype.itemsize)
            else:
                _check_bytes(stream, encoding, voxels, dtype.itemsize, skip, not detached)


def _data_files(path: Path, fields: _Fields, sizes: list[int]) -> tuple[list[Path], bool]:
    """The files that hold the voxels, and whether these are others than the header's."""
    text = fields.get("data file")
    if not text:
        return [path], False
    words = text.split()
    if words[0] == "LIST":
        names, shape = list(fields.listed), words[1:]
    elif "%" in words[0] and len(words) >= 4:
        names, shape = numbered_files(words[:4]), words[4:]
    else:
        return [path.parent / text], True
    dimensions = whole_numbers_of(" ".join(shape) or str(len(sizes) - 1), "data file dimension")[0]
    wanted = prod(sizes[dimensions:])
    if not 0 < dimensions <= len(sizes) or len(names) != wanted:
        raise InputError(f"wanted {wanted} data files, got {len(names)}")
    return [path.parent / name for name in names], True


def _check_bytes(
    stream: BinaryIO, encoding: str, voxels: int, voxel_bytes: int, skip: int, padded: bool
) -> None:
    """Checks raw or gzip data; a skip of -1 says that the voxels are the last bytes."""
    wanted = voxels * voxel_bytes + max(skip, 0)
    if encoding == _RAW and skip >= 0:
        check_plain(stream, wanted, voxel_bytes, padded)
        return
    enough = wanted if skip >= 0 else _MAX_BYTES
    if encoding == _GZIP:
        found = unpacked_size(stream, GZIP, enough)
    else:
        found = -stream.tell() + stream.seek(0, SEEK_END)
    check_stored(found if skip >= 0 else min(found, wanted), wanted)


def _check_hex(text: bytes, wanted: int) -> None:
    found = len(b"".join(text.split())) // 2
    if found != wanted:
        raise InputError(f"wanted {wanted} values in its hex data, got {found}")
