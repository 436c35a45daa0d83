"""Named arrays and a JSON document in one safetensors body, without pickle.

The format (github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, and the
bytes of the arrays. Read and written with NumPy alone, for Slicer's Python need not have the
safetensors package; a body is one file of that package all the same.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError

CONTENT_TYPE = "application/vnd.safetensors"

JSON_KEY = "json"
"""Where the JSON stands in the metadata of a body."""

HEADER_BYTES = 100_000
"""Longest header of a body: JSON takes many times its length in memory. One of a request that names
six cases takes 1000."""

CODES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""Types of the format that NumPy has."""

_ALIGNMENT = 8
_METADATA = "__metadata__"


def pack(tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any]) -> bytes:
    """A body of named arrays and a JSON document.

    Args:
        tensors: Of the types in `CODES`, any shape.
        document: What JSON can hold.

    Raises:
        ValueError: An array is of another type, or has a name that the format keeps for itself.
    """
    header: dict[str, Any] = {_METADATA: {JSON_KEY: json.dumps(document)}}
    parts, end = [], 0
    # Large elements first: then every array begins at a multiple of its element's size.
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        little = array.dtype.newbyteorder("<")
        code = next((c for c, dtype in CODES.items() if dtype == little), None)
        if code is None or name == _METADATA:
            raise ValueError(f"{name} must be one of {', '.join(CODES)}, got {array.dtype}")
        parts.append(np.ascontiguousarray(array, little).tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(body: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the JSON document of a body.

    Raises:
        InputError: The body is no safetensors file with a JSON object in its metadata.

    Example:
        >>> tensors, document = unpack(pack({"mask": np.eye(2, dtype=np.uint8)}, {"k": 61}))
        >>> tensors["mask"].tolist(), document
        ([[1, 0], [0, 1]], {'k': 61})
    """
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 + length or length > HEADER_BYTES:
        raise InputError(
            f"wanted a safetensors body with a header of at most {HEADER_BYTES} bytes, got"
            f" {len(body)} bytes that announce a header of {length}"
        )
    try:
        header = _object(json.loads(body[8 : 8 + length].decode(), object_pairs_hook=_once))
        metadata = _object(header.pop(_METADATA, None) or {})
        tensors = _tensors(header, memoryview(body)[8 + length :])
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"wanted a safetensors body, got {len(body)} bytes: {str(error)[:200]}"
        ) from error
    if JSON_KEY not in metadata:
        raise InputError(f"the body's metadata has no {JSON_KEY!r}")
    try:
        document = json.loads(metadata[JSON_KEY], parse_constant=_refuse_constant)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the JSON in the body's metadata is damaged: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"wanted a JSON object in the metadata, got {reprlib.repr(document)}")
    return tensors, document


def _tensors(header: Mapping[str, Any], data: memoryview) -> dict[str, NDArray[Any]]:
    """Arrays that lie one behind the other, without a gap and to the last byte."""
    entries = [(name, *_entry(name, _object(entry))) for name, entry in header.items()]
    tensors, end = {}, 0
    for name, dtype, shape, first, last in sorted(entries, key=lambda entry: entry[3:]):
        if first != end or last > len(data):
            raise ValueError(f"{name[:60]!r} does not lie behind the array before it")
        # A copy: the body may go, and an array can be written to.
        tensors[name] = np.frombuffer(data[first:last], dtype).reshape(shape).copy()
        end = last
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes belong to no array")
    return tensors


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[np.dtype[Any], list[int], int, int]:
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:60]!r} must have dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(code, str) and code in CODES):
        raise ValueError(f"{name[:60]!r} is of type {reprlib.repr(code)}, which is not known")
    for numbers in (shape, offsets):
        # `bool` is an `int`.
        if not (isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)):
            raise ValueError(f"shape and offsets of {name[:60]!r} must be whole numbers from 0")
    size = CODES[code].itemsize
    for n in shape:
        size *= n
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ValueError(f"{name[:60]!r} takes {size} bytes, got the offsets {offsets[:2]}")
    if len(shape) > 32:
        raise ValueError(f"{name[:60]!r} has {len(shape)} dimensions")
    return CODES[code], shape, offsets[0], offsets[1]


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"wanted a JSON object, got {reprlib.repr(value)}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
