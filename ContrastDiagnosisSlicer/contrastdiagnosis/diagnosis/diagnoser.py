"""`Diagnoser`: from a volume and a point to a `Diagnosis`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.cases.library import Case, Neighbour
from contrastdiagnosis.concepts.boxes import check_boxes
from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction, predict_concepts
from contrastdiagnosis.concepts.encoding import Encoding, encode
from contrastdiagnosis.concepts.head import ConceptHead
from contrastdiagnosis.diagnosis.outline import no_region, outline_at
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.measure import (
    NO_DIAMETERS,
    AxialDiameters,
    axial_diameters,
)
from contrastdiagnosis.imaging.patch import (
    PatchGeometry,
    Region,
    crop_patch,
    voxels_under_patch,
)
from contrastdiagnosis.imaging.reading.scan_image import MIN_SLICES
from contrastdiagnosis.imaging.volume import (
    Volume,
    check_ct,
    check_finite,
    check_spread,
    holds_air,
    measured_range,
)
from contrastdiagnosis.maps.explanation import Explanation, explain_pairs
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.map_variant import LocalCam
from contrastdiagnosis.protocol.revision import Revision
from contrastdiagnosis.trust.confidence import Confidence, vote_doubts
from contrastdiagnosis.trust.confidence_rule import SPECK_MM3
from contrastdiagnosis.trust.facts import NoduleFacts, nodule_facts

SHOWN_CASES = 6
"""Nearest cases that are shown one by one, whatever the number that votes."""


NO_FINDING = (
    "that no nodule is told of does not mean that none is there: large masses, nodules beside"
    " larger structures and very small ones are missed"
)
"""Said wherever no nodule was found: a patient may be harmed by what is missed."""


@dataclass(frozen=True)
class SimilarCase:
    """One of the nearest cases."""

    case: Case
    distance: float
    similarity: float
    """Share of matched pairs at least as far apart, in (0, 1]."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Everything that is told about a nodule. Research use only."""

    point_ras_mm: tuple[float, float, float]
    encoding: Encoding
    nodule: NDArray[np.bool_]
    """(D, H, W) on the patch grid: what was outlined at the point, also if it is no nodule."""
    mask: Region
    """The nodule, bool on the volume's own grid; empty where there is none."""
    volume_mm3: float
    """0 where there is no nodule."""
    diameters: AxialDiameters
    """0 where there is no nodule."""
    cases: tuple[SimilarCase, ...]
    """The nearest cases, nearest first, as many as are shown."""
    voters: int
    """How many of the nearest cases voted."""
    malignant_voters: int
    score: float
    """Share of malignant voters, weighted as the bundle's `VoteRule` weighs them."""
    probability: float
    """Calibrated probability that readers would suspect malignancy."""
    confidence: Confidence
    facts: NoduleFacts
    notices: tuple[str, ...]
    """Fallbacks that were taken; the diagnosis stands, but the user should know."""
    concepts: ConceptPrediction | None = None
    """The second line of evidence; None where the bundle has no concept head, or where there is
    nothing to judge."""

    @property
    def found(self) -> bool:
        """Whether something was outlined at the point that may be a nodule."""
        return may_be_nodule(self.confidence, self.facts)

    @property
    def judged(self) -> bool:
        """Whether there is something to judge; if not, the vote is about no nodule."""
        return self.confidence.judged

    @property
    def malignant(self) -> bool:
        """Whether the vote's calibrated probability exceeds one half."""
        return self.probability > 0.5

    @property
    def verdict(self) -> str | None:
        """What the vote says, "malignant" or "benign"; None where there is nothing to judge."""
        if not self.judged:
            return None
        return "malignant" if self.malignant else "benign"

    @property
    def finding(self) -> str:
        """The verdict, or "no nodule", or "not judged" for what there is no verdict on."""
        return self.verdict or ("no nodule" if self.confidence.nothing_there else "not judged")

    @property
    def disagreement(self) -> str:
        """A sentence where the cases and the concepts say different things, else empty."""
        if self.concepts is None or self.concepts.malignant == self.malignant:
            return ""
        cases, concepts = ("malignant", "benign") if self.malignant else ("benign", "malignant")
        return f"the similar cases say {cases}, the concepts say {concepts}: weigh both"


