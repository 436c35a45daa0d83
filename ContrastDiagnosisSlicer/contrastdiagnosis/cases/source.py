"""`CaseSource`: where cases come from, what their readers rated, and which cases are malignant."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis import research_use_notice

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

UNDECIDED = 3.0
"""Where the label turns on the common scale of malignancy (`CaseSource.malignancy_of`): above it a
case is malignant, whatever its source rates by."""

TAKEN = frozenset(
    {
        "case_id", "patient_id", "label", "diameter_mm", "series_uid", "source", "file", "cluster",
        "n_readers", "fold", "center_r_mm", "center_a_mm", "center_s_mm",
    }
)  # fmt: skip
"""Columns of `nodules.csv` and `cases.csv` that are no ratings."""


@dataclass(frozen=True)
class RatingScale:
    """What readers rate a finding by."""

    name: str
    """Column of the tables: letters, digits and underscores."""
    title: str
    """As it is shown: "Internal structure"."""
    lowest: float
    highest: float
    low_words: str
    """What the lowest value says: "extremely subtle"."""
    high_words: str
    accepted_to: float | None = None
    """Readers gave values up to this although the form ends at `highest`; None where they kept to
    it."""

    def __post_init__(self) -> None:
        _check_texts(self, ("name", "title", "low_words", "high_words"))
        if not re.fullmatch(r"[A-Za-z]\w{0,39}", self.name, re.ASCII):
            raise ValueError(
                "the name of a rating must be up to 40 letters, digits and underscores, a letter"
                f" first, got {self.name!r}"
            )
        if self.name in TAKEN or self.name.endswith("_readers"):
            raise ValueError(f"a rating cannot be called {self.name}: a column of the tables is")
        _check_number(f"lowest of {self.name}", self.lowest)
        _check_number(f"highest of {self.name}", self.highest)
        if self.accepted_to is not None:
            _check_number(f"accepted_to of {self.name}", self.accepted_to)
        if not self.lowest < self.highest <= self.most:
            raise ValueError(
                f"the scale of {self.name} must rise, got {self.lowest:g} to {self.highest:g},"
                f" accepted to {self.most:g}"
            )

    @property
    def most(self) -> float:
        """The highest value that is read."""
        return self.highest if self.accepted_to is None else self.accepted_to

    def check(self, values: Iterable[float]) -> None:
        """Refuses values that are not on the scale.

        Raises:
            ValueError: One is not finite, too low or too high.
        """
        for value in values:
            if not self.lowest <= value <= self.most:
                raise ValueError(
                    f"{self.name} must lie between {self.lowest:g} and {self.most:g}, got {value:g}"
                )

    def share(self, value: float) -> float:
        """Where a value lies between the lowest, 0, and the highest, 1."""
        return (value - self.lowest) / (self.highest - self.lowest)


@dataclass(frozen=True)
class Finding:
    """What counts as the presence of a finding: a concept before it is trained."""

    name: str
    """In plain words: "ill-defined margin"."""
    rating: str
    """The rating that tells it."""
    at_least: float | None = None
    """Present from this value of the rating on; None where low values tell it."""
    at_most: float | None = None
    """Present up to this value."""

    def __post_init__(self) -> None:
        _check_texts(self, ("name", "rating"))
        bounds = [x for x in (self.at_least, self.at_most) if x is not None]
        if len(bounds) != 1:
            raise ValueError(f"{self.name} must have one of at_least and at_most")
        _check_number(f"the bound of {self.name}", bounds[0])


@dataclass(frozen=True)
class CaseSource:
    """A source of cases: its readers' scales, its rule of the label, its findings."""

    name: str
    """In full: "LIDC-IDRI"."""
    short_name: str
    """Before "readers", and in lower case the name of its bundles: "LIDC"."""
    scales: tuple[RatingScale, ...] = ()
    """In the order of its form and of the tables' columns."""
    malignancy: str = ""
    """The rating that tells malignancy; empty where nobody rated it: such cases have no label."""
    malignant_above: float = math.nan
    """A case is malignant if the readers' mean of that rating is higher."""
    findings: tuple[Finding, ...] = ()
    """What its concepts are, beside those of size."""
    citation: str = ""
    """For reports and model cards."""

    def __post_init__(self) -> None:
        _check_texts(self, ("name", "short_name"))
        if not isinstance(self.citation, str):
            raise ValueError(f"citation must be a text, got {self.citation!r:.80}")
        names = [scale.name for scale in self.scales]
        _check_once("ratings", names)
        _check_once("findings", [finding.name for finding in self.findings])
        for finding in self.findings:
            if finding.rating not in names:
                raise ValueError(
                    f"the finding {finding.name} needs a scale of {finding.rating}, got {names}"
                )
        if self.malignancy:
            self._check_rule(names)

    def _check_rule(self, names: Sequence[str]) -> None:
        if self.malignancy not in names:
            raise ValueError(
                f"malignancy must be one of the ratings {names}, got {self.malignancy!r:.80}"
            )
        _check_number("malignant_above", self.malignant_above)
        scale = self.scale(self.malignancy)
        if not scale.lowest < self.malignant_above < scale.highest:
            raise ValueError(
                f"malignant_above must lie within the scale of {scale.name}, between"
                f" {scale.lowest:g} and {scale.highest:g}, got {self.malignant_above:g}"
            )

    @property
    def notice(self) -> str:
        """What a bundle of such cases must never be used for."""
        return research_use_notice(self.name)

    def scale(self, name: str) -> RatingScale:
        """The scale of a rating.

        Raises:
            KeyError: Its readers do not rate it.
        """
        return {scale.name: scale for scale in self.scales}[name]

    def malignancy_of(self, rating: ArrayLike) -> NDArray[np.float64]:
        """Malignancy on the scale that all sources share: 1 to 5, malignant above `UNDECIDED`.

        The lowest value of the source's own scale is 1, the value above which it calls a case
        malignant is 3, the highest 5; between these it is linear. So labels and label rules mean
        the same for every source, and 1 to 5 with 3 in the middle, as in LIDC-IDRI, stay as they
        are to the last digit.

        Args:
            rating: Of any shape, on the source's own scale; NaN where unknown.
        """
        value = np.asarray(rating, dtype=np.float64)
        if not self.malignancy:
            return np.full(value.shape, np.nan)
        scale, over = self.scale(self.malignancy), value - self.malignant_above
        half = np.where(
            over > 0, scale.highest - self.malignant_above, self.malignant_above - scale.lowest
        )
        return np.asarray(UNDECIDED + 2 * over / half)


