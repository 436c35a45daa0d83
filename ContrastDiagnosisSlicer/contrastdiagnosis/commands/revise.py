"""The command `contrastdiagnosis revise`: a diagnosis with its concepts corrected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from contrastdiagnosis.commands.diagnose import Diagnose, write_outputs
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json

if TYPE_CHECKING:
    from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction
    from contrastdiagnosis.protocol.revision import Box, Revision

BoxNumbers = tuple[float, float, float, float, float, float]
"""Centre (R, A, S) and size along R, A and S, mm."""


@dataclass(frozen=True)
class Revise:
    """Repeat a diagnosis with its concepts corrected: where to look, and what is not there."""

    diagnose: Annotated[Diagnose, tyro.conf.arg(name="")]
    look: tyro.conf.UseAppendAction[tuple[tuple[BoxNumbers, ...], ...]] = ()
    """Boxes to look into, each R A S DR DA DS: centre and size in RAS millimetres."""
    ignore: tyro.conf.UseAppendAction[tuple[tuple[BoxNumbers, ...], ...]] = ()
    """Boxes to ignore, written alike; they win over those to look into."""
    reject: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Names of concepts that are not there, such as "ill-defined margin"."""
    mode: Literal["absent_median", "zero"] | None = None
    """What a rejected concept's scores become: the median of nodules without it (absent_median,
    unless the file of boxes says otherwise), or zero."""
    elsewhere: float | None = None
    """Weight, 0 to 1, of what lies outside all boxes to look into; 0.2 unless the file of boxes
    says otherwise."""
    boxes: Path | None = None
    """JSON of a revision as the server takes it; what else is given here is added to it."""

    def run(self) -> None:
        """Diagnoses, corrects, prints both, writes the corrected one."""
        from contrastdiagnosis.report.summary import concept_summary

        revision = self.revision()
        answer = self.diagnose.answer([self.boxes] if self.boxes else [])
        revised = answer.diagnoser.revise(answer.diagnosis, answer.volume, revision)
        before, after = answer.diagnosis.concepts, revised.concepts
        if before is None or after is None:
            raise InputError("the bundle has no concepts to revise")
        more = {"concepts_before_revision": concept_summary(before)}
        print("\n".join([*comparison(before, after), ""]))
        write_outputs(self.diagnose, answer._replace(diagnosis=revised), more)

    def revision(self) -> Revision:
        """What the options and the file ask for together.

        Raises:
            InputError: The file is damaged, a number is out of range, or nothing is asked for.
        """
        from contrastdiagnosis.protocol.revision import Revision

        found = read_revision_file(self.boxes) if self.boxes else Revision()
        drawn = [_box(numbers, True) for group in self.look for numbers in group]
        drawn += [_box(numbers, False) for group in self.ignore for numbers in group]
        names = (*found.rejected, *(name for group in self.reject for name in group))
        revision = replace(
            found,
            boxes=(*found.boxes, *drawn),
            rejected=tuple(dict.fromkeys(names)),
            mode=self.mode or found.mode,
            elsewhere=found.elsewhere if self.elsewhere is None else self.elsewhere,
        )
        if revision.empty:
            raise InputError("nothing to revise: give --look, --ignore, --reject or --boxes")
        return revision


def read_revision_file(file: Path) -> Revision:
    """The revision in a JSON file, as the server takes it.

    Raises:
        InputError: The file cannot be read or holds something else.
    """
    from contrastdiagnosis.protocol.revision import read_revision

    document = read_json(file)
    try:
        return read_revision(document)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def comparison(before: ConceptPrediction, after: ConceptPrediction) -> Iterator[str]:
    """What a revision did, line by line."""
    yield f"{'concept':24} {'presence':>17}   {'logits':>15}"
    rows = zip(
        before.concepts, before.presence, after.presence, before.contribution, after.contribution,
        strict=True,
    )  # fmt: skip
    for concept, p, q, a, b in rows:
        told = "rejected" if concept.name in after.revision.rejected else f"{q:.2f}"
        yield f"{concept.name:24} {p:.2f} -> {told:>8}   {a:+.2f} -> {b:+.2f}"
    yield (
        f"{'concepts together':24} {before.probability:.2f} -> {after.probability:8.2f}"
        f"   {before.logit:+.2f} -> {after.logit:+.2f}"
    )


def _box(numbers: Sequence[float], look: bool) -> Box:
    from contrastdiagnosis.protocol.revision import Box

    r, a, s, dr, da, ds = numbers
    return Box((r, a, s), (dr, da, ds), look)
