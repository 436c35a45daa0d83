"""`BundleInfo`: what bundle.json says, and how it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.source import CaseSource, source_from_document
from contrastdiagnosis.cases.vote import Calibration, VoteRule
from contrastdiagnosis.concepts.head import Concept, ConceptConfig, concept_from_document
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import PatchGeometry
from contrastdiagnosis.model.network import NoduleNetConfig
from contrastdiagnosis.trust.confidence import IntervalForm, check_interval
from contrastdiagnosis.trust.confidence_rule import CaseLimits, NoduleGate
from contrastdiagnosis.trust.poor_image import Band, PoorImage, PoorVerdicts, QualityDetector


@dataclass(frozen=True)
class BundleInfo:
    """What bundle.json says, apart from the schema version and the checksums."""

    name: str
    version: str
    vote: VoteRule
    calibration: Calibration
    similarity_quantile: float = 0.95
    similarity_interval: IntervalForm = "quantile"
    """How the end of the matched distances' interval is estimated."""
    split_vote: tuple[float, float] = (0.35, 0.65)
    """Calibrated probabilities between these are called split."""
    limits: CaseLimits = field(default_factory=CaseLimits)
    """What can be judged."""
    geometry: PatchGeometry = field(default_factory=PatchGeometry)
    network: NoduleNetConfig = field(default_factory=NoduleNetConfig)
    concept_head: ConceptConfig | None = None
    """None for a bundle without concepts."""
    concepts: tuple[Concept, ...] = ()
    """What the head's concepts are, in its order."""
    concept_calibration: Calibration = field(default_factory=Calibration)
    """From the sigmoid of the head's logit to the probability of malignancy."""
    case_source: CaseSource = LIDC
    """Where its cases come from; LIDC-IDRI where bundle.json does not say."""
    created: str = ""
    training_data: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Options and commit of the training run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics on unseen patients, with their protocol."""
    licence: str = "Apache-2.0"
    citation: str = ""
    intended_use: str = RESEARCH_USE_NOTICE


def document_of_info(info: BundleInfo) -> dict[str, Any]:
    """What `info_from_document` reads back; LIDC-IDRI as a source is what nothing is said of."""
    document = asdict(info)
    if info.case_source == LIDC:
        del document["case_source"]
    return document


def info_from_document(document: Mapping[str, Any], file: Path) -> BundleInfo:
    """The part "bundle" of a bundle.json.

    Args:
        document: What it says.
        file: Where it stands, for messages.

    Raises:
        InputError: Something is missing, of another kind, or out of range.
    """
    try:
        values = dict(document)
        values["limits"] = _limits(values)
        network = dict(values["network"])
        network["channels"] = tuple(network["channels"])
        geometry = {name: tuple(value) for name, value in values["geometry"].items()}
        values |= {
            "vote": VoteRule(**values["vote"]),
            "calibration": Calibration(**values["calibration"]),
            "geometry": PatchGeometry(**geometry),
            "network": NoduleNetConfig(**network),
            "split_vote": tuple(values["split_vote"]),
        }
        # Absent from bundles of schema 1.
        if values.get("concept_head"):
            values["concept_head"] = ConceptConfig(**values["concept_head"])
        if "concepts" in values:
            values["concepts"] = tuple(
                concept_from_document(concept) for concept in values["concepts"]
            )
        if "concept_calibration" in values:
            values["concept_calibration"] = Calibration(**values["concept_calibration"])
        if "case_source" in values:
            values["case_source"] = source_from_document(values["case_source"])
        info = BundleInfo(**values)
        _check_numbers(info)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not describe a bundle: {error}") from error
    if info.geometry != PatchGeometry():
        raise InputError(
            f"{file} needs patches {info.geometry}, this version cuts {PatchGeometry()}"
        )
    return info


FLAT_LIMITS = ("min_lung_share", "max_noise_hu", "max_slice_mm")
"""Limits that bundles of schemas 1 and 2 hold outside "limits"."""


def _limits(values: dict[str, Any]) -> CaseLimits:
    flat = {name: values.pop(name) for name in FLAT_LIMITS if name in values}
    nested = {**flat, **values.pop("limits", {})}
    gate = nested.pop("gate", None)
    if gate is not None:
        gate = NoduleGate(**{**gate, **_rows(gate)})
    detector = nested.pop("detector", None)
    if detector is not None:
        kinds = [{**kind, **_rows(kind)} for kind in detector["kinds"]]
        detector = QualityDetector(tuple(PoorImage(**kind) for kind in kinds))
    verdicts = tuple(_poor_verdicts(told) for told in nested.pop("poor_verdicts", ()))
    return CaseLimits(**nested, gate=gate, detector=detector, poor_verdicts=verdicts)


def _poor_verdicts(told: Mapping[str, Any]) -> PoorVerdicts:
    """Bundles up to lidc 12 told two shares instead of bands, which nothing is said by any more."""
    kept = {name: told[name] for name in told if name not in ("wrong_between", "wrong_beyond")}
    return PoorVerdicts(**{**kept, "bands": tuple(Band(*b) for b in told.get("bands", ()))})


def _rows(document: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    names = ("weights", "typical", "products", "reach")
    return {name: tuple(document[name]) for name in names if name in document}


LIMIT_BOUNDS = {
    "min_lung_share": 1,
    "max_noise_hu": 1e6,
    "max_slice_mm": 1e6,
    "min_covered_share": 1,
    "sure_covered_share": 1,
    "min_volume_mm3": 1e6,
    "max_diameter_mm": 1e6,
    "max_size_factor": 1e6,
}
"""Highest sensible value of each limit; none is negative."""


def _check_numbers(info: BundleInfo) -> None:
    check_interval(info.similarity_interval)
    if not info.case_source.malignancy:
        raise ValueError("its case_source must say which rating tells malignancy")
    low, high = info.split_vote
    numbers = {
        **_concept_numbers(info),
        "similarity_quantile": (info.similarity_quantile, 0, 1),
        "split_vote[0]": (low, 0, 0.5),
        "split_vote[1]": (high, 0.5, 1),
        **{f"limits.{n}": (getattr(info.limits, n), 0, m) for n, m in LIMIT_BOUNDS.items()},
        "calibration.slope": (info.calibration.slope, 1e-6, 1e6),
        "calibration.intercept": (info.calibration.intercept, -1e6, 1e6),
        "vote.k": (info.vote.k, 1, 1e6),
        **({} if info.vote.majority else {"vote.temperature": (info.vote.temperature, 0, 1e9)}),
        "network.embedding": (info.network.embedding, 1, 1e6),
        **{f"network.channels[{n}]": (c, 1, 1e6) for n, c in enumerate(info.network.channels)},
    }
    for name, (value, least, most) in numbers.items():
        if value is None and name.startswith("limits.max_"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not least <= value <= most:
            raise ValueError(f"{name} must lie between {least:g} and {most:g}, got {value!r}")
    if not isinstance(info.vote.k, int):
        raise ValueError(f"vote.k must be a whole number, got {info.vote.k!r}")


def _concept_numbers(info: BundleInfo) -> dict[str, tuple[Any, float, float]]:
    """Numbers of the concepts with their bounds."""
    head, names = info.concept_head, [concept.name for concept in info.concepts]
    count = head.concepts if head else 0
    if len(set(names)) != count or len(names) != count:
        raise ValueError(f"the head has {count} concepts, got the names {names}")
    if head is None:
        return {}
    sizes = asdict(head)
    for name in ("whole", "rectified"):
        if not isinstance(value := sizes.pop(name), bool):
            raise ValueError(f"concept_head.{name} must be true or false, got {value!r}")
    for name, value in sizes.items():
        if not isinstance(value, int):
            raise ValueError(f"concept_head.{name} must be a whole number, got {value!r}")
    calibrations = {"concept_calibration": info.concept_calibration}
    calibrations |= {f"{c.name}: calibration": c.calibration for c in info.concepts}
    numbers: dict[str, tuple[Any, float, float]] = {
        f"concept_head.{name}": (value, 1, 1e6) for name, value in sizes.items()
    }
    for name, calibration in calibrations.items():
        numbers[f"{name}.slope"] = (calibration.slope, 1e-6, 1e6)
        numbers[f"{name}.intercept"] = (calibration.intercept, -1e6, 1e6)
    return numbers