def source_from_document(document: object) -> CaseSource:
    """A source as `ratings.json` and `bundle.json` hold it: the fields of `CaseSource`.

    Raises:
        ValueError: Something is missing, unknown, of another kind, or does not fit.
    """
    values = dict(_table(document, "a source of cases"))
    for name, kind in (("scales", RatingScale), ("findings", Finding)):
        rows = values.get(name, [])
        if not isinstance(rows, list):
            raise ValueError(f"{name} must be a list, got {rows!r:.80}")
        values[name] = tuple(_record(kind, row, f"an item of {name}") for row in rows)
    if not values.get("malignancy"):
        # JSON has no NaN; without a rule the threshold says nothing.
        values.pop("malignant_above", None)
    return _record(CaseSource, values, "a source of cases")


def _record(kind: type[T], document: object, what: str) -> T:
    values, known = _table(document, what), {f.name: f for f in fields(kind)}
    needed = [name for name, f in known.items() if f.default is MISSING]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{what} has no {', '.join(unknown)}; there are {', '.join(known)}")
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    return kind(**values)


def _table(document: object, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ValueError(f"{what} must be a table of names and values, got {document!r:.80}")
    return document


def _check_texts(record: object, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} must be a text, got {value!r:.80}")


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a number, got {value!r:.80}")


def _check_once(what: str, names: Sequence[str]) -> None:
    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
        raise ValueError(f"{what} must have different names, got {twice[0]} twice")
