"""Which prototypes of a bundle's concepts are removed, as a file for the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.WholeFiles import replacing

Key = tuple[str, int]
"""Concept and number of a prototype."""


class PruningError(ValueError):
    """A pruning file cannot be used; the message says what was wanted and what came."""


@dataclass(frozen=True)
class Choice:
    """What a clinician decided on a prototype."""

    remove: bool = False
    note: str = ""


def keyOf(prototype: Mapping[str, Any]) -> Key:
    """Of an entry of the atlas."""
    return prototype["concept"], prototype["number"]


def writePruning(file: Path, headSha256: str, choices: Mapping[Key, Choice]) -> None:
    """Writes a pruning file; what stood there before stays on failure.

    Args:
        file: Where.
        headSha256: Of the bundle's concept head, as `/atlas` told it.
        choices: Only those that remove or tell something are written.

    Raises:
        OSError: The folder cannot be written to.
    """
    rows = [
        {"concept": concept, "prototype": number, "remove": choice.remove, "note": choice.note}
        for (concept, number), choice in choices.items()
        if choice != Choice()
    ]
    text = json.dumps({"head_sha256": headSha256, "prototypes": rows}, indent=1) + "\n"
    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8")


def readPruning(
    file: Path, headSha256: str, prototypes: Sequence[Mapping[str, Any]]
) -> dict[Key, Choice]:
    """The choices of a pruning file.

    Raises:
        PruningError: The file is damaged, of another bundle, or names prototypes that it has not.
    """
    try:
        # An editor may have put a byte-order mark in front.
        document = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        theirs, choices = str(document["head_sha256"]), _choicesOf(document["prototypes"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        told = _("{file} is no pruning file: {error}")
        raise PruningError(told.format(file=file, error=error)) from error
    if theirs != headSha256:
        told = _("{file} was made for another bundle: wanted the concept head {ours}, got {theirs}")
        raise PruningError(told.format(file=file, ours=headSha256[:12], theirs=theirs[:12]))
    if unknown := choices.keys() - {keyOf(p) for p in prototypes}:
        concept, number = min(unknown)
        told = _("{file} names the prototype {number} of {concept}, which the bundle has not")
        raise PruningError(told.format(file=file, number=number, concept=concept))
    return choices


ROW = (
    ("concept", str, "a text"),
    ("prototype", int, "a whole number"),
    ("remove", bool, "true or false"),
    ("note", str, "a text"),
)


def _choicesOf(rows: Sequence[Mapping[str, Any]]) -> dict[Key, Choice]:
    """The engine takes and refuses the same: "false" removes nothing by being a text."""
    choices: dict[Key, Choice] = {}
    for row in rows:
        told = {"note": "", **row}
        for name, kind, wanted in ROW:
            if type(told[name]) is not kind:
                got = str(told[name])[:60]
                raise TypeError(f"{name} must be {wanted}, got {got!r}")
        key = told["concept"], told["prototype"]
        if key in choices:
            raise ValueError(f"the prototype {key} stands there twice")
        choices[key] = Choice(told["remove"], told["note"])
    return choices


def bareConcepts(
    prototypes: Sequence[Mapping[str, Any]], choices: Mapping[Key, Choice]
) -> list[str]:
    """Concepts that would be left without a prototype."""
    left = {
        p["concept"] for p in prototypes if p["kept"] and not choices.get(keyOf(p), Choice()).remove
    }
    return [c for c in dict.fromkeys(p["concept"] for p in prototypes) if c not in left]
