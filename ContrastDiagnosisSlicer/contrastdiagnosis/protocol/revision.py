"""Corrections of concepts: boxes that say where to look, and concepts that are rejected.

Interactions of CSR (arXiv:2503.06873, 3.4); what they change is in `concepts.boxes`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.fields import is_numbers, known_fields, numbers

ELSEWHERE = 0.2
"""Weight alpha of the cells outside all boxes where there is a positive one (supplement of
arXiv:2503.06873)."""

BOX_FIELDS = {"center_ras_mm", "size_mm", "look", "concept", "axes"}
REVISION_FIELDS = {"boxes", "rejected", "mode", "elsewhere"}
MOST_BOXES = 100

Mode = Literal["absent_median", "zero"]


@dataclass(frozen=True)
class Box:
    """A box that somebody drew."""

    center_ras_mm: tuple[float, float, float]
    """(3,) RAS, mm."""
    size_mm: tuple[float, float, float]
    """(3,) lengths of its sides, mm, above 0."""
    look: bool
    """True for "look here", False for "ignore here"."""
    concept: str | None = None
    """The concept that it is about; None for all."""
    axes: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    """(3, 3) directions of its sides in RAS, one a row, of length 1 and at right angles; along R, A
    and S if not given."""

    def __post_init__(self) -> None:
        rows = (self.center_ras_mm, self.size_mm, *self.axes)
        if [len(row) for row in rows] != [3] * 5 or not np.isfinite(rows).all():
            raise InputError(f"a box needs 3 centre, 3 size and 9 axis numbers, got {self}")
        if min(self.size_mm) <= 0:
            raise InputError(f"a box must have positive sides, got {self.size_mm} mm")
        axes = np.array(self.axes, float)
        if np.abs(axes @ axes.T - np.eye(3)).max() > 1e-3:
            raise InputError(
                "a box must have right angles and axes of length 1; under a transform that shears"
                f" or scales it has not: {axes.round(3).tolist()}"
            )

    @property
    def corners_ras_mm(self) -> NDArray[np.float64]:
        """(8, 3)."""
        half = np.array(self.size_mm) / 2
        signs = np.array(list(product((-1, 1), repeat=3)))
        return np.array(self.center_ras_mm) + (signs * half) @ np.array(self.axes, float)

    def contains(self, ras_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether points (..., 3) lie in the box or on its faces."""
        away = (np.asarray(ras_mm, float) - self.center_ras_mm) @ np.array(self.axes, float).T
        return (np.abs(away) <= np.array(self.size_mm) / 2 + 1e-6).all(axis=-1)


@dataclass(frozen=True)
class Revision:
    """What a clinician corrects; the default corrects nothing."""

    boxes: tuple[Box, ...] = ()
    """Where to look and what to ignore."""
    rejected: tuple[str, ...] = ()
    """Names of concepts that are not there."""
    mode: Mode = "absent_median"
    """What a rejected concept's scores become: the median of nodules without the concept, or 0 as
    published, which is unlike any nodule (docs/methods.md 6.6)."""
    elsewhere: float = field(default=ELSEWHERE)
    """Weight of the cells outside all boxes where there is a positive one, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.elsewhere <= 1:
            raise InputError(f"elsewhere must lie between 0 and 1, got {self.elsewhere}")
        if self.mode not in ("absent_median", "zero"):
            raise InputError(f"mode must be absent_median or zero, got {self.mode[:60]}")

    @property
    def empty(self) -> bool:
        """Whether nothing is corrected."""
        return not (self.boxes or self.rejected)


def read_revision(document: object) -> Revision:
    """The revision in JSON: `boxes`, `rejected`, `mode`, `elsewhere`, each as in `Revision`.

    Raises:
        InputError: Something is unknown or of another kind.

    Example:
        >>> box = {"center_ras_mm": [1, 2, 3], "size_mm": [8, 8, 8], "look": False}
        >>> revision = read_revision({"boxes": [box], "rejected": ["calcified"]})
        >>> revision.boxes[0].look, revision.boxes[0].concept, revision.rejected, revision.mode
        (False, None, ('calcified',), 'absent_median')
        >>> read_revision({"boxes": [{**box, "look": "no"}]})
        Traceback (most recent call last):
            ...
        contrastdiagnosis.errors.InputError: look must be true or false, got 'no'
    """
    values = known_fields(document, REVISION_FIELDS, "revision")
    boxes, rejected = values.get("boxes", []), values.get("rejected", [])
    if not (isinstance(boxes, list) and len(boxes) <= MOST_BOXES):
        raise InputError(f"boxes must be a list of at most {MOST_BOXES}, got {reprlib.repr(boxes)}")
    if not (isinstance(rejected, list) and all(isinstance(name, str) for name in rejected)):
        raise InputError(f"rejected must be a list of texts, got {reprlib.repr(rejected)}")
    elsewhere = values.get("elsewhere", ELSEWHERE)
    if not is_numbers(elsewhere, ()):
        raise InputError(f"elsewhere must be a number, got {reprlib.repr(elsewhere)}")
    mode = values.get("mode", "absent_median")
    if not isinstance(mode, str):
        raise InputError(f"mode must be a text, got {reprlib.repr(mode)}")
    return Revision(
        tuple(_box(box) for box in boxes), tuple(rejected), cast(Mode, mode), float(elsewhere)
    )


def _box(document: object) -> Box:
    values = known_fields(document, BOX_FIELDS, "box")
    look, concept = values.get("look"), values.get("concept")
    if not isinstance(look, bool):
        raise InputError(f"look must be true or false, got {reprlib.repr(look)}")
    if not (concept is None or isinstance(concept, str)):
        raise InputError(f"concept must be a text, got {reprlib.repr(concept)}")
    center, size = (numbers(values, name, (3,)).tolist() for name in ("center_ras_mm", "size_mm"))
    axes = numbers({"axes": np.eye(3).tolist(), **values}, "axes", (3, 3)).tolist()
    return Box(tuple(center), tuple(size), look, concept, tuple(tuple(row) for row in axes))
