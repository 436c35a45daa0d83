"""Fields of JSON that somebody sent: of the right kind, or a sentence that says which is not."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError

FARTHEST_MM = 1e5
"""No scanner's origin, and no point, lies further off."""


def known_fields(document: object, known: set[str], name: str) -> dict[str, Any]:
    """The document as an object that holds nothing unknown.

    Raises:
        InputError: It is none, or holds more.
    """
    if not isinstance(document, dict):
        raise InputError(f"wanted a JSON object for {name}, got {reprlib.repr(document)}")
    if unknown := set(document) - known:
        raise InputError(f"the {name} holds unknown fields: {reprlib.repr(sorted(unknown))}")
    return document


def numbers(document: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A field of a shape; () is a single number.

    Raises:
        InputError: It is missing, of another shape, not finite or beyond `FARTHEST_MM`.
    """
    if name not in document:
        raise InputError(f"the request lacks {name!r}")
    if not is_numbers(document[name], shape):
        raise InputError(
            f"{name} must be {' x '.join(map(str, shape))} numbers of at most {FARTHEST_MM:g}, got"
            f" {reprlib.repr(document[name])}"
        )
    return np.array(document[name], dtype=np.float64)


def is_numbers(value: object, shape: tuple[int, ...]) -> bool:
    """Whether JSON is an array of a shape; told before NumPy guesses a type."""
    if not shape:
        # `bool` is an `int`, and no number is within bounds that is not finite.
        return type(value) in (int, float) and abs(value) <= FARTHEST_MM  # type: ignore[arg-type]
    return (
        isinstance(value, list)
        and len(value) == shape[0]
        and all(is_numbers(part, shape[1:]) for part in value)
    )
