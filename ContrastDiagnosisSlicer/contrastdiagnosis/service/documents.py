"""Documents that the server answers with: facts, cases, the atlas, problems.

Those that travel beside tensors are in `service.nodule_documents`, which serving does not load.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from contrastdiagnosis.cases.vote import VoteForm

Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Voxel = Annotated[list[int], Field(min_length=3, max_length=3)]
Affine = Annotated[
    list[Annotated[list[float], Field(min_length=4, max_length=4)]],
    Field(min_length=4, max_length=4),
]
Label = Literal["malignant", "benign"]


class Document(BaseModel):
    """JSON of known fields, each of its own type; nothing is taken for something else."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Problem(Document):
    """What went wrong (RFC 9457)."""

    type: Literal["about:blank"]
    """Nothing beyond what the status says."""
    title: str
    """Of the status."""
    status: int
    """HTTP status, once more."""
    detail: str
    """For the user, as it is."""


class Health(Document):
    """Whether the engine is there, and where it runs."""

    status: Literal["ok"]
    """There is no answer at all if it is not."""
    version: str
    """Of the engine."""
    device: str
    """Where the network runs: cpu, cuda."""
    waiting: int
    """Requests under way."""
    notice: str
    """Research use only."""


class Figures(TypedDict, total=False):
    """What was measured, null where it could not be; absent where it was not."""

    # A bundle may hold NaN, which is told as null.
    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", strict=True, use_attribute_docstrings=True
    )

    auc: float | None
    """Area under the ROC curve, 0 to 1."""
    auc_ci: list[float | None] | None
    """Ends of its 95 % interval, by a bootstrap of patients."""
    auc_diameter: float | None
    """The same of the diameter alone."""
    auc_6_12mm: float | None
    """Of nodules from 6 to below 12 mm."""
    accuracy: float | None
    """Share of right verdicts, 0 to 1."""


class BundleFacts(Document):
    """What a user should know of the bundle before trusting it."""

    name: str
    """Of the bundle."""
    version: str
    """Of the bundle."""
    engine_version: str
    """Of the engine that answers."""
    created: str
    """When the bundle was made, ISO 8601; empty if not told."""
    cases: int
    """Cases that nodules are compared with."""
    malignant_cases: int
    """Those labelled malignant."""
    cases_with_pixels: int
    """Those that have a picture here."""
    voters: int
    """How many of the nearest cases vote."""
    vote: VoteForm
    """How much each of them counts: less with its distance, or all alike."""
    training_data: str
    """What the networks were trained on."""
    citation: str
    """Of the data."""
    licence: str
    """SPDX identifier."""
    intended_use: str
    """What the bundle may be used for."""
    concepts: list[str]
    """Names of the concepts, in the head's order; none without a head."""
    figures: Figures
    """Of nodules not rated exactly at the threshold of the label, of patients that the network had
    not seen."""
    protocol: str
    """How the figures were measured."""
    notice: str
    """Research use only."""


class CaseFacts(Document):
    """What is known of a case."""

    case_id: str
    """Names the case and its picture."""
    patient_id: str
    """Whose cases must not vote on a nodule of the same patient."""
    label: Label
    """By the readers' mean rating and the threshold of the cases' source; no pathology."""
    diameter_mm: float
    """Of the nodule, mm."""
    ratings: dict[str, float]
    """Mean of the readers by name, on the source's own scales; what is not known is absent."""
    series_uid: str
    """DICOM SeriesInstanceUID; empty if not known."""
    center_ras_mm: Triple | None
    """Where the nodule lies in its series, RAS, mm; null if not known."""
    source: str
    """Where the case comes from."""


class CaseRow(CaseFacts):
    """One line of the case table."""

    has_pixels: bool
    """Whether there is a picture of it here."""


class CasePage(Document):
    """A part of the case table."""

    total: int
    """Cases of the whole table."""
    start: int
    """Place of the first row, from 0."""
    cases: list[CaseRow]
    """In the bundle's order."""


class PrototypeRow(Document):
    """One line of the atlas: a prototype, and the case that it looks like."""

    concept: str
    """Its name."""
    number: int
    """Place among the concept's prototypes, from 0."""
    case_id: str
    """The training nodule with the largest cosine."""
    cell_kji: Voxel
    """The cell of its patch that is most alike, (k, j, i)."""
    similarity: float
    """That cosine."""
    hits: int
    """For how many cases that show the concept this prototype has the highest score."""
    kept: bool
    """Whether it takes part; a clinician may have removed it."""
    has_pixels: bool
    """Whether there is a picture of it here."""
    label: Label | None
    """Of the case; null if the case is not in the library."""
    diameter_mm: float | None
    """Of the case's nodule, mm; null if the case is not in the library."""
    ratings: dict[str, float] | None
    """As those of a case; null if it is not in the library."""


class Atlas(Document):
    """The prototypes of all concepts; none where the bundle has no concepts."""

    head_sha256: str
    """SHA-256 (hex) of the concept head, which a pruning file must name; empty without a head."""
    prototypes: list[PrototypeRow]
    """Concept by concept."""
