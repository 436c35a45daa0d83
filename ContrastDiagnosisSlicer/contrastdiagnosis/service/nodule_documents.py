"""Documents that travel beside tensors: what a request says, and what is told of a nodule.

They describe, for OpenAPI and tests. Requests are read by `service.requests`, whose rules say more
than a schema can; answers are made by `service.answers` and `report.summary`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contrastdiagnosis.protocol.map_variant import SIGNS, LocalCam, Sign
from contrastdiagnosis.protocol.revision import Revision
from contrastdiagnosis.service.documents import (
    Affine,
    CaseRow,
    Document,
    Label,
    PrototypeRow,
    Triple,
    Voxel,
)
from contrastdiagnosis.service.requests import SHA256_HEX


class RequestDocument(Document):
    """A question about one nodule: the JSON beside the voxels of the CT around it."""

    ijk_to_ras: Affine
    """Voxels of `hu`, in order (i, j, k), to RAS, mm; the last row is 0 0 0 1."""
    point_ras_mm: Triple
    """The click, RAS, mm."""
    patient_id: str | None = None
    """Whose cases must not vote; null if not known."""
    series_sha256: Annotated[str, Field(pattern=f"^{SHA256_HEX}$")] = ""
    """SHA-256 (hex) of the CT's series UID: tells a bundle's own scan without naming it."""
    case_ids: tuple[str, ...] = ()
    """Which of the shown cases maps are wanted for; none for all of them. `/maps` alone."""
    revision: Revision = Revision()
    """What is corrected of the concepts. `/diagnose` passes it over."""
    map: LocalCam = LocalCam()
    """How maps are made. `/maps` and `/report`."""
    signs: Annotated[tuple[Sign, ...], Field(min_length=1)] = SIGNS
    """Which maps are wanted of each pair. `/maps` alone."""
    overview_ijk_to_ras: Affine = Field(default_factory=list)  # Absent, never null.
    """Of `overview_hu`, as `ijk_to_ras`; there if it is there."""
    part_of_ct: bool = False
    """True: `hu` holds no air, the CT that it was cut from does."""


class BundleName(Document):
    """The bundle that a diagnosis is by."""

    name: str
    """Of the bundle."""
    version: str
    """Of the bundle."""


class Scan(Document):
    """The voxels that were sent."""

    name: str
    """Empty: the server is not told."""
    series_uid: str
    """Empty: the server is not told."""
    size_ijk: Voxel
    """Voxels along i, j and k."""
    spacing_ijk_mm: Triple
    """Between voxels along i, j and k, mm."""


class Nodule(Document):
    """What was outlined at the point."""

    found: bool
    """Whether it may be a nodule; if not, the sizes are 0."""
    volume_mm3: float
    """mm³."""
    long_axis_mm: float
    """Longest axial diameter, mm."""
    short_axis_mm: float
    """Longest axial diameter at a right angle to it, mm."""


class Vote(Document):
    """How the nearest cases voted."""

    malignant: int
    """Malignant cases among those that voted."""
    cases: int
    """Cases that voted."""


class WeightedVote(Vote):
    """How the nearest cases voted, the nearer with more weight."""

    form: Literal["distance-weighted"]
    """Of the vote."""
    weighted_share: float
    """Share of the malignant ones, each with its weight, 0 to 1."""


class MajorityVote(Vote):
    """How the nearest cases voted, all alike."""

    form: Literal["majority"]
    """Of the vote."""
    share: float
    """Share of the malignant ones, 0 to 1."""


class ConceptRow(Document):
    """One concept of the nodule."""

    name: str
    """Of the concept."""
    rejected: bool
    """Whether the revision says that it is not there."""
    presence: float | None
    """Share of readers who would call it present, 0 to 1; null if it was rejected."""
    contribution: float
    """What it adds to the logit of malignancy."""
    prototype: int | None
    """Number of the prototype that is shown as evidence; null if there is none."""
    score: float | None
    """Highest cosine with that prototype; null if there is none."""
    criterion: str
    """What counts as its presence, such as "margin at most 3"."""
    reader_kappa: float | None
    """Agreement of two readers, Cohen's kappa; null if not measured."""
    auroc: float | None
    """Of the majority's opinion, cross-fitted, 0 to 1; null if not measured."""


class ConceptSummary(Document):
    """What the concepts say and why: `baseline` plus all contributions is `logit`."""

    verdict: Label
    """By `probability`."""
    probability: float
    """Calibrated, that readers would suspect malignancy, 0 to 1."""
    baseline: float
    """Logit of a nodule that shows no concept."""
    logit: float
    """Log odds of malignancy."""
    sentence: str
    """Which concepts drive the score, the strongest first."""
    concepts: list[ConceptRow]
    """In the head's order."""
    revision: Revision
    """What was corrected, with all its fields."""
    remarks: list[str]
    """For the user, about the boxes."""


