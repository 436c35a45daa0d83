"""`LocalCam`: which maps are made of a pair, and how. Without torch: the command line reads it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.fields import is_numbers, known_fields

Sign = Literal["similar", "different"]

SIGNS: tuple[Sign, ...] = get_args(Sign)

LEVELS = (4, 3, 2, 1)

WIDEST_WINDOW = 63
"""Cells: from each of the 32 of a side of a1 it reaches all others."""


@dataclass(frozen=True)
class LocalCam:
    """How the maps are made (arXiv:2403.05280, docs/methods.md 5.2).

    The formulas' typography is lost; one implementation covers the interpretations of "local".
    """

    levels: tuple[int, ...] = (3, 2)
    """Pyramid levels whose maps are multiplied, deepest first. a4 has 4x4x4 cells of 10x11x11 mm:
    it blurs what the finer levels show (training/LOG.md, 2026-11-21)."""
    window_cells: int | None = 3
    """Side of the cube over which gradients are averaged to weights: 1 is voxel-wise (LayerCAM,
    HiResCAM), None the whole level (Grad-CAM). Averaged over neighbours, weights follow the
    training more and the architecture less (training/LOG.md, 2026-11-21)."""
    rectified: bool = True
    """Drop negative weights, as LayerCAM does."""
    through_mask: bool = False
    """Let the gradient also go through the mask that features are pooled under."""
    outside: float = 0.001
    """Weight of what lies outside the network's mask; 1 weighs all alike. Features are pooled under
    the mask, so the evidence is theirs times the mask's. Without a rest outside, nothing would
    order the nodule's surroundings."""

    def __post_init__(self) -> None:
        deepest_first = tuple(n for n in LEVELS if n in self.levels)
        if not self.levels or self.levels != deepest_first:
            got = reprlib.repr(self.levels)
            raise InputError(f"levels must be of a1...a4, deepest first, got {got}")
        if self.window_cells not in (None, *range(1, WIDEST_WINDOW + 1, 2)):
            got = reprlib.repr(self.window_cells)
            raise InputError(f"window_cells must be odd, 1 to {WIDEST_WINDOW}, or None, got {got}")
        if not 0 <= self.outside <= 1:
            raise InputError(f"outside must lie between 0 and 1, got {self.outside}")

    @property
    def words(self) -> str:
        """What differs from the default; empty if nothing does."""
        usual, told = LocalCam(), []
        if self.levels != usual.levels:
            told.append("levels " + ", ".join(f"a{level}" for level in self.levels))
        if self.window_cells != usual.window_cells:
            told.append(_window_words(self.window_cells))
        if not self.rectified:
            told.append("negative weights kept")
        if self.through_mask:
            told.append("gradient through the mask too")
        if self.outside != usual.outside:
            told.append(f"weight {self.outside:g} outside the mask")
        return "; ".join(told)


def _window_words(cells: int | None) -> str:
    if cells is None:
        return "weights averaged over the whole level"
    return "weights cell by cell" if cells == 1 else f"weights averaged over {cells} cells a side"


def variant_summary(variant: LocalCam) -> dict[str, Any] | None:
    """The variant for JSON, with its `words`; None for the default."""
    return {**asdict(variant), "words": variant.words} if variant.words else None


def checked_signs(signs: Sequence[str]) -> tuple[Sign, ...]:
    """The signs that are asked for, in the order of `SIGNS`.

    Raises:
        InputError: There is none, or an unknown one.
    """
    if not signs or set(signs) - set(SIGNS):
        raise InputError(f"signs must be similar, different or both, got {reprlib.repr(signs)}")
    return tuple(sign for sign in SIGNS if sign in signs)


def read_map(document: object) -> LocalCam:
    """The variant of the maps in JSON, each field as in `LocalCam`; what is absent is as usual.

    Raises:
        InputError: Something is unknown or of another kind.
    """
    usual = json.loads(json.dumps(asdict(LocalCam())))
    values = {**usual, **known_fields(document, {field.name for field in fields(LocalCam)}, "map")}
    levels, window, outside = (values[name] for name in ("levels", "window_cells", "outside"))
    # `bool` is an `int`.
    if not (isinstance(levels, list) and all(type(level) is int for level in levels)):
        raise InputError(f"levels must be a list of 4, 3, 2 and 1, got {reprlib.repr(levels)}")
    if not (window is None or type(window) is int):
        raise InputError(f"window_cells must be odd or null, got {reprlib.repr(window)}")
    for name in ("rectified", "through_mask"):
        if not isinstance(values[name], bool):
            raise InputError(f"{name} must be true or false, got {reprlib.repr(values[name])}")
    if not is_numbers(outside, ()):
        raise InputError(f"outside must be a number, got {reprlib.repr(outside)}")
    return LocalCam(**{**values, "levels": tuple(levels)})


def read_signs(value: object) -> tuple[Sign, ...]:
    """The signs in JSON.

    Raises:
        InputError: It is no list of them.
    """
    if not (isinstance(value, list) and all(isinstance(sign, str) for sign in value)):
        raise InputError(f"signs must be a list of texts, got {reprlib.repr(value)}")
    return checked_signs(value)
