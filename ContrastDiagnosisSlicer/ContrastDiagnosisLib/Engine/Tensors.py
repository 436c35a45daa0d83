"""Named arrays and a JSON document in one safetensors body, without the safetensors package.

Slicer's Python need not have it: the engine may run in another environment. The format is 8 bytes
of header length, a JSON header and the bytes of the arrays (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

CODES = {
    "U8": np.dtype(np.uint8),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}


def packTensors(tensors: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> bytes:
    """A body of arrays (uint8, int16, float16 or float32) and a JSON document."""
    header: dict[str, Any] = {"__metadata__": {"json": json.dumps(document)}}
    parts, end = [], 0
    for name, array in tensors.items():
        code = next((c for c, d in CODES.items() if d == array.dtype), None)
        if code is None:
            raise ValueError(f"{name} must be one of {', '.join(CODES)}, got {array.dtype}")
        parts.append(np.ascontiguousarray(array).tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    # Arrays begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpackTensors(body: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON document of a body; the arrays are read-only.

    Raises:
        ValueError: The body is damaged.
    """
    try:
        start = 8 + int.from_bytes(body[:8], "little")
        header = json.loads(body[8:start])
        document = json.loads(header.pop("__metadata__")["json"])
        tensors = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            data = np.frombuffer(body[start + first : start + last], CODES[entry["dtype"]])
            tensors[name] = data.reshape(entry["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the answer of {len(body)} bytes is damaged: {error!r}") from error
    return tensors, document