class ShownCase(CaseRow):
    """One of the nearest cases."""

    distance: float
    """AlignDist to the nodule."""
    similarity: float
    """Share of matched pairs at least as far apart, 0 to 1."""


class ImageFacts(Document):
    """What was measured of the image around the point; null where it cannot be."""

    slice_mm: float | None
    """Largest distance between neighbouring voxels, mm."""
    noise_hu: float | None
    """Standard deviation of the noise in lung, HU."""
    detail_mm: float | None
    """Full width at half maximum of the point spread within slices, mm."""
    thickness_mm: float | None
    """Of the slices, whatever their distance, mm."""
    poor: list[Literal["noise", "thick slices", "blur", "motion"]]
    """In which ways it is told to be poor; empty too where the bundle tells none."""


class DiagnosisDocument(Document):
    """All that is told of a nodule but its outline and its maps.

    With nothing to judge, `verdict`, `probability`, `vote` and `concepts` are null: see `reasons`.
    """

    notice: str
    """Research use only."""
    engine_version: str
    """Of the engine."""
    bundle: BundleName
    """What the diagnosis is by."""
    scan: Scan
    """What it is of."""
    point_ras_mm: Triple
    """The click, RAS, mm."""
    nodule: Nodule
    """What was outlined."""
    image: ImageFacts
    """Its quality there."""
    finding: Literal["malignant", "benign", "no nodule", "not judged"]
    """The verdict, or why there is none."""
    verdict: Label | None
    """By `probability`."""
    probability: float | None
    """Calibrated, that readers would suspect malignancy, 0 to 1: by the vote."""
    vote: WeightedVote | MajorityVote | None
    """Of the nearest cases."""
    confident: bool
    """Whether nothing speaks against the verdict."""
    reasons: list[str]
    """What does, or why there is no verdict; for the user."""
    notices: list[str]
    """Fallbacks that were taken, and what is poor about the image and no reason; for the user."""
    concepts: ConceptSummary | None
    """The second line of evidence; null without a concept head too. Nothing is corrected here."""
    disagreement: str
    """A sentence where cases and concepts say different things, else empty."""
    map_variant: None
    """There are no maps here."""
    cases: list[ShownCase]
    """The nearest ones, nearest first."""
    mask_start_kji: Voxel
    """Voxel (k, j, i) of `hu` at which the tensor `mask` begins."""
    threshold: float
    """Distance beyond which a case is too far to speak for the nodule."""


class MapFacts(Document):
    """What belongs to one map."""

    highest: float
    """Its maximum before it was scaled to 1: what maps of one pair are compared by; 0 if empty."""
    contour_level: float
    """Voxels of at least this value hold the top tenth of the map's sum."""
    slice_index: int
    """The slice k that holds most of it."""


class DistanceParts(Document):
    """What of a distance no map can show, and what the maps explain; together they are it."""

    statistics: float
    """Of size, density and outline."""
    features: float
    """Of what the maps show."""
    sentence: str
    """Both in percent, in words."""


class MapPair(Document):
    """The nodule and one case."""

    case_id: str
    """Of the case."""
    distance: float
    """AlignDist."""
    parts: DistanceParts | None
    """Null where the two are the same, or nothing is known of the case's mask."""
    remarks: list[str]
    """What there is no evidence of, or no picture; for the user."""
    query: dict[Sign, MapFacts]
    """The nodule's side, of each sign that was asked for."""
    case: dict[Sign, MapFacts] | None
    """The case's side; null without a picture of it."""


class MapVariant(Document):
    """How the maps were made, each field as in a request."""

    levels: list[int]
    """Levels of the pyramid, deepest first."""
    window_cells: int | None
    """Side of the cube over which weights are averaged, cells; null for the whole level."""
    rectified: bool
    """Whether negative weights were dropped."""
    through_mask: bool
    """Whether the gradient went through the mask too."""
    outside: float
    """Weight of what lies outside the network's mask, 0 to 1."""
    words: str
    """What of this is not as usual."""


class MapsDocument(Document):
    """What belongs to the maps of a nodule and its cases."""

    patch_ijk_to_ras: Affine
    """Voxels (i, j, k) of the nodule's maps to RAS, mm; a case's lie so around its own centre."""
    pairs: list[MapPair]
    """By place: pair N is that of the tensors `N.…`."""
    map_variant: MapVariant | None
    """Null if as usual."""
    notices: list[str]
    """Fallbacks that were taken; for the user."""


class Example(PrototypeRow):
    """The prototype that is shown of a concept."""

    usual_score: float
    """Its score on nodules without the concept, median."""


class ConceptsDocument(ConceptSummary):
    """The concepts of a nodule, under the revision that was asked for."""

    cells_ijk_to_ras: Affine
    """Cells (i, j, k) of the maps, by their centres, to RAS, mm."""
    examples: list[Example]
    """Of each concept that shows a prototype, in the concepts' order."""
    disagreement: str
    """A sentence where cases and concepts say different things, else empty."""
    notice: str
    """Research use only."""
