"""The one rule of confidence: every reason has its sentence, and nothing else takes a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.trust.confidence_rule import CaseLimits, NoduleGate
from contrastdiagnosis.trust.cues import CUE_NAMES, NO_CUES
from contrastdiagnosis.trust.poor_image import (
    MEASURES_OF,
    Band,
    PoorImage,
    PoorVerdicts,
    QualityDetector,
)

from engine.conftest import SOUND_FACTS, with_quality

GATE = NoduleGate((1.0, 1.0, -2.0, 0.0, -4.0), 0.0, 1.0, (2.5, 2.5, 0.1, 0.0, 0.2))
LIMITS = CaseLimits(0.2, 130.0, 2.5, 0.06, 0.5, 25.0, 35.0, 1.6, GATE)
FACTS = SOUND_FACTS
NODULE = FACTS.cues
NOTHING = replace(FACTS, volume_mm3=0.0, long_mm=0.0, cues=NO_CUES, size_factor=float("nan"))

NOTHING_THERE = {
    "no nodule was found": NOTHING,
    "is a speck of 3.1 mm3, smaller than what is called a nodule": replace(FACTS, volume_mm3=3.1),
    "goes on beyond its outline on two opposite": replace(FACTS, cues=replace(NODULE, through=1.1)),
    "4.0 times as long as wide": replace(
        FACTS, cues=replace(NODULE, elongation=np.log(4), certainty=1.2)
    ),
    "much around it looks the same": replace(FACTS, cues=replace(NODULE, alone=-2.0)),
    "its outline is uncertain": replace(FACTS, cues=replace(NODULE, certainty=-1.5)),
    "does not seem to lie in lung: 5%": with_quality(FACTS, lung_share=0.05),
}
NOT_JUDGEABLE = {
    "too small to be judged: 16 mm3, nearly all cases have at least 25 mm3": replace(
        FACTS, volume_mm3=16.0
    ),
    "reaches beyond the part of the scan": replace(FACTS, beyond_patch=1.0),
    "longest diameter 36 mm, that of nearly all cases at most 35 mm": replace(FACTS, long_mm=36.0),
    "shows only 4% of the tissue around the point: neither a nodule nor": replace(
        FACTS, covered_share=0.04
    ),
    "ends on both sides of what was found": replace(FACTS, cut_share=0.95, edge_mm=0.5),
    "60% of what was found lies where the scan measured nothing": replace(
        FACTS, unmeasured_share=0.6, edge_mm=0.0
    ),
}
DOUBTS = {
    "at 32 mm it is a mass rather than a nodule": replace(FACTS, long_mm=32.0),
    "noisier than those of the cases: 140 HU": with_quality(FACTS, noise_hu=140.0),
    "slices or pixels are too far apart: 5.0 mm": with_quality(FACTS, slice_mm=5.0),
    "reaches to where the scan measured nothing": replace(FACTS, edge_mm=1.0),
    "shows only 30% of the tissue around the point, of less than 50%": replace(
        FACTS, covered_share=0.3
    ),
    "concepts of size contradict the measured size, 500 mm3, by a factor of 2.4": replace(
        FACTS, size_factor=2.4
    ),
}


def test_a_nodule_like_the_cases_is_judged_and_sure():
    told = LIMITS.confidence(FACTS)
    assert told.judged and told.confident and told.reasons == ()


@pytest.mark.parametrize("sentence", NOTHING_THERE)
def test_there_is_no_verdict_where_there_is_no_nodule(sentence):
    told = LIMITS.confidence(NOTHING_THERE[sentence])
    assert not told.judged and not told.confident
    assert len(told.nothing_there) == 1 and sentence in told.nothing_there[0]


@pytest.mark.parametrize("sentence", NOT_JUDGEABLE)
def test_there_is_no_verdict_on_what_cannot_be_judged(sentence):
    told = LIMITS.confidence(NOT_JUDGEABLE[sentence])
    assert not told.judged and told.nothing_there == ()
    assert len(told.not_judgeable) == 1 and sentence in told.not_judgeable[0]


@pytest.mark.parametrize("sentence", DOUBTS)
def test_a_doubt_leaves_the_verdict_and_takes_the_confidence(sentence):
    told = LIMITS.confidence(DOUBTS[sentence])
    assert told.judged and not told.confident
    assert len(told.reasons) == 1 and sentence in told.reasons[0]


def test_where_there_is_no_verdict_nothing_is_said_against_it():
    """A split vote would tell a percentage of what is no nodule."""
    told = LIMITS.confidence(with_quality(NOTHING, slice_mm=8.0), ["the vote is split"])
    assert told.reasons == ("no nodule was found at the point",)
    assert not LIMITS.confidence(FACTS, ["the vote is split"]).confident


@pytest.mark.parametrize("sentence", NOTHING_THERE)
def test_that_there_is_no_nodule_cannot_be_told_from_a_slab(sentence):
    told = LIMITS.confidence(replace(NOTHING_THERE[sentence], covered_share=0.3))
    assert told.nothing_there == () and not told.judged
    assert "neither a nodule nor that there is none" in told.not_judgeable[0]
    assert sentence in told.not_judgeable[1]
    known = LIMITS.confidence(replace(NOTHING_THERE[sentence], covered_share=0.3), whole_scan=False)
    assert known.nothing_there


def test_a_mass_is_not_called_a_vessel():
    """The gate was fitted to nodules: what is larger is told to be larger, whatever its cues."""
    for mass in (replace(FACTS, long_mm=50.0), replace(FACTS, beyond_patch=1.0)):
        told = LIMITS.confidence(replace(mass, cues=replace(NODULE, through=1.2)))
        assert told.nothing_there == () and "larger than the cases" in told.not_judgeable[0]


@pytest.mark.parametrize("whole_scan", [True, False])
def test_a_mass_that_leaves_little_lung_is_not_denied(whole_scan):
    for mass in (replace(FACTS, long_mm=50.0), replace(FACTS, beyond_patch=1.0)):
        told = LIMITS.confidence(with_quality(mass, lung_share=0.05), whole_scan=whole_scan)
        assert told.nothing_there == () and not told.judged
        assert "larger than the cases" in told.not_judgeable[0]
        assert "does not seem to lie in lung" in told.not_judgeable[1]


def test_a_file_cut_on_purpose_is_not_doubted_for_ending():
    ends = replace(FACTS, covered_share=0.04, cut_share=1.0, edge_mm=0.0, unmeasured_share=0.6)
    assert LIMITS.confidence(ends, whole_scan=False).confident
    assert not LIMITS.confidence(ends).judged


def test_limits_that_are_not_known_are_not_enforced():
    wild = with_quality(FACTS, noise_hu=500.0, slice_mm=20.0, lung_share=0.0)
    wild = replace(wild, long_mm=39.0,
                   beyond_patch=1.0,
                   volume_mm3=0.5, covered_share=0.01, size_factor=9.0,
                   cues=replace(NODULE, through=1.2))  # fmt: skip
    assert CaseLimits().confidence(wild).confident
    assert not CaseLimits().confidence(NOTHING).judged


def test_lung_without_noise_to_measure_is_not_noisy():
    assert LIMITS.confidence(with_quality(FACTS, noise_hu=float("nan"))).confident


def test_the_gate_is_its_definition():
    cues = [getattr(NODULE, name) for name in CUE_NAMES]
    assert GATE.score(NODULE) == pytest.approx(np.dot(cues, GATE.weights) + GATE.intercept)
    assert GATE.passes(NODULE) and not GATE.passes(replace(NODULE, through=1.2))


@pytest.mark.parametrize("name", CUE_NAMES)
def test_the_cue_that_is_told_is_the_one_that_speaks_most_against_a_nodule(name):
    """Each weight by its distance from the typical nodule; made typical, it counts no more."""
    gate = NoduleGate((1.0, 1.0, -2.0, 0.01, -4.0), 0.0, 1.0, (2.5, 2.5, 0.1, 0.0, 0.2))
    off = {"certainty": -1.0, "alone": -1.0, "elongation": 2.0, "density_hu": -700, "through": 1.2}
    strange = replace(NODULE, **{name: off[name]})
    assert gate.strangest(strange) == name


@pytest.mark.parametrize(
    "numbers",
    [
        ((1.0,), 0.0, 0.0, (0.0,) * 5),
        ((1.0,) * 5, 0.0, 0.0, (0.0,)),
        ((1.0,) * 5, np.nan, 0.0, (0.0,) * 5),
    ],
)
def test_an_impossible_gate_is_refused(numbers):
    with pytest.raises(ValueError, match="gate: "):
        NoduleGate(*numbers)


NOISE = PoorImage(
    "noise", (1.0, *[0.0] * (len(MEASURES_OF["noise"]) - 1)), -np.log(50.0), 0.0,
    (20.0, *[1.0] * (len(MEASURES_OF["noise"]) - 1)),
)  # fmt: skip
"""Tells noise above 50 HU."""

NOISY = with_quality(FACTS, noise_hu=90.0)
BANDS = (Band(0.0, 0.1, 0.04), Band(0.1, 0.9, 0.23), Band(0.9, 1.0, 0.04))
WORTH = PoorVerdicts("noise", low=0.1, high=0.9, bands=BANDS)


@pytest.mark.parametrize(
    ("probability", "sure"),
    [(0.05, True), (0.1, True), (0.11, False), (0.89, False), (0.9, True), (None, False)],
)
def test_a_verdict_in_a_poor_image_is_as_sure_as_such_verdicts_were(probability, sure):
    limits = CaseLimits(detector=QualityDetector((NOISE,)), poor_verdicts=(WORTH,))
    told = limits.confidence(NOISY, probability=probability)
    assert told.judged and told.confident == sure
    said = limits.poor_image(NOISY.quality, probability)
    (sentence,) = said.notices if sure else said.doubts
    assert "90 HU" in sentence
    if probability is not None:
        assert ("4% of the verdicts" if sure else "23% of the verdicts") in sentence
    assert told.doubts == said.doubts
    assert limits.confidence(FACTS, probability=0.5).confident


def test_no_verdict_is_sure_in_an_image_of_which_nothing_is_known():
    limits = CaseLimits(detector=QualityDetector((NOISE,)))
    assert not limits.confidence(NOISY, probability=0.999).confident
    never = replace(WORTH, low=0.0, high=1.0)
    limits = replace(limits, poor_verdicts=(never,))
    assert not any(limits.confidence(NOISY, probability=p).confident for p in (0.0, 0.5, 1.0))


@pytest.mark.parametrize("probability", [0.05, 0.5, None])
def test_an_image_poorer_than_those_of_the_cases_is_told_once_and_never_sure(probability):
    """The limit of the cases and the detector speak of the same noise: one sentence."""
    limits = CaseLimits(
        max_noise_hu=80.0, detector=QualityDetector((NOISE,)), poor_verdicts=(WORTH,)
    )
    said = limits.poor_image(NOISY.quality, probability)
    (doubt,) = said.doubts
    assert doubt.startswith("the scan is noisier than those of the cases: 90 HU")
    assert "% of the verdicts" not in doubt  # Of images like that nothing was measured.
    assert not said.notices
    assert not limits.confidence(NOISY, probability=probability).confident
    within = replace(limits, max_noise_hu=95.0)
    assert within.confidence(NOISY, probability=0.05).confident


@pytest.mark.parametrize("nothing_there", [False, True])
def test_a_poor_image_is_told_without_a_verdict_too(nothing_there):
    """Where no nodule is told of, it may have been missed: by how often that happened."""
    limits = CaseLimits(max_slice_mm=2.5, detector=QualityDetector((NOISE,)))
    missed = "in such images 12% of the nodules that were pointed at were missed"
    for worth, wanted in (
        ((), "nodules may be missed in such images"),
        ((WORTH,), "nodules may be missed in such images"),
        ((replace(WORTH, missed=0.12),), missed),
    ):
        judges = replace(limits, poor_verdicts=worth)
        (noise,) = judges.poor_image_without_verdict(NOISY.quality, nothing_there)
        assert noise == "the image is noisy: 90 HU in the lung around the point" + (
            f" ({wanted})" if wanted and nothing_there else ""
        )
        # With thick slices too it is another image than those in which that was measured.
        thick = with_quality(NOISY, slice_mm=8.0).quality
        noise, slices = judges.poor_image_without_verdict(thick, nothing_there)
        may = " (nodules may be missed in such images)" * nothing_there
        assert noise == "the image is noisy: 90 HU in the lung around the point"
        assert slices.startswith("the slices or pixels are too far apart: 8.0 mm")
        assert slices.endswith(may or "2.5 mm")
    assert limits.poor_image_without_verdict(FACTS.quality, nothing_there) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "fog"},
        {"low": 0.95},
        {"high": 1.2},
        {"bands": (Band(0.5, 1.0, -0.1),)},
        {"bands": BANDS[::-1]},
        {"missed": 1.1},
    ],
)
def test_odd_figures_of_poor_images_are_refused(change):
    with pytest.raises(ValueError, match="poor verdicts: wanted"):
        replace(WORTH, **change)
