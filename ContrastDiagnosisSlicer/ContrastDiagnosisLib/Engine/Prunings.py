"""Which prototypes of a bundle's concepts are removed, as a file for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.pruning_file import Key, Pruning, parse_pruning, pruning_text
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.WholeFiles import replacing


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
    removed = tuple(key for key, choice in choices.items() if choice.remove)
    notes = {key: choice.note for key, choice in choices.items() if choice.note}
    text = pruning_text(Pruning(headSha256, removed, notes))
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
        pruning = parse_pruning(Path(file).read_text(encoding="utf-8"))
    except (OSError, InputError, UnicodeDecodeError) as error:
        told = _("{file} is no pruning file: {error}")
        raise PruningError(told.format(file=file, error=error)) from error
    theirs = pruning.head_sha256
    if theirs != headSha256:
        told = _("{file} was made for another bundle: wanted the concept head {ours}, got {theirs}")
        raise PruningError(told.format(file=file, ours=headSha256[:12], theirs=theirs[:12]))
    choices = {
        key: Choice(key in pruning.removed, pruning.notes.get(key, ""))
        for key in (*pruning.removed, *pruning.notes)
    }
    if unknown := choices.keys() - {keyOf(p) for p in prototypes}:
        concept, number = min(unknown)
        told = _("{file} names the prototype {number} of {concept}, which the bundle has not")
        raise PruningError(told.format(file=file, number=number, concept=concept))
    return choices


def bareConcepts(
    prototypes: Sequence[Mapping[str, Any]], choices: Mapping[Key, Choice]
) -> list[str]:
    """Concepts that would be left without a prototype."""
    left = {
        p["concept"] for p in prototypes if p["kept"] and not choices.get(keyOf(p), Choice()).remove
    }
    return [c for c in dict.fromkeys(p["concept"] for p in prototypes) if c not in left]
