"""`CaseLimits`: the one rule that tells whether there is something to judge, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.imaging.image_quality import ImageQuality
from contrastdiagnosis.trust.confidence import Confidence
from contrastdiagnosis.trust.cues import CUE_NAMES, NoduleCues
from contrastdiagnosis.trust.facts import NEAR_MM, NoduleFacts
from contrastdiagnosis.trust.poor_image import (
    PoorImageSaid,
    PoorVerdicts,
    QualityDetector,
    said_of_poor_image,
    said_without_verdict,
)

CUT_THROUGH = 0.8
"""A mask is cut through where this share of its largest cross-section lies at both ends of the
scan. Nodules taper: of 758 in files that end with them, 2 in 100 reach it (training/LOG.md)."""

NODULE_MM = 30.0
"""Larger is called a mass (Fleischner Society, Radiology 2008;246:697)."""

MOST_UNMEASURED = 0.5
"""Where the scan measured less than half of what the mask covers, it is guessed."""

SPECK_MM3 = np.pi / 6 * 3.0**3
"""Of a ball of 3 mm; LIDC's readers outlined what they held for as large (Armato et al., Med Phys
2011;38:915)."""

TOO_FAR_APART = "the slices or pixels are too far apart"
"""Begins the reason for which a coarsely sampled scan is never confident, whichever its axis."""


@dataclass(frozen=True)
class NoduleGate:
    """Logistic regression that tells nodules from normal tissue by their cues.

    Attributes:
        weights: One a cue, in the order of `CUE_NAMES`.
        intercept: Log odds where all cues are 0.
        threshold: Log odds below which it is no nodule.
        typical: The cues of nodules, medians; what is rejected is told by its distance from them.
    """

    weights: tuple[float, ...]
    intercept: float
    threshold: float
    typical: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("weights", "typical"):
            if len(getattr(self, name)) != len(CUE_NAMES):
                raise ValueError(
                    f"gate: wanted {len(CUE_NAMES)} {name}, got {len(getattr(self, name))}"
                )
        numbers = [*self.weights, *self.typical, self.intercept, self.threshold]
        if not np.isfinite(numbers).all():
            raise ValueError("gate: its numbers must be finite")

    def score(self, cues: NoduleCues) -> float:
        """Log odds of being a nodule, NaN where nothing was found."""
        return float(_values(cues) @ np.array(self.weights) + self.intercept)

    def strangest(self, cues: NoduleCues) -> str:
        """Name of the cue that speaks most against a nodule."""
        told = np.array(self.weights) * (_values(cues) - np.array(self.typical))
        return CUE_NAMES[int(told.argmin())]

    def passes(self, cues: NoduleCues) -> bool:
        """Whether the cues are those of a nodule."""
        return not self.score(cues) < self.threshold


@dataclass(frozen=True)
class CaseLimits:
    """How far the cases go; what lies beyond cannot be judged by them. None: not known.

    Attributes:
        min_lung_share: A patch with a smaller share of lung-dense voxels does not lie in lung.
        max_noise_hu: Noisier scans are unlike those of the cases.
        max_slice_mm: So are scans whose voxels lie further apart along any axis.
        min_covered_share: Less of the patch is too little to see a nodule in.
        sure_covered_share: Less of it makes the verdict waver.
        min_volume_mm3: Hardly any case is smaller.
        max_diameter_mm: Hardly any case is longer.
        max_size_factor: By which the measured size may contradict the concepts of size.
        gate: Tells nodules from normal tissue.
        detector: Tells poor images.
        poor_verdicts: What verdicts in these are worth, one a kind; of other kinds none is sure.
    """

    min_lung_share: float = 0.0
    max_noise_hu: float | None = None
    max_slice_mm: float | None = None
    min_covered_share: float = 0.0
    sure_covered_share: float = 0.0
    min_volume_mm3: float = 0.0
    max_diameter_mm: float | None = None
    max_size_factor: float | None = None
    gate: NoduleGate | None = None
    detector: QualityDetector | None = None
    poor_verdicts: tuple[PoorVerdicts, ...] = ()

    def confidence(
        self,
        facts: NoduleFacts,
        doubts: Sequence[str] = (),
        whole_scan: bool = True,
        probability: float | None = None,
    ) -> Confidence:
        """The judgement of what was measured at a point.

        Args:
            facts: What was measured.
            doubts: What else speaks against the verdict: the cases, the vote, the concepts.
            whole_scan: False where a file shows just a nodule's own slices, as LIDC's case folders
                do: that it ends there is then no reason to doubt it.
            probability: Calibrated, of the vote; without it no verdict in a poor image is sure.
        """
        large = self._not_like_the_cases(facts)
        beyond = [*large, *self._too_small(facts)]
        wavering = [
            *self.poor_image(facts.quality, probability).doubts,
            *self._odd_size(facts),
        ]
        absent = self._nothing_there(facts, too_large=bool(large))
        if whole_scan:
            beyond += self._cut_off(facts)
            wavering += self._near_the_edge(facts)
            if absent and facts.covered_share < self.sure_covered_share:
                # A slab of a carcinoma looks like nothing: that there is none cannot be told.
                beyond.insert(0, _little_seen(facts))
                beyond, absent = [*beyond, *absent], []
        if large:
            # A mass may leave little lung around it: that is no reason to deny it.
            beyond, absent = [*beyond, *absent], []
        return Confidence(
            nothing_there=tuple(absent),
            not_judgeable=tuple(dict.fromkeys(beyond)),
            doubts=(*wavering, *doubts),
        )

    def _nothing_there(self, facts: NoduleFacts, too_large: bool) -> list[str]:
        told = []
        if not facts.found:
            told.append("no nodule was found at the point")
        elif facts.volume_mm3 < min(SPECK_MM3, self.min_volume_mm3):
            told.append(
                f"what was found at the point is a speck of {facts.volume_mm3:.1f} mm3, smaller"
                " than what is called a nodule"
            )
        elif self.gate and not too_large and not self.gate.passes(facts.cues):
            # The gate knows what nodules are like, not what masses are.
            strangest = STRANGE[self.gate.strangest(facts.cues)].format(
                times=np.exp(facts.cues.elongation), hu=facts.cues.density_hu
            )
            told.append(f"what was found at the point is not like a nodule: {strangest}")
        if facts.quality.lung_share < self.min_lung_share:
            told.append(
                f"the point does not seem to lie in lung: {facts.quality.lung_share:.0%} of the"
                f" tissue around it is as light as lung, at least {self.min_lung_share:.0%} was"
                " expected; a mass that fills all that is looked at would look the same"
            )
        return told

    def _too_small(self, facts: NoduleFacts) -> list[str]:
        if not SPECK_MM3 <= facts.volume_mm3 < self.min_volume_mm3:
            return []
        return [
            f"what was found is too small to be judged: {facts.volume_mm3:.0f} mm3, nearly all"
            f" cases have at least {self.min_volume_mm3:.0f} mm3"
        ]

    def _not_like_the_cases(self, facts: NoduleFacts) -> list[str]:
        longest = self.max_diameter_mm
        if longest is None:
            return []
        if facts.beyond_patch:
            return [
                "what was found reaches beyond the part of the scan that is looked at, so that it"
                " cannot be measured; it is larger than the cases it would be compared with"
            ]
        if facts.long_mm > longest:
            return [
                f"what was found is larger than the cases it would be compared with: longest"
                f" diameter {facts.long_mm:.0f} mm, that of nearly all cases at most"
                f" {longest:.0f} mm"
            ]
        return []

    def _cut_off(self, facts: NoduleFacts) -> list[str]:
        told = []
        if facts.covered_share < self.min_covered_share:
            told.append(_little_seen(facts))
        if facts.cut_share >= CUT_THROUGH:
            told.append(
                "the scan ends on both sides of what was found: it shows a slab of it, not the"
                " whole"
            )
        if facts.unmeasured_share > MOST_UNMEASURED:
            told.append(
                f"{facts.unmeasured_share:.0%} of what was found lies where the scan measured"
                " nothing, beyond its edge or in its padding"
            )
        return told

    def _near_the_edge(self, facts: NoduleFacts) -> list[str]:
        told = []
        if facts.found and facts.edge_mm < NEAR_MM:
            told.append(
                "the nodule reaches to where the scan measured nothing, its edge or its padding:"
                " it may be cut off there"
            )
        share, wanted = facts.covered_share, self.sure_covered_share
        if self.min_covered_share <= share < wanted:
            told.append(
                f"the scan shows only {share:.0%} of the tissue around the point, of less than"
                f" {wanted:.0%} the verdict wavers"
            )
        return told

    def poor_image(self, quality: ImageQuality, probability: float | None) -> PoorImageSaid:
        """What is poor about an image, and whether a verdict in it is sure all the same.

        Args:
            quality: Measured of it.
            probability: Calibrated, of the vote; None where there is no verdict.
        """
        said = said_of_poor_image(
            self._told(quality), self._unlike_the_cases(quality), self.poor_verdicts, probability
        )
        return PoorImageSaid(said.doubts, (*said.notices, *self._unknown(quality)))

    def poor_image_without_verdict(
        self, quality: ImageQuality, nothing_there: bool
    ) -> tuple[str, ...]:
        """What is poor about an image in which nothing is judged.

        Args:
            quality: Measured of it.
            nothing_there: Whether no nodule is told of there.
        """
        said = said_without_verdict(
            self._told(quality), self._unlike_the_cases(quality), self.poor_verdicts, nothing_there
        )
        return (*said, *self._unknown(quality))

    def _unknown(self, quality: ImageQuality) -> tuple[str, ...]:
        unknown = self.detector.unknown(quality) if self.detector else ""
        return (unknown,) if unknown else ()

    def _told(self, quality: ImageQuality) -> dict[str, str]:
        return self.detector.sentences(quality) if self.detector else {}

    def _unlike_the_cases(self, quality: ImageQuality) -> dict[str, str]:
        told = {}
        if self.max_noise_hu is not None and quality.noise_hu > self.max_noise_hu:
            told["noise"] = (
                f"the scan is noisier than those of the cases: {quality.noise_hu:.0f} HU in the"
                f" lung around the point, at most {self.max_noise_hu:.0f} HU was expected"
            )
        if self.max_slice_mm is not None and quality.slice_mm > self.max_slice_mm:
            told["thick slices"] = (
                f"{TOO_FAR_APART}: {quality.slice_mm:.1f} mm, those of nearly all cases are at most"
                f" {self.max_slice_mm:.1f} mm"
            )
        return told

    def _odd_size(self, facts: NoduleFacts) -> list[str]:
        told = []
        if self.max_diameter_mm is not None and facts.long_mm > NODULE_MM:
            told.append(
                f"at {facts.long_mm:.0f} mm it is a mass rather than a nodule: hardly any of the"
                f" cases it is compared with is longer than {NODULE_MM:.0f} mm"
            )
        if self.max_size_factor is not None and facts.size_factor > self.max_size_factor:
            told.append(
                f"the concepts of size contradict the measured size, {facts.volume_mm3:.0f} mm3,"
                f" by a factor of {facts.size_factor:.1f} in diameter"
            )
        return told


def _little_seen(facts: NoduleFacts) -> str:
    return (
        f"the scan shows only {facts.covered_share:.0%} of the tissue around the point: neither a"
        " nodule nor that there is none can be told from it"
    )


def _values(cues: NoduleCues) -> NDArray[np.float64]:
    return np.array([getattr(cues, name) for name in CUE_NAMES])


STRANGE = {
    "certainty": "its outline is uncertain",
    "alone": "much around it looks the same",
    "elongation": "it is {times:.1f} times as long as wide, as a vessel is",
    "density_hu": "it is of a density, {hu:.0f} HU, that nodules seldom have",
    "through": "it goes on beyond its outline on two opposite sides, as a vessel or a part of"
    " something larger does",
}
"""What is told of the cue that is least like a nodule's."""
