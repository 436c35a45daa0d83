"""`CaseLibrary`: the cases a diagnosis is voted by, and the search for the nearest of them."""

from __future__ import annotations

import csv
import hashlib
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_table

LARGEST_MM = 500
"""No diameter in a chest is larger."""

CASE_COLUMNS = ("case_id", "patient_id", "label", "diameter_mm")
CENTER_COLUMNS = ("center_r_mm", "center_a_mm", "center_s_mm")


def table_columns(case_source: CaseSource) -> tuple[str, ...]:
    """Header of the `cases.csv` of a source's cases."""
    ratings = (scale.name for scale in case_source.scales)
    return (*CASE_COLUMNS, *ratings, "series_uid", *CENTER_COLUMNS, "source")


def check_case_id(case_id: str) -> None:
    """Refuses a case id that cannot name a file everywhere.

    Raises:
        ValueError: It has other characters than letters, digits, dots, hyphens and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", case_id):
        raise ValueError(
            f"case id {reprlib.repr(case_id)} cannot name a file: wanted up to 200 letters, digits,"
            " dots, hyphens and underscores, a letter or digit first"
        )


@dataclass(frozen=True)
class Case:
    """A nodule that readers rated."""

    case_id: str
    patient_id: str
    malignant: bool
    diameter_mm: float
    ratings: dict[str, float]
    """Mean rating over the readers by name; a rating that is not known is absent."""
    series_uid: str = ""
    center_ras_mm: tuple[float, float, float] | None = None
    """Where the nodule lies in its series; None if the source does not say."""
    source: str = ""


@dataclass(frozen=True)
class Neighbour:
    """A retrieved case and its distance to the query."""

    case: Case
    distance: float
    position: int
    """Row of the case in the library."""


@dataclass(frozen=True, eq=False)
class CaseLibrary:
    """Cases and their embeddings; k nearest by exact search.

    Attributes:
        cases: The N cases, each with its own case_id.
        embedding: (N, p) float32 z of every case.
        statistics: (N, S) float32, `distance_parts.patch_statistics` of every case: says how much
            of a distance they make. None in older bundles.
    """

    cases: Sequence[Case]
    embedding: NDArray[np.float32]
    statistics: NDArray[np.float32] | None = None
    _mean: NDArray[np.float32] = field(init=False, repr=False)
    _centred: NDArray[np.float32] = field(init=False, repr=False)
    _squared_norm: NDArray[np.float32] = field(init=False, repr=False)
    _rank: NDArray[np.int64] = field(init=False, repr=False)
    _of_patient: dict[str, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        embedding = np.ascontiguousarray(self.embedding, dtype=np.float32)
        if len(self.cases) == 0:
            raise InputError("the case library is empty: a vote needs cases of both classes")
        if embedding.ndim != 2 or len(embedding) != len(self.cases):
            raise InputError(
                f"wanted one embedding for each of {len(self.cases)} cases, got shape"
                f" {embedding.shape}"
            )
        if not np.isfinite(embedding).all():
            raise InputError("the case library holds embeddings that are not finite")
        if self.statistics is not None and not (
            len(self.statistics) == len(embedding) and np.isfinite(self.statistics).all()
        ):
            raise InputError(
                f"wanted finite statistics of each of {len(self.cases)} cases, got shape"
                f" {self.statistics.shape}"
            )
        ids = [case.case_id for case in self.cases]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"the case library holds case {twice} twice")
        malignant = sum(case.malignant for case in self.cases)
        if malignant in (0, len(ids)):
            kind = "malignant" if malignant else "benign"
            raise InputError(
                f"all {len(ids)} cases of the library are {kind}: a vote needs both classes"
            )
        of_patient: dict[str, list[int]] = {}
        for index, case in enumerate(self.cases):
            of_patient.setdefault(case.patient_id, []).append(index)
        # Centring keeps |x|^2 - 2 x.q small, so that float32 loses little to cancellation.
        mean = embedding.mean(axis=0)
        centred = embedding - mean
        for name, value in {
            "embedding": embedding,
            "_mean": mean,
            "_centred": centred,
            "_squared_norm": np.einsum("np,np->n", centred, centred),
            "_rank": np.argsort(np.argsort(np.array(ids))),
            "_of_patient": of_patient,
        }.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def malignant(self) -> NDArray[np.bool_]:
        """(N,) labels."""
        return np.array([case.malignant for case in self.cases])

    def nearest(
        self, embedding: ArrayLike, k: int, exclude_patient: str | None = None
    ) -> list[Neighbour]:
        """The k nearest cases, nearest first, equal distances in the order of case_id.

        Args:
            embedding: (p,) z of the query.
            k: How many; fewer come back where the library has fewer.
            exclude_patient: The query's patient, whose own cases must not vote.

        Raises:
            InputError: No case is left, or the embedding does not fit the library.
        """
        query = np.asarray(embedding, dtype=np.float32)
        if query.shape != self.embedding.shape[1:]:
            raise InputError(
                f"wanted an embedding of shape {self.embedding.shape[1:]}, got {query.shape}"
            )
        own = [] if exclude_patient is None else self._of_patient.get(exclude_patient, [])
        left = len(self) - len(own)
        if left == 0:
            raise InputError(
                f"every case of the library is of patient {exclude_patient}: none is left"
            )
        candidates = self._candidates(query, min(k, left), own)
        difference = self.embedding[candidates].astype(np.float64) - query
        distance = np.sqrt(np.einsum("np,np->n", difference, difference))
        order = np.lexsort((self._rank[candidates], distance))[:k]
        return [
            Neighbour(self.cases[c], float(d), int(c))
            for c, d in zip(candidates[order], distance[order], strict=True)
        ]

    def embeddings_of(self, case_ids: Sequence[str]) -> NDArray[np.float32]:
        """(K, p) z of cases by their id.

        Raises:
            InputError: The library has no such case.
        """
        return self.embedding[self._rows(case_ids)]

    def statistics_of(self, case_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """(K, S) statistics of cases by their id; None where they are not stored.

        Raises:
            InputError: The library has no such case.
        """
        return None if self.statistics is None else self.statistics[self._rows(case_ids)]

    def _rows(self, case_ids: Sequence[str]) -> list[int]:
        place = {case.case_id: n for n, case in enumerate(self.cases)}
        absent = [case_id for case_id in case_ids if case_id not in place]
        if absent:
            raise InputError(f"the case library has no case {', '.join(absent)}")
        return [place[case_id] for case_id in case_ids]

    def patient_of_series(self, series_uid: str) -> str | None:
        """The patient of the cases that lie in a DICOM series, None if there is none."""
        if not series_uid:
            return None
        return next((c.patient_id for c in self.cases if c.series_uid == series_uid), None)

    def patient_of_hashed_series(self, series_sha256: str) -> str | None:
        """As `patient_of_series`, of the SHA-256 (hex) of a series UID that is not told."""
        if not series_sha256:
            return None
        uids = {c.series_uid: c.patient_id for c in self.cases if c.series_uid}
        hashed = {hashlib.sha256(uid.encode()).hexdigest(): p for uid, p in uids.items()}
        return hashed.get(series_sha256.lower())

    def count_of_patient(self, patient_id: str) -> int:
        """How many cases a patient has."""
        return len(self._of_patient.get(patient_id, []))

    def _candidates(self, query: NDArray, k: int, own: list[int]) -> NDArray[np.int64]:
        """A superset of the k nearest: float32 search with a bound on its error."""
        centred = query - self._mean
        squared = self._squared_norm - 2 * (self._centred @ centred)
        squared[own] = np.inf
        kth = np.partition(squared, k - 1)[k - 1]
        largest = float(self._squared_norm.max()) + float(centred @ centred)
        error = 4 * np.finfo(np.float32).eps * len(query) * largest
        return np.flatnonzero(squared <= kth + error)


def write_cases(path: Path, cases: Iterable[Case], case_source: CaseSource) -> None:
    """Writes `cases.csv`, with the ratings of the cases' source."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, table_columns(case_source))
        writer.writeheader()
        writer.writerows(_row(case, case_source) for case in cases)


