"""`QualityDetector`: what is poor about the image around a point, by what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.imaging.image_quality import ImageQuality

MEASURES_OF: Mapping[str, tuple[str, ...]] = {
    "noise": (
        "noise_hu", "fine_noise_hu", "in_plane_mm", "mean_edge_mm", "fall_db", "fall_fine_db",
        "alike", "alike_fine", "alike_far", "anisotropy", "slice_mm",
    ),
    "thick slices": (
        "slice_mm", "apart_mm", "thickness_mm", "change", "alike", "alike_fine", "alike_far",
        "alike_far_fine", "in_plane_mm",
    ),
    "blur": ("in_plane_mm", "fall_coarse_db", "fall_db"),
    "motion": (
        "ghost", "in_plane_mm", "fall_coarse_db", "fall_db", "alike", "alike_far",
        "change", "thickness_mm", "slice_mm",
    ),
}  # fmt: skip
"""By which each kind of poor image is told. What noise there should be depends on the kernel, which
the edges and the fall of the spectrum tell; how alike slices should be, on their distance."""

KINDS = tuple(MEASURES_OF)

SEVERAL = "several"
"""Stands for a kind where verdicts are in images that are poor in more than one way."""

SMEARING = ("thick slices", "blur", "motion")
"""Kinds that look like each other."""

EXPLAINED = 0.5
"""Thick slices and motion are told only if they exceed their threshold by so much of what the
strongest smearing kind does: it explains the others. Blur within slices is explained by none."""

THICK_MM = 3.0
"""Slices are told to be thick from here on: those of 2.5 mm are the cases' own, and thin ones that
were interpolated once look like these."""

STILL_HU = 6.0
"""Less noise than in the lung of any case: what its spectrum falls by is not noise's but that of
vessels, as if it were blurred."""

SHARP_MM = 1.7
"""Edges of half of the good images are wider, and those of no image that was blurred are narrower
while its noise is below `STILL_HU` (training/LOG.md): noise makes edges look sharper."""

MOST_BEYOND = 8.0
"""Log odds beyond a threshold that count for that: more is no surer."""

WIDER = 1.2
"""Details that are lost are told in millimetres if they are so much wider than in good images."""

LEAST = 0.05
"""Of millimetres, HU and shares: below this they are told as this, because of their logarithm."""


ASKED = {
    "noise": ("noise_hu",),
    "thick slices": ("thickness_mm", "slice_mm"),
    "blur": ("in_plane_mm", "fall_coarse_db", "fall_db"),
    "motion": ("ghost", "change", "alike"),
}
"""Measures without all of which nothing is known of a kind, whatever the others say."""


def unmeasured(kind: str, measure: Callable[[str], ArrayLike]) -> NDArray[np.bool_]:
    """Whether nothing was measured by which a kind is told.

    Args:
        kind: One of `KINDS`.
        measure: Gives a measure by its name, of one image or of many; NaN where there is none.

    Example:
        >>> bool(unmeasured("noise", {"noise_hu": float("nan")}.get))
        True
    """
    missing = [np.isnan(np.asarray(measure(name), dtype=np.float64)) for name in ASKED[kind]]
    return np.asarray(np.logical_and.reduce(missing))


def too_slight(kind: str, measure: Callable[[str], ArrayLike]) -> NDArray[np.bool_]:
    """Whether a kind is not to be told, whatever its regression says.

    Args:
        kind: One of `KINDS`.
        measure: Gives a measure by its name, of one image or of many.

    Example:
        >>> bool(too_slight("thick slices", {"thickness_mm": 2.4, "slice_mm": 1.0}.get))
        True
        >>> bool(too_slight("thick slices", {"thickness_mm": float("nan"), "slice_mm": 5.0}.get))
        False
        >>> still = {"in_plane_mm": 1.2, "fall_db": 9.0, "fall_coarse_db": 4.0, "noise_hu": 0.0}
        >>> bool(too_slight("blur", still.get))
        True
    """
    slight = unmeasured(kind, measure)
    if kind == "thick slices":
        slight |= np.fmax(measure("thickness_mm"), measure("slice_mm")) < THICK_MM
    if kind == "blur":
        still = np.asarray(measure("noise_hu"), dtype=np.float64) < STILL_HU
        slight |= still & (np.asarray(measure("in_plane_mm"), dtype=np.float64) < SHARP_MM)
    return slight


def as_told(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A measure as the regression takes it: factors of lengths, HU and shares, else differences.

    Example:
        >>> as_told("slice_mm", [1.0, 0.0]).round(2).tolist()
        [0.0, -3.0]
        >>> as_told("fall_db", 9.0).tolist()
        9.0
    """
    values = np.asarray(values, dtype=np.float64)
    if name.endswith("_db") or name.startswith("alike"):
        return values
    return np.log(np.maximum(values, LEAST))


