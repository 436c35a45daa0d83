"""Values of DICOM elements, read strictly: what is no number is never mended into one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from contrastdiagnosis.errors import InputError

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""A Decimal String, DICOM PS3.5 6.2. Python's float takes more: `1_000`, `nan`."""

_BINARY_VR = ("FD", "FL", "SL", "SS", "UL", "US", "SV", "UV", "OB", "OW")
_UNTOLD_VR = (None, "UN")


def decimals(
    dataset: Dataset, keyword: str | int, count: int, where: str
) -> tuple[float, ...] | None:
    """The element's numbers, None where it is missing or empty.

    Args:
        dataset: Header or item of a sequence.
        keyword: The element, such as `PixelSpacing`, or its tag.
        count: How many numbers it must hold.
        where: File or frame, for the message.

    Raises:
        InputError: It holds another count, or something that is no finite decimal number. A comma
            is refused too: `1,024` may be a little more than one, or a thousand.
    """
    texts = _texts(dataset, keyword)
    if not any(texts):
        return None
    values = tuple(float(text) for text in texts if _DECIMAL.fullmatch(text))
    if len(values) != len(texts) or len(values) != count or not all(map(math.isfinite, values)):
        wanted = f"{count} finite decimal numbers" if count > 1 else "a finite decimal number"
        came = "\\".join(texts)[:60]
        raise InputError(f"wanted {wanted} as {name_of(keyword)} of {where}, got {came!r}")
    return values


def whole(dataset: Dataset, keyword: str | int, where: str) -> int | None:
    """The element's whole number, None where it is missing or empty.

    Raises:
        InputError: It holds something else.
    """
    values = decimals(dataset, keyword, 1, where)
    if values is None:
        return None
    if values[0] != int(values[0]):
        raise InputError(
            f"wanted a whole number as {name_of(keyword)} of {where}, got {values[0]:g}"
        )
    return int(values[0])


def text(dataset: Dataset, keyword: str) -> str:
    """The element's text on one line, empty where it is missing."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue) else [value]
    joined = "\\".join(map(str, parts))
    return " ".join("".join(c if c.isprintable() else " " for c in joined).split())


def is_told(dataset: Dataset, keyword: str) -> bool:
    """Whether the element is there and not empty."""
    element = dataset.get_item(keyword)
    if element is None:
        return False
    value = element.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def words(dataset: Dataset, keyword: str) -> set[str]:
    """The element's values in capitals, such as those of `ImageType`."""
    return {word.strip().upper() for word in text(dataset, keyword).split("\\")} - {""}


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is missing."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []


def name_of(keyword: str | int) -> str:
    """The element's name in the standard, such as Image Position (Patient)."""
    return dictionary_description(keyword)


def _texts(dataset: Dataset, keyword: str | int) -> list[str]:
    """The element's values as they stand in the file: pydicom's own conversion fails on some."""
    element = dataset.get_item(keyword)
    if element is None or element.value is None:
        return []
    vr = dictionary_VR(keyword) if element.VR in _UNTOLD_VR else element.VR
    if isinstance(element, RawDataElement) and vr not in _BINARY_VR:
        parts = bytes(element.value).decode("latin-1").split("\\")
    else:
        value = dataset[keyword].value
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        parts = [str(part) for part in (value if several else [value]) if part is not None]
    return [part.strip(" \0") for part in parts]