def read_cases(path: Path, case_source: CaseSource) -> list[Case]:
    """The cases of a `cases.csv`, rated by the scales of their source.

    Raises:
        InputError: A column is missing or a value cannot be read, or is not on its scale.
    """
    cases = []
    for line, row in read_table(path, table_columns(case_source)):
        try:
            cases.append(_case(row, case_source))
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}") from error
    return cases


def _row(case: Case, case_source: CaseSource) -> dict[str, object]:
    center = case.center_ras_mm or ("", "", "")
    return {
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "label": int(case.malignant),
        "diameter_mm": round(case.diameter_mm, 2),
        **{s.name: _rounded(case.ratings.get(s.name)) for s in case_source.scales},
        "series_uid": case.series_uid,
        **dict(zip(CENTER_COLUMNS, (_rounded(c) for c in center), strict=True)),
        "source": case.source,
    }


def _rounded(value: float | str | None) -> float | str:
    return round(value, 4) if isinstance(value, float | int) else ""


def _case(row: dict[str, str], case_source: CaseSource) -> Case:
    center = [row[name] for name in CENTER_COLUMNS]
    if row["label"] not in ("0", "1"):
        raise ValueError(f"label must be 0 or 1, got {row['label']!r}")
    check_case_id(row["case_id"])
    ratings = {s.name: float(row[s.name]) for s in case_source.scales if row[s.name]}
    for name, value in ratings.items():
        case_source.scale(name).check((value,))
    diameter_mm = float(row["diameter_mm"])
    if not 0 <= diameter_mm <= LARGEST_MM:
        raise ValueError(f"diameter_mm must lie between 0 and {LARGEST_MM}, got {diameter_mm:g}")
    if any(center) and not np.isfinite([float(c) for c in center if c]).all():
        raise ValueError(f"the centre must be finite, got {', '.join(center)}")
    return Case(
        case_id=row["case_id"],
        patient_id=row["patient_id"],
        malignant=row["label"] == "1",
        diameter_mm=diameter_mm,
        ratings=ratings,
        series_uid=row["series_uid"],
        center_ras_mm=(float(center[0]), float(center[1]), float(center[2]))
        if all(center)
        else None,
        source=row["source"],
    )