def told_measures(kind: str, measures: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) measures of a kind as its regression takes them."""
    columns = zip(MEASURES_OF[kind], measures.T, strict=True)
    return np.stack([as_told(name, column) for name, column in columns], axis=1)


def apart_from_typical(
    kind: str, measures: NDArray[np.float64], typical: ArrayLike, reach: ArrayLike = ()
) -> NDArray[np.float64]:
    """(N, M) how far measures are from typical ones; 0 where they are missing.

    Args:
        kind: One of `KINDS`.
        measures: (N, M).
        typical: (M,).
        reach: (M,) or none, the most that counts.
    """
    apart = told_measures(kind, measures) - told_measures(kind, np.array([typical]))
    apart = np.where(np.isfinite(apart), apart, 0.0)
    most = np.asarray(reach, dtype=np.float64)
    return np.asarray(np.clip(apart, -most, most) if most.size else apart)


def products_of(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each two columns, each with itself too.

    Example:
        >>> products_of(np.array([[2.0, 3.0]])).tolist()
        [[4.0, 6.0, 9.0]]
    """
    first, second = np.triu_indices(apart.shape[1])
    return np.asarray(apart[:, first] * apart[:, second])


@dataclass(frozen=True)
class PoorImage:
    """Logistic regression that tells one kind of poor image.

    The log odds are `intercept`, and for each measure its weight times what `as_told` makes of it,
    and for each two of them the weight of their product, of differences from the typical ones:
    what slices should be like depends on the noise, and noise on the kernel.

    Attributes:
        kind: One of `KINDS`.
        weights: One a measure, in the order of `MEASURES_OF`.
        intercept: Log odds where all measures are told as 0.
        threshold: Log odds from which the image is told to be poor.
        typical: The measures of good images, medians; they stand in for what cannot be measured.
        products: One each two measures, the first with itself, with the second and so on; none
            where they do not count.
        reach: How far from the typical measure each one counts, as `as_told` makes it: beyond it
            nothing was learnt. As far as it goes if none.
    """

    kind: str
    weights: tuple[float, ...]
    intercept: float
    threshold: float
    typical: tuple[float, ...]
    products: tuple[float, ...] = ()
    reach: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"poor image: wanted a kind among {KINDS}, got {self.kind!r}")
        count = len(MEASURES_OF[self.kind])
        for name, wanted in (("weights", count), ("typical", count)):
            self._check_length(name, wanted)
        for name, wanted in (("products", count * (count + 1) // 2), ("reach", count)):
            if getattr(self, name):
                self._check_length(name, wanted)
        numbers = [
            *self.weights, *self.typical, *self.products, *self.reach, self.intercept,
            self.threshold,
        ]  # fmt: skip
        if not np.isfinite(numbers).all():
            raise ValueError(f"{self.kind}: its numbers must be finite")

    def _check_length(self, name: str, wanted: int) -> None:
        if len(getattr(self, name)) != wanted:
            raise ValueError(f"{self.kind}: wanted {wanted} {name}, got {len(getattr(self, name))}")

    def score(self, quality: ImageQuality) -> float:
        """Log odds of being poor in this way."""
        measures = np.array([getattr(quality, name) for name in MEASURES_OF[self.kind]])
        return float(self.scores(measures[None])[0])

    def scores(self, measures: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds of being poor in this way, (N,).

        Args:
            measures: (N, M) those of `MEASURES_OF` as they are; NaN where there is none.
        """
        apart = apart_from_typical(self.kind, measures, self.typical, self.reach)
        base = told_measures(self.kind, np.array([self.typical]))
        told = self.intercept + (base + apart) @ np.array(self.weights)
        if self.products:
            told = told + products_of(apart) @ np.array(self.products)
        return np.asarray(told)

    def tells(self, quality: ImageQuality) -> bool:
        """Whether the image is poor in this way."""
        return self.beyond(quality) >= 0

    def beyond(self, quality: ImageQuality) -> float:
        """Log odds beyond the threshold; minus infinity where it is too slight, or not measured."""
        slight = too_slight(self.kind, lambda name: getattr(quality, name))
        return -np.inf if slight else self.score(quality) - self.threshold

    def sentence(self, quality: ImageQuality) -> str:
        """What is poor about the image, with its number."""
        good = dict(zip(MEASURES_OF[self.kind], self.typical, strict=True))
        return _SENTENCES[self.kind](quality, good)


@dataclass(frozen=True)
class QualityDetector:
    """Tells all kinds of poor image that it knows.

    Attributes:
        kinds: At most one of each of `KINDS`.
    """

    kinds: tuple[PoorImage, ...]

    def __post_init__(self) -> None:
        names = [poor.kind for poor in self.kinds]
        if len(set(names)) < len(names):
            raise ValueError(f"wanted each kind of poor image once, got {names}")

    def told(self, quality: ImageQuality) -> tuple[str, ...]:
        """The kinds that the image is poor in."""
        return tuple(poor.kind for poor in self.poor(quality))

    def sentences(self, quality: ImageQuality) -> dict[str, str]:
        """What is poor about the image, by kind; empty where nothing is."""
        return {poor.kind: poor.sentence(quality) for poor in self.poor(quality)}

    def poor(self, quality: ImageQuality) -> Sequence[PoorImage]:
        """The detectors of the kinds that the image is poor in."""
        beyond = np.array([poor.beyond(quality) for poor in self.kinds])
        names = tuple(poor.kind for poor in self.kinds)
        told = told_of(beyond[None], names)[0]
        return [poor for poor, t in zip(self.kinds, told.tolist(), strict=True) if t]

    def unknown(self, quality: ImageQuality) -> str:
        """A sentence that names what could not be measured; empty where all could."""
        unknown = [p.kind for p in self.kinds if unmeasured(p.kind, partial(getattr, quality))]
        if not unknown:
            return ""
        asked = [_ASKED_AS[kind] for kind in unknown]
        listed = ", ".join(asked[:-1]) + (" or " if len(asked) > 1 else "") + asked[-1]
        return f"whether {listed} cannot be measured here"


def told_of(beyond: NDArray[np.float64], kinds: Sequence[str]) -> NDArray[np.bool_]:
    """Which kinds are told, (N, K).

    Args:
        beyond: (N, K) log odds less the threshold.
        kinds: Names of the K kinds.

    Example:
        >>> told_of(np.array([[0.1, 4.0, 1.0, 1.0]]), KINDS).tolist()
        [[True, True, True, False]]
    """
    smearing, explained = np.isin(kinds, SMEARING), np.isin(kinds, ("thick slices", "motion"))
    strongest = np.where(smearing, beyond, 0).clip(0, MOST_BEYOND).max(axis=1, keepdims=True)
    return np.asarray((beyond >= 0) & (~explained | (beyond >= EXPLAINED * strongest)))


class Band(NamedTuple):
    """Verdicts of some probabilities, and how many of them were wrong.

    Attributes:
        low: The least probability of malignancy.
        high: The highest one.
        wrong: Share of these verdicts that were wrong.
    """

    low: float
    high: float
    wrong: float


@dataclass(frozen=True)
class PoorVerdicts:
    """What verdicts in images that are poor in one way are worth, measured on unseen nodules.

    Attributes:
        kind: One of `poor_image.KINDS`, or `SEVERAL`.
        low: A verdict of benign is sure from this probability down; 0 if none is.
        high: A verdict of malignant is sure from this probability up; 1 if none is.
        bands: How many verdicts were wrong, by their probability, in ascending order; none where
            that was not measured.
        missed: Share of the nodules in such images in which no nodule was told of; None where that
            was not measured.
    """

    kind: str
    low: float
    high: float
    bands: tuple[Band, ...] = ()
    missed: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, SEVERAL):
            wanted = (*KINDS, SEVERAL)
            raise ValueError(f"poor verdicts: wanted a kind among {wanted}, got {self.kind!r}")
        of_bands = [share for band in self.bands for share in band]
        shares = (self.low, self.high, self.missed or 0.0, *of_bands)
        ends = [end for band in self.bands for end in band[:2]]
        if (
            not all(0 <= share <= 1 for share in shares)
            or self.low > self.high
            or ends != sorted(ends)
        ):
            raise ValueError(
                "poor verdicts: wanted shares from 0 to 1, low below high and bands in ascending"
                f" order, got {self}"
            )

    def sure(self, probability: float) -> bool:
        """Whether a verdict is sure in such an image."""
        return 0 < self.low >= probability or 1 > self.high <= probability

    def wrong_text(self, probability: float) -> str:
        """How many verdicts of about this probability were wrong; empty where it is not known."""
        mine = [band for band in self.bands if band.low <= probability <= band.high]
        if not mine:
            return ""
        # Where two bands meet the verdict is one of the surer ones.
        band = mine[0] if probability <= 0.5 else mine[-1]
        return (
            f"in {self._images} {band.wrong:.0%} of the verdicts at {100 * band.low:.0f} to"
            f" {band.high:.0%} were wrong"
        )

    @property
    def missed_text(self) -> str:
        """What is said where no nodule is told of."""
        if self.missed is None:
            return f"nodules may be missed in {self._images}"
        return (
            f"in {self._images} {self.missed:.0%} of the nodules that were pointed at were missed"
        )

    @property
    def _images(self) -> str:
        return "images poor in several ways" if self.kind == SEVERAL else "such images"


class PoorImageSaid(NamedTuple):
    """What is said of a poor image: against the verdict, or beside it."""

    doubts: tuple[str, ...]
    notices: tuple[str, ...]


def said_of_poor_image(
    told: Mapping[str, str],
    beyond: Mapping[str, str],
    worth: Sequence[PoorVerdicts],
    probability: float | None,
) -> PoorImageSaid:
    """What is poor about an image, and whether a verdict in it is sure all the same.

    Args:
        told: Sentences by kind of what is poor.
        beyond: Sentences by kind of what is poorer than the images of all cases: no verdict in
            such an image is sure, and no figure is told of it. They stand for what is told of the
            same kind.
        worth: What verdicts are worth by kind; of other kinds none is sure.
        probability: Calibrated, of the vote; None where there is no verdict.
    """
    doubts, notices = [], []
    sentences, by_kind = {**told, **beyond}, _worth_by_kind(told, beyond, worth)
    for kind, sentence in sentences.items():
        verdicts = by_kind.get(kind)
        if beyond or verdicts is None or probability is None:
            # What verdicts are worth was measured of no image that is so poor.
            doubts.append((sentence, ""))
            continue
        measured = verdicts.wrong_text(probability)
        if not verdicts.sure(probability):
            doubts.append((sentence, measured))
        else:
            sure = "the verdict is sure all the same" + (f": {measured}" if measured else "")
            notices.append((sentence, sure))
    return PoorImageSaid(_with_remarks(doubts), _with_remarks(notices))


def _with_remarks(told: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Sentences with their remarks in brackets; one that holds for several stands behind the last.

    Example:
        >>> _with_remarks([("noisy", "of both"), ("blurred", "of both"), ("and so", "")])
        ('noisy', 'blurred (of both)', 'and so')
    """
    last = {remark: n for n, (_, remark) in enumerate(told)}
    return tuple(
        f"{sentence} ({remark})" if remark and last[remark] == n else sentence
        for n, (sentence, remark) in enumerate(told)
    )


def _worth_by_kind(
    told: Mapping[str, str], beyond: Mapping[str, str], worth: Sequence[PoorVerdicts]
) -> dict[str, PoorVerdicts]:
    """What verdicts in an image are worth, by the kinds that are told of it.

    In an image that is poor in several ways all kinds are worth what was measured of such images.
    """
    by_kind = {verdicts.kind: verdicts for verdicts in worth}
    if len({*told, *beyond}) < 2:
        return by_kind
    return dict.fromkeys(told, by_kind[SEVERAL]) if SEVERAL in by_kind else {}


def said_without_verdict(
    told: Mapping[str, str],
    beyond: Mapping[str, str],
    worth: Sequence[PoorVerdicts],
    nothing_there: bool,
) -> tuple[str, ...]:
    """What is poor about an image in which nothing is judged.

    Args:
        told: As of `said_of_poor_image`.
        beyond: Likewise.
        worth: Tells by kind how many nodules are missed.
        nothing_there: Whether no nodule is told of: how many are missed is said then.
    """
    by_kind = _worth_by_kind(told, beyond, worth)
    said = []
    for kind, sentence in {**told, **beyond}.items():
        remark = ""
        if nothing_there and (beyond or kind not in by_kind):
            # How many are missed was measured of no image that is so poor.
            remark = "nodules may be missed in such images"
        elif nothing_there:
            remark = by_kind[kind].missed_text
        said.append((sentence, remark))
    return _with_remarks(said)


def _noise(quality: ImageQuality, _: Mapping[str, float]) -> str:
    return f"the image is noisy: {quality.noise_hu:.0f} HU in the lung around the point"


def _thick_slices(quality: ImageQuality, _: Mapping[str, float]) -> str:
    thickness_mm = float(np.fmax(quality.thickness_mm, quality.slice_mm))
    told = f"the slices are thick: about {thickness_mm:.1f} mm"
    # Thin slices look like thick ones that overlap where they were interpolated, and where
    # motion blurs them into each other.
    if quality.slice_mm >= THICK_MM:
        return told
    return f"{told}, or interpolation or motion makes them look so"


def _blur(quality: ImageQuality, good: Mapping[str, float]) -> str:
    # Noise makes edges look sharper than they are; NaN is not wider either.
    if not quality.in_plane_mm > WIDER * good["in_plane_mm"]:
        return "the image is blurred"
    return f"the image is blurred: details below {quality.in_plane_mm:.1f} mm are lost"


def _motion(quality: ImageQuality, _: Mapping[str, float]) -> str:
    return "the image is smeared or doubled, as by motion"


_SENTENCES = {
    "noise": _noise,
    "thick slices": _thick_slices,
    "blur": _blur,
    "motion": _motion,
}

_ASKED_AS = {
    "noise": "the image is noisy",
    "thick slices": "its slices are thick",
    "blur": "it is blurred",
    "motion": "it is smeared by motion",
}
