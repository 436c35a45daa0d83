"""MetaImage: what its header tells, and whether its voxels are all there.

Format: https://docs.itk.org/en/latest/learn/metaio.html. Voxels are read by ITK, which takes a
missing spacing for 1 mm, a missing offset for 0, any unit for millimetres, and voxels that do not
unpack for whatever lay in memory.
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
    GZIP_OR_ZLIB,
    check_plain,
    check_stored,
    check_text,
    check_there,
    unpacked_size,
)

_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip

_OFFSET = ("Offset", "Position", "Origin")
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")

_FIELDS = {
    *_OFFSET, *_MATRIX, *_BIG_ENDIAN,
    "ObjectType", "NDims", "DimSize", "ElementSpacing", "ElementSize", "DistanceUnits",
    "CenterOfRotation", "AnatomicalOrientation", "ElementType", "ElementNumberOfChannels",
    "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "BinaryData",
    "CompressedData", "CompressedDataSize", "HeaderSize", "ElementDataFile",
}  # fmt: skip
"""Those that are read here; others may be given as often as programs like."""

_MAX_LENGTH_ERROR = 1e-3
"""Of a row of the matrix from 1: rounded direction cosines stay below."""


@dataclass(frozen=True)
class _Fields:
    """A header as it is written.

    Attributes:
        values: By field.
        listed: Lines that follow `ElementDataFile = LIST`.
        end: Byte at which local voxels begin.
    """

    values: dict[str, str]
    listed: tuple[str, ...]
    end: int

    def __getitem__(self, name: str) -> str:
        """The value of a field that must be there."""
        if not self.values.get(name):
            raise InputError(f"its header gives no {name}")
        return self.values[name]

    def one_of(self, names: tuple[str, ...]) -> str:
        """The value of a field with several names, empty where it is absent."""
        found = {name: self.values[name] for name in names if name in self.values}
        if len({tuple(value.split()) for value in found.values()}) > 1:
            told = ", ".join(f"{name} {value}" for name, value in found.items())
            raise InputError(f"its header contradicts itself: {told}")
        return next(iter(found.values()), "")

    def is_true(self, name: str, otherwise: bool) -> bool:
        """The value of a field that is True or False."""
        value = self.values.get(name, "").lower()
        if value not in ("", "true", "t", "1", "false", "f", "0"):
            raise InputError(f"wanted True or False as {name}, got {value[:80]!r}")
        return value in ("true", "t", "1") if value else otherwise


def is_metaimage(head: bytes) -> bool:
    """Whether a file that begins so is MetaImage."""
    return bool(re.search(rb"^\s*(NDims|DimSize)\s*[=:]", head, re.MULTILINE))


def read_metaimage_header(path: Path) -> ImageHeader:
    """The grid of a .mha or .mhd whose voxels are all there.

    Raises:
        InputError: The header leaves the geometry open or contradicts itself, or voxels lack.
    """
    fields = _read_fields(path)
    if fields.values.get("ObjectType", "Image").lower() != "image":
        raise InputError(f"wanted ObjectType Image, got {fields['ObjectType']}")
    sizes = whole_numbers_of(fields["DimSize"], "DimSize")
    if whole_numbers_of(fields["NDims"], "NDims") != [len(sizes)]:
        raise InputError(f"it has NDims {fields['NDims']}, but DimSize {fields['DimSize']}")
    channels = whole_numbers_of(
        fields.values.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels"
    )[0]
    check_size(sizes, channels)
    _check_intensities(fields)
    scale = _mm_per_unit(fields)
    axes = _directions(fields) * _spacing(fields) * scale
    header = header_of(sizes, axes, _offset(fields) * scale, "MetaImageIO")
    _check_voxels(path, fields, sizes)
    return header


def _read_fields(path: Path) -> _Fields:
    values: dict[str, str] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(iter(stream.readline, b""), 1):
            # Editors put a byte order mark before the first field.
            text = line.decode(errors="replace").replace("\t", " ").strip(" \r\n\ufeff")
            if not text:
                continue
            if not text.isprintable():
                break
            if not (field := re.fullmatch(r"([^=:]+?)\s*[=:]\s*(.*)", text)):
                # What it holds may name the patient.
                raise InputError(f"its header is damaged: line {number} is no field")
            name, value = field.groups()
            if name in _FIELDS and values.get(name, value) != value:
                raise InputError(f"its header gives {name} twice: {values[name]} and {value}")
            values[name] = value
            if name == "ElementDataFile":
                lists = value.split()[:1] == ["LIST"]
                end = stream.tell()
                listed = [rest.decode(errors="replace").strip() for rest in stream] if lists else []
                return _Fields(values, tuple(filter(None, listed)), end)
    raise InputError("its header breaks off: it names no ElementDataFile")


def _check_intensities(fields: _Fields) -> None:
    """ITK leaves the voxels as they are stored, whatever the header says."""
    for name, neutral in (("Slope", 1), ("Offset", 0)):
        field = f"ElementToIntensityFunction{name}"
        value = numbers_of(fields.values.get(field, str(neutral)), 1, field)[0]
        if value != neutral:
            raise InputError(
                f"its voxels are to be rescaled ({field} {value:g}), which is not done here:"
                " store the rescaled voxels"
            )
    fields.one_of(_BIG_ENDIAN)
    for name in _BIG_ENDIAN:
        fields.is_true(name, False)


def _mm_per_unit(fields: _Fields) -> float:
    unit = fields.values.get("DistanceUnits", "?")
    return 1.0 if unit in ("", "?") else mm_per(unit)


def _spacing(fields: _Fields) -> NDArray[np.float64]:
    if "ElementSpacing" not in fields.values and "ElementSize" in fields.values:
        raise InputError(
            "its header gives no ElementSpacing; the ElementSize of voxels is not their distance"
        )
    spacing = numbers_of(fields["ElementSpacing"], 3, "ElementSpacing")
    if (spacing <= 0).any():
        raise InputError(f"wanted a positive ElementSpacing, got {fields['ElementSpacing']}")
    return spacing


def _offset(fields: _Fields) -> NDArray[np.float64]:
    text = fields.one_of(_OFFSET)
    if not text:
        raise InputError("its header gives no Offset, so its position in the patient is unknown")
    return numbers_of(text, 3, "Offset")


def _directions(fields: _Fields) -> NDArray[np.float64]:
    """(3, 3), column a is the unit vector along axis a."""
    text = fields.one_of(_MATRIX)
    if not text:
        anatomy = fields.values.get("AnatomicalOrientation", "RAI")
        if anatomy not in ("RAI", "???"):
            raise InputError(
                f"its header gives AnatomicalOrientation {anatomy}, but no TransformMatrix"
            )
        return np.eye(3)
    # A row of the file is an axis of the image.
    matrix = numbers_of(text, 9, "TransformMatrix").reshape(3, 3).T
    length = np.linalg.norm(matrix, axis=0)
    if np.abs(length - 1).max() > _MAX_LENGTH_ERROR:
        raise InputError(f"its TransformMatrix is no rotation: {text}")
    center = numbers_of(fields.values.get("CenterOfRotation", "0 0 0"), 3, "CenterOfRotation")
    if center.any() and np.abs(matrix - np.eye(3)).max() > _MAX_LENGTH_ERROR:
        raise InputError(
            f"it is turned about a CenterOfRotation ({fields['CenterOfRotation']}), which leaves"
            " open where its Offset lies; save it with a centre of 0 0 0"
        )
    return matrix / length


def _check_voxels(path: Path, fields: _Fields, sizes: list[int]) -> None:
    kind = fields["ElementType"]
    if kind not in _DTYPES:
        raise InputError(f"wanted numbers as voxels, got the ElementType {kind}")
    files, local = _data_files(path, fields, sizes)
    voxels = prod(sizes) // len(files)
    dtype = np.dtype(_DTYPES[kind])
    wanted = voxels * dtype.itemsize
    skip = whole_numbers_of(fields.values.get("HeaderSize", "0"), "HeaderSize")[0]
    packed = fields.is_true("CompressedData", False)
    if (
        skip < -1
        or (skip > 0 and local)
        or (skip and packed)
        or (len(files) > 1 and (skip or packed))
    ):
        raise InputError(
            f"a HeaderSize of {skip} with {fields['ElementDataFile']} as ElementDataFile and"
            f" CompressedData {packed} cannot be read"
        )
    for file in files:
        check_there(file)
        with file.open("rb") as stream:
            start = stream.seek(fields.end if local else max(skip, 0))
            if not fields.is_true("BinaryData", False):
                _check_text(stream.read(), voxels, dtype)
            elif packed:
                _check_packed(stream, fields, wanted)
            elif skip < 0 and not local:
                check_stored(min(stream.seek(0, SEEK_END) - start, wanted), wanted)
            else:
                # With -1, ITK takes the last bytes for voxels.
                check_plain(stream, wanted, dtype.itemsize, padded=local and skip == 0)


def _data_files(path: Path, fields: _Fields, sizes: list[int]) -> tuple[list[Path], bool]:
    """The files that hold the voxels, and whether it is the header's own."""
    text = fields["ElementDataFile"]
    words = text.split()
    if text.upper() == "LOCAL":
        return [path], True
    if words[0] == "LIST":
        if words[1:] not in ([], ["2"], ["2D"]):
            raise InputError(f"wanted a list of slices as ElementDataFile, got {text}")
        names = list(fields.listed)
    elif "%" in words[0] and len(words) == 4:
        names = numbered_files(words)
    else:
        return [path.parent / text], False
    if len(names) != sizes[-1]:
        raise InputError(f"wanted {sizes[-1]} files of one slice each, got {len(names)}")
    return [path.parent / name for name in names], False


def _check_packed(stream: BinaryIO, fields: _Fields, wanted: int) -> None:
    # Without the size, ITK returns uninitialised memory and no error.
    told = whole_numbers_of(fields["CompressedDataSize"], "CompressedDataSize")[0]
    if told < 1:
        raise InputError(f"wanted a positive CompressedDataSize, got {told}")
    start = stream.tell()
    there = stream.seek(0, SEEK_END) - start
    if there < told:
        raise InputError(
            f"the file is cut short: wanted {told} compressed bytes, got {max(there, 0)}"
        )
    stream.seek(start)
    check_stored(unpacked_size(stream, GZIP_OR_ZLIB, enough=wanted, packed=told), wanted)


def _check_text(text: bytes, voxels: int, dtype: np.dtype) -> None:
    try:
        check_text(text, voxels, dtype)
    except InputError as error:
        raise InputError(f"{error}; its header does not say BinaryData = True") from error
    if not text[-1:].isspace():
        raise InputError("its voxels are text without a line end behind the last: add one")