def may_be_nodule(confidence: Confidence, facts: NoduleFacts) -> bool:
    """Whether what was outlined has a size worth telling; of a speck in a slab it would mislead."""
    if confidence.judged:
        return True
    return not confidence.nothing_there and facts.volume_mm3 >= SPECK_MM3


class Diagnoser:
    """One bundle on one device, ready for clicks."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        network = copy.deepcopy(bundle.network).to(memory_format=torch.channels_last_3d)
        self.network: NoduleNet = network.to(self.device)
        self.head: ConceptHead | None = copy.deepcopy(bundle.head)
        if self.head is not None:
            self.head.to(self.device)

    @property
    def geometry(self) -> PatchGeometry:
        """Grid and window of the patches."""
        return self.bundle.info.geometry

    def encode(self, volume: Volume, point_ras_mm: ArrayLike) -> Encoding:
        """What the network says of the tissue around a point.

        Raises:
            InputError: The point lies outside the volume, or the voxels there are no CT.
        """
        point = np.asarray(point_ras_mm, dtype=np.float64)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise InputError(f"wanted a point of 3 finite millimetres (R, A, S), got {point}")
        if not volume.contains(point):
            ends = ([0, n - 1] for n in volume.hu.shape[::-1])
            corners = volume.ras_from_ijk(list(product(*ends)))
            low, high = corners.min(axis=0), corners.max(axis=0)
            raise InputError(
                f"the point {_text(point)} mm RAS lies outside the volume, which reaches from"
                f" {_text(low)} to {_text(high)}"
            )
        self._check_voxels(volume, point)
        patch = crop_patch(volume, point, self.geometry)
        return encode(self.network, [patch], self.device, self.head)[0]

    def diagnose(
        self, volume: Volume, point_ras_mm: ArrayLike, patient_id: str | None = None
    ) -> Diagnosis:
        """The diagnosis of the nodule at a point.

        Args:
            volume: CT in Hounsfield units.
            point_ras_mm: (3,) a point in the nodule, RAS millimetres.
            patient_id: The scan's patient, if it may be among the cases: own cases do not vote.
                If not given, a case of the volume's DICOM series tells the patient.

        Raises:
            InputError: The point or the volume cannot be used, or no case is left to vote.
        """
        encoding = self.encode(volume, point_ras_mm)
        return self.diagnosis_of(encoding, volume, point_ras_mm, patient_id)

    def diagnosis_of(
        self,
        encoding: Encoding,
        volume: Volume,
        point_ras_mm: ArrayLike,
        patient_id: str | None = None,
    ) -> Diagnosis:
        """The diagnosis that follows from what the network said, else as `diagnose`.

        Args:
            encoding: Of the patch at the point.
            volume: The CT.
            point_ras_mm: (3,) the point.
            patient_id: The scan's patient, if it may be among the cases.
        """
        point = np.asarray(point_ras_mm, dtype=np.float64)
        nodule, mask = outline_at(encoding, volume, self.geometry)
        rule = self.bundle.info.vote
        library = self.bundle.library
        patient = patient_id or library.patient_of_series(volume.series_uid)
        nearest = library.nearest(
            encoding.embedding, max(rule.k, SHOWN_CASES), exclude_patient=patient
        )
        voters = nearest[: rule.k]
        score = float(rule.score([n.distance for n in voters], [n.case.malignant for n in voters]))
        probability = float(self.bundle.info.calibration.probability(score))
        diameters = axial_diameters(encoding.probability * nodule, self.geometry.spacing_mm)
        concepts = self.predict_concepts(encoding)
        facts = nodule_facts(encoding, nodule, diameters, volume, point, self.geometry, concepts)
        doubts = vote_doubts(
            nearest[0].distance,
            self.bundle.indicator.threshold,
            probability,
            self.bundle.info.split_vote,
        )
        limits = self.bundle.info.limits
        confidence = limits.confidence(facts, doubts, probability=probability)
        poor = (
            limits.poor_image(facts.quality, probability).notices
            if confidence.judged
            else limits.poor_image_without_verdict(
                facts.quality, nothing_there=bool(confidence.nothing_there)
            )
        )
        if not may_be_nodule(confidence, facts):
            mask, diameters = no_region(volume), NO_DIAMETERS
        return Diagnosis(
            point_ras_mm=(float(point[0]), float(point[1]), float(point[2])),
            encoding=encoding,
            nodule=nodule,
            mask=mask,
            volume_mm3=float(mask.values.sum() * volume.voxel_volume_mm3),
            diameters=diameters,
            cases=tuple(self._similar(n) for n in nearest[:SHOWN_CASES]),
            voters=len(voters),
            malignant_voters=sum(n.case.malignant for n in voters),
            score=score,
            probability=probability,
            confidence=confidence,
            facts=facts,
            notices=(
                *volume.notices,
                *self._notices(encoding, len(voters), patient),
                *poor,
                *([NO_FINDING] if confidence.nothing_there else []),
            ),
            concepts=concepts if confidence.judged else None,
        )

    def predict_concepts(
        self, encoding: Encoding, revision: Revision = Revision()
    ) -> ConceptPrediction | None:
        """The concepts of an encoded patch under a revision; None without a concept head."""
        head, info = self.bundle.head, self.bundle.info
        if head is None or encoding.similarity is None:
            return None
        return predict_concepts(
            head, info.concepts, info.concept_calibration, encoding.similarity, encoding.grid,
            revision,
        )  # fmt: skip

    def revise(self, diagnosis: Diagnosis, volume: Volume | None, revision: Revision) -> Diagnosis:
        """The diagnosis with its concepts corrected; the network is not run again.

        Args:
            diagnosis: Of this diagnoser.
            volume: The CT that it is about; None where only a part of it is at hand, so that it
                cannot be told whether a box lies outside.
            revision: Boxes and rejected concepts.

        Raises:
            InputError: The bundle has no concepts, one is named that it does not know, or a box
                lies outside the volume.
        """
        if not diagnosis.judged:
            raise InputError(f"there is nothing to revise: {diagnosis.confidence.obstacles[0]}")
        if diagnosis.concepts is None:
            raise InputError(f"the bundle {self.bundle.info.name} has no concepts to revise")
        if volume is not None:
            check_boxes(revision.boxes, volume)
        return replace(diagnosis, concepts=self.predict_concepts(diagnosis.encoding, revision))

    def explain(
        self, diagnosis: Diagnosis, options: LocalCam = LocalCam()
    ) -> tuple[Explanation, ...]:
        """Maps of what makes the nodule and each shown case alike and different.

        Args:
            diagnosis: Of this diagnoser.
            options: The variant of the maps.

        Returns:
            One a shown case, in their order; the case's own side where the bundle has its pixels.
        """
        shown = [similar.case.case_id for similar in diagnosis.cases]
        return explain_pairs(
            self.network,
            diagnosis.encoding.patch,
            shown,
            self.bundle.library,
            self.bundle.pixels,
            options,
        )

    def _check_voxels(self, volume: Volume, point: NDArray[np.float64]) -> None:
        """Looks at the voxels around the point, and at all only where these hold no air."""
        near = voxels_under_patch(volume, point, self.geometry)
        check_finite(near)
        check_spread(near)
        if volume.part_of_ct:
            return
        low, high = measured_range(near)
        if len(volume.hu) < MIN_SLICES or low >= 0 or low == high or not holds_air(near):
            check_ct(volume.hu)

    def _similar(self, neighbour: Neighbour) -> SimilarCase:
        similarity = float(self.bundle.indicator.similarity(neighbour.distance))
        return SimilarCase(neighbour.case, neighbour.distance, similarity)

    def _notices(self, encoding: Encoding, voters: int, patient: str | None) -> list[str]:
        notices = []
        covered = float(encoding.patch.valid.mean())
        if covered < 0.995:
            notices.append(
                f"the scan covers {covered:.0%} of the {_size(self.geometry)} around the point;"
                " the rest was taken as air"
            )
        wanted = self.bundle.info.vote.k
        if voters < wanted:
            notices.append(f"only {voters} cases could vote instead of {wanted}")
        if patient is not None:
            own = self.bundle.library.count_of_patient(patient)
            notices.append(
                f"{own} cases of this patient were left out"
                if own
                else "none of the cases is of the patient that was named"
            )
        return notices


def _text(point: NDArray) -> str:
    return "(" + ", ".join(f"{x:.1f}" for x in point) + ")"


def _size(geometry: PatchGeometry) -> str:
    sides = (n * s for n, s in zip(geometry.shape[::-1], geometry.spacing_mm[::-1], strict=True))
    return "x".join(f"{side:.0f}" for side in sides) + " mm"
