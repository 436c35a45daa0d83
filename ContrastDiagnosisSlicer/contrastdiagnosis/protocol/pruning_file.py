"""The file that says which prototypes of a bundle's concepts are removed, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from contrastdiagnosis.errors import InputError

Key = tuple[str, int]
"""Concept and number of a prototype."""

_FIELDS = (
    ("concept", str, "a text"),
    ("prototype", int, "a whole number"),
    ("remove", bool, "true or false"),
    ("note", str, "a text"),
)


@dataclass(frozen=True)
class Pruning:
    """Which prototypes a clinician removes, and why.

    Attributes:
        head_sha256: Of the concept head that was looked at: numbers of another one mean other
            prototypes.
        removed: (concept, number) of each.
        notes: By (concept, number), of any prototype.
    """

    head_sha256: str
    removed: tuple[Key, ...] = ()
    notes: dict[Key, str] = field(default_factory=dict)


def pruning_text(pruning: Pruning) -> str:
    """The JSON of a pruning file."""
    touched = dict.fromkeys((*pruning.removed, *pruning.notes))
    rows = [
        {
            "concept": concept,
            "prototype": number,
            "remove": (concept, number) in pruning.removed,
            "note": pruning.notes.get((concept, number), ""),
        }
        for concept, number in touched
    ]
    document = {"head_sha256": pruning.head_sha256, "prototypes": rows}
    return json.dumps(document, indent=1) + "\n"


def parse_pruning(text: str) -> Pruning:
    """What a pruning file says; whether it fits a bundle is the bundle's to tell.

    Args:
        text: Of the file, with or without a byte order mark.

    Raises:
        InputError: It is no such file. "false" as a text removes nothing by being one: it is
            refused, like every value of another kind.

    Example:
        >>> row = '{"concept": "calcified", "prototype": 4, "remove": true, "note": "a rib"}'
        >>> pruning = parse_pruning(f'{{"head_sha256": "c0ffee", "prototypes": [{row}]}}')
        >>> pruning.removed, pruning.notes
        ((('calcified', 4),), {('calcified', 4): 'a rib'})
    """
    try:
        document = json.loads(text.removeprefix("\ufeff"))
        head = document["head_sha256"]
        if not isinstance(head, str):
            raise TypeError(f"head_sha256 must be a text, got {str(head)[:60]!r}")
        rows = [_row(row) for row in document["prototypes"]]
        _check_once([key for key, _, _ in rows])
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{error}") from error
    removed = tuple(key for key, remove, _ in rows if remove)
    return Pruning(head, removed, {key: note for key, _, note in rows if note})


def _row(row: dict[str, Any]) -> tuple[Key, bool, str]:
    told = {"note": "", **row}
    for name, kind, wanted in _FIELDS:
        # `bool` is an `int`.
        if type(told[name]) is not kind:
            raise TypeError(f"{name} must be {wanted}, got {str(told[name])[:60]!r}")
    return (told["concept"], told["prototype"]), told["remove"], told["note"]


def _check_once(keys: Sequence[Key]) -> None:
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the prototype {key} stands there twice")
        seen.add(key)
