"""Which images are told to be poor, and in what words."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from contrastdiagnosis.imaging.image_quality import ImageQuality
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.poor_image import (
    ASKED,
    KINDS,
    MEASURES_OF,
    SEVERAL,
    Band,
    PoorImage,
    PoorVerdicts,
    QualityDetector,
    said_of_poor_image,
    said_without_verdict,
)

GOOD = ImageQuality(
    lung_share=0.7, slice_mm=1.25, apart_mm=2.5, noise_hu=30.0, fine_noise_hu=9.0,
    in_plane_mm=1.7, mean_edge_mm=2.1, thickness_mm=2.2, change=0.9, fall_coarse_db=-2.0,
    fall_db=8.0, fall_fine_db=5.0, alike=0.4, alike_fine=0.3, alike_far=0.25, alike_far_fine=0.17,
    anisotropy=0.18, ghost=0.12,
)  # fmt: skip
TELLING = {
    "noise": ("noise_hu", 50.0), "thick slices": ("thickness_mm", 3.5),
    "blur": ("in_plane_mm", 2.5), "motion": ("ghost", 0.2),
}  # fmt: skip
"""A measure of each kind, and from where on it is poor."""


def poor_image(kind):
    """Tells an image to be poor by one measure alone."""
    name, limit = TELLING[kind]
    names = MEASURES_OF[kind]
    weights = tuple(float(n == name) for n in names)
    typical = tuple(getattr(GOOD, n) for n in names)
    return PoorImage(kind, weights, -float(np.log(limit)), 0.0, typical)


DETECTOR = QualityDetector(tuple(poor_image(kind) for kind in KINDS))


def test_log_odds_are_the_sum_of_the_weighted_measures():
    weights = (0.5, -2.0, 3.0)
    poor = PoorImage("blur", weights, 0.25, 1.0, (1.7, -2.0, 8.0))
    assert MEASURES_OF["blur"] == ("in_plane_mm", "fall_coarse_db", "fall_db")
    wanted = 0.5 * np.log(1.7) - 2 * -2.0 + 3 * 8.0 + 0.25
    assert poor.score(GOOD) == pytest.approx(wanted)


def test_products_are_of_differences_from_typical_measures():
    """Against the sum written out, each measure no farther from the typical one than its reach."""
    typical, reach = (1.5, -3.0, 7.0), (0.05, 2.0, 0.5)
    products = (1.0, -2.0, 0.5, 3.0, 0.25, -1.5)
    poor = PoorImage("blur", (0.5, -2.0, 3.0), 0.25, 1.0, typical, products, reach)
    apart = [0.05, 1.0, 0.5]  # log(1.7 / 1.5) is .125; of 1 dB lost and of 1 dB more.
    base = [np.log(1.5), -3.0, 7.0]
    wanted = 0.25 + sum(w * (b + d) for w, b, d in zip(poor.weights, base, apart, strict=True))
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    wanted += sum(q * apart[i] * apart[j] for q, (i, j) in zip(products, pairs, strict=True))
    assert poor.score(GOOD) == pytest.approx(wanted)
    assert poor.score(replace(GOOD, in_plane_mm=99.0)) == pytest.approx(wanted)
    assert poor.score(ImageQuality()) == pytest.approx(
        0.25 + sum(w * b for w, b in zip(poor.weights, base, strict=True))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_poor_from_the_threshold_on(kind):
    name, limit = TELLING[kind]
    assert DETECTOR.told(GOOD) == ()
    assert DETECTOR.told(replace(GOOD, **{name: limit * 0.99})) == ()
    assert DETECTOR.told(replace(GOOD, **{name: limit * 1.01})) == (kind,)
    stricter = replace(poor_image(kind), threshold=np.log(2.0))
    assert not stricter.tells(replace(GOOD, **{name: limit * 1.99}))
    assert stricter.tells(replace(GOOD, **{name: limit * 2.01}))


def test_the_strongest_smearing_explains_the_weaker():
    """Of a threshold each, the logarithm of the measure over its limit is what is beyond it."""
    bad = replace(GOOD, noise_hu=51.0, thickness_mm=3.5 * np.e**2, ghost=0.2 * np.e**0.9)
    assert DETECTOR.told(bad) == ("noise", "thick slices")
    worse = replace(bad, ghost=0.2 * np.e**1.1)
    assert DETECTOR.told(worse) == ("noise", "thick slices", "motion")
    assert DETECTOR.told(replace(bad, in_plane_mm=2.51)) == ("noise", "thick slices", "blur")
    # Beyond any doubt is not beyond what is sure.
    sure = replace(GOOD, thickness_mm=3.5 * np.e**40, ghost=0.2 * np.e**4.1)
    assert DETECTOR.told(sure) == ("thick slices", "motion")
    assert DETECTOR.told(replace(GOOD, noise_hu=5000.0, ghost=0.201)) == ("noise", "motion")


def test_what_is_not_measured_is_taken_as_typical():
    for kind, poor in zip(KINDS, DETECTOR.kinds, strict=True):
        assert poor.score(ImageQuality()) == pytest.approx(poor.score(GOOD)), kind
    assert DETECTOR.sentences(ImageQuality()) == {}


def test_nothing_at_all_is_no_infinite_number():
    nothing = ImageQuality(*[0.0] * len(fields(ImageQuality)))
    assert np.isfinite([poor.score(nothing) for poor in DETECTOR.kinds]).all()


def test_every_kind_has_its_number():
    bad = replace(GOOD, noise_hu=89.6, thickness_mm=5.04, in_plane_mm=3.24, ghost=0.27)
    assert tuple(DETECTOR.sentences(bad).values()) == (
        "the image is noisy: 90 HU in the lung around the point",
        "the slices are thick: about 5.0 mm, or interpolation or motion makes them look so",
        "the image is blurred: details below 3.2 mm are lost",
        "the image is smeared or doubled, as by motion",
    )
    assert DETECTOR.told(bad) == tuple(DETECTOR.sentences(bad)) == KINDS


def test_slices_are_at_least_as_thick_as_they_lie_apart():
    """Where they are, of too few the thickness cannot be measured."""
    poor = poor_image("thick slices")
    for thickness_mm in (float("nan"), 4.0):
        quality = replace(GOOD, slice_mm=7.5, thickness_mm=thickness_mm)
        assert poor.sentence(quality) == "the slices are thick: about 7.5 mm"


def test_thin_slices_that_look_thick_may_be_interpolated_or_moved_ones():
    """Where they lie far apart there is no doubt."""
    poor, doubt = poor_image("thick slices"), "or interpolation or motion makes them look so"
    assert poor.sentence(replace(GOOD, slice_mm=2.9, thickness_mm=4.0)).endswith(doubt)
    assert not poor.sentence(replace(GOOD, slice_mm=3.0, thickness_mm=4.0)).endswith(doubt)


def test_blur_that_noise_hides_has_no_number():
    """Details of good images are no more than 1.7 mm wide."""
    poor = poor_image("blur")
    assert poor.sentence(replace(GOOD, in_plane_mm=1.8)) == "the image is blurred"
    assert poor.sentence(replace(GOOD, in_plane_mm=2.1)).endswith("below 2.1 mm are lost")


def test_a_number_that_is_not_known_is_not_told():
    assert poor_image("blur").sentence(ImageQuality()) == "the image is blurred"
    thick = ImageQuality(slice_mm=5.0)
    assert poor_image("thick slices").sentence(thick) == "the slices are thick: about 5.0 mm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fog"}, r"wanted a kind among \('noise', .*\), got 'fog'"),
        ({"weights": (1.0,)}, "blur: wanted 3 weights, got 1"),
        ({"typical": (1.0,) * 4}, "blur: wanted 3 typical, got 4"),
        ({"weights": (1.0, float("nan"), 1.0)}, "blur: its numbers must be finite"),
        ({"products": (1.0,) * 5}, "blur: wanted 6 products, got 5"),
        ({"reach": (1.0,) * 2}, "blur: wanted 3 reach, got 2"),
        ({"products": (float("nan"),) * 6}, "blur: its numbers must be finite"),
        ({"threshold": float("inf")}, "blur: its numbers must be finite"),
    ],
)
def test_what_is_no_detector_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(poor_image("blur"), **change)


def test_a_kind_is_told_once():
    with pytest.raises(ValueError, match="wanted each kind of poor image once, got"):
        QualityDetector((poor_image("blur"), poor_image("blur")))


@pytest.mark.parametrize(("thickness_mm", "told"), [(2.9, False), (3.0, True), (np.nan, False)])
def test_slices_as_thin_as_those_of_the_cases_are_never_thick(thickness_mm, told):
    """Whatever the regression says of them: 1 mm slices that were interpolated once look thick."""
    poor = poor_image("thick slices")
    sure = replace(poor, weights=tuple(0.0 for _ in poor.weights), intercept=9.0)
    quality = ImageQuality(thickness_mm=thickness_mm, slice_mm=1.0)
    assert sure.tells(quality) == told and sure.score(quality) == 9.0
    assert QualityDetector((sure,)).told(quality) == (("thick slices",) if told else ())
    assert sure.tells(ImageQuality(thickness_mm=thickness_mm, slice_mm=5.0))
    assert not sure.tells(ImageQuality())


@pytest.mark.parametrize(
    ("low", "high", "sure"),
    [
        (0.2, 0.8, {0.0: True, 0.2: True, 0.21: False, 0.5: False, 0.79: False, 0.8: True}),
        (0.0, 0.8, {0.0: False, 0.1: False, 0.79: False, 1.0: True}),
        (0.2, 1.0, {0.0: True, 0.3: False, 0.99: False, 1.0: False}),
        (0.0, 1.0, {0.0: False, 0.5: False, 1.0: False}),
    ],
)
def test_a_verdict_is_sure_from_its_own_end_on(low, high, sure):
    """At 0 and at 1 no verdict of that sign was sure, however near."""
    worth = PoorVerdicts("noise", low, high)
    assert {p: worth.sure(p) for p in sure} == sure


TWO = {"noise": "noisy", "blur": "blurred"}
BANDS = (Band(0.0, 0.2, 0.05), Band(0.2, 0.5, 0.3), Band(0.5, 0.9, 0.4), Band(0.9, 1.0, 0.03))
ALONE = (PoorVerdicts("noise", 0.2, 0.8, BANDS), PoorVerdicts("blur", 0.2, 0.8, BANDS, 0.1))
BOTH = PoorVerdicts(SEVERAL, 0.1, 0.9, BANDS, 0.25)
MISSED = "nodules may be missed in such images"


@pytest.mark.parametrize("beyond", [{}, {"noise": "noisier than the cases"}])
def test_a_verdict_is_not_sure_because_it_would_be_with_each_fault_alone(beyond):
    """What two faults at once do to verdicts is not what either does."""
    said = said_of_poor_image(TWO, beyond, ALONE, 0.85)
    assert said.doubts == tuple({**TWO, **beyond}.values()) and said.notices == ()
    missed = (said.doubts[0], f"{said.doubts[1]} ({MISSED})")
    assert said_without_verdict(TWO, beyond, ALONE, True) == missed
    assert said_without_verdict(TWO, beyond, ALONE, False) == said.doubts
    alone = said_of_poor_image({"blur": "blurred"}, {}, ALONE, 0.85)
    assert alone.doubts == () and len(alone.notices) == 1
    # A fault that only the limits tell is one too.
    assert said_of_poor_image({"blur": "blurred"}, beyond, ALONE, 0.85).doubts[:1] == (
        ("blurred",) if beyond else ()
    )


def test_verdicts_in_images_with_several_faults_are_worth_what_was_measured_of_such():
    images = "images poor in several ways"
    unsure = said_of_poor_image(TWO, {}, (*ALONE, BOTH), 0.85)
    text = f"in {images} 40% of the verdicts at 50 to 90% were wrong"
    # What holds for both is said once.
    assert unsure.doubts == ("noisy", f"blurred ({text})")
    sure = said_of_poor_image(TWO, {}, (*ALONE, BOTH), 0.95)
    measured = f"in {images} 3% of the verdicts at 90 to 100% were wrong"
    text = f"the verdict is sure all the same: {measured}"
    assert sure.doubts == ()
    assert sure.notices == ("noisy", f"blurred ({text})")
    # Poorer than any case: what was measured of such images does not hold there.
    beyond = {"noise": "noisier than the cases"}
    said = said_of_poor_image(TWO, beyond, (*ALONE, BOTH), 0.95)
    assert said.doubts == ("noisier than the cases", "blurred") and said.notices == ()
    # Nor is how many were wrong where it would not be sure anyway.
    assert said_of_poor_image(TWO, beyond, (*ALONE, BOTH), 0.6).doubts == said.doubts
    for nothing_there in (True, False):
        alone = said_without_verdict({}, beyond, (*ALONE, BOTH), nothing_there)
        assert alone == ("noisier than the cases" + f" ({MISSED})" * nothing_there,)
    missed = said_without_verdict(TWO, {}, (*ALONE, BOTH), True)
    assert missed[1] == f"blurred (in {images} 25% of the nodules that were pointed at were missed)"
    assert "25%" not in said_without_verdict({"blur": "blurred"}, {}, (*ALONE, BOTH), True)[0]


@pytest.mark.parametrize(
    ("probability", "wanted"),
    [(0.0, "5% of the verdicts at 0 to 20%"), (0.2, "5% of the verdicts at 0 to 20%"),
     (0.45, "30% of the verdicts at 20 to 50%"), (0.51, "40% of the verdicts at 50 to 90%"),
     (0.99, "3% of the verdicts at 90 to 100%")],
)  # fmt: skip
def test_how_many_were_wrong_is_told_of_verdicts_like_this_one(probability, wanted):
    """A mean over all that are no surer would say the same of .51 and of .79."""
    assert wanted in ALONE[0].wrong_text(probability)
    (kept,) = said_of_poor_image({"noise": "noisy"}, {}, ALONE, probability)[:2][
        not 0.2 < probability < 0.8
    ]
    assert wanted in kept


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_measured_is_neither_told_nor_taken_for_good(kind):
    """Whatever the other measures say: of noise nothing is known where none was measured."""
    sure = QualityDetector((replace(poor_image(kind), intercept=99.0),))
    poor = replace(GOOD, thickness_mm=5.0)
    assert sure.told(poor) == (kind,) and sure.unknown(poor) == ""
    missing = replace(poor, **dict.fromkeys(ASKED[kind], float("nan")))
    assert sure.told(missing) == ()
    told = sure.unknown(missing)
    assert told.startswith("whether ") and told.endswith(" cannot be measured here")
    limits = CaseLimits(detector=sure)
    assert told in limits.poor_image(missing, 0.5).notices
    assert told in limits.poor_image_without_verdict(missing, True)


def test_all_that_cannot_be_measured_is_named():
    told = DETECTOR.unknown(ImageQuality())
    assert told == (
        "whether the image is noisy, its slices are thick, it is blurred or it is smeared by motion"
        " cannot be measured here"
    )
