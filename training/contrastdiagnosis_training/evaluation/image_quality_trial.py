"""Detectors of poor images: fitted, and tried on patients that they were not fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.trust.poor_image import (
    KINDS,
    MEASURES_OF,
    PoorImage,
    QualityDetector,
    apart_from_typical,
    products_of,
    told_measures,
    told_of,
    too_slight,
)
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contrastdiagnosis_training.data.degradations.degrade import faults_of
from contrastdiagnosis_training.data.degradations.kernel import PARTIAL_VOLUME_MM, SOFT_MM
from contrastdiagnosis_training.data.degradations.noise import LOW_DOSE_HU
from contrastdiagnosis_training.data.degradations.slices import THICKNESS_MM
from contrastdiagnosis_training.evaluation.quality_rows import QualityRows
from contrastdiagnosis_training.objectives.metrics import auc

FITTED_ON: Mapping[str, tuple[str, ...]] = {
    "noise": ("low_dose", "white_noise", "coarse_noise"),
    "thick slices": ("thick_slices", "own_grid_slices"),
    "blur": ("blur", "soft_kernel"),
    "motion": ("motion",),
}
"""What each kind is learnt from, where it is the only fault and where it is not."""

POOR = 3
"""The least severity that must be told."""

FALSE_ALARMS = 0.05
"""Share of good images that any kind may be told of."""

OTHER_KINDS = 0.2
"""Weight of images that are poor in another way, clean ones in all having 1: enough that thick
slices are seldom called motion, not so much that motion is missed."""

INVERSE_PENALTY = 0.1
"""C of the logistic regression."""

REACH, LEAST_REACH = 0.995, 0.1
"""Quantile of how far measures are from typical ones, beyond which they count no more; at least so
far."""

FWHM = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""


def fit_poor_image(rows: QualityRows, kind: str) -> PoorImage:
    """The regression between images of severity `POOR` and worse and clean ones.

    Each operation weighs the same, and so do clean images in all; those that are poor in another
    way stand beside the clean ones with a weight of `OTHER_KINDS`. The threshold is at even odds.

    Args:
        rows: Clean and poorer images.
        kind: One of `KINDS`.

    Raises:
        InputError: Clean ones or those of the kind are missing.
    """
    severe = rows.severity >= POOR
    poor = has_fault(rows, FITTED_ON[kind]) & severe
    other = has_fault(rows, [o for k in KINDS for o in FITTED_ON[k]]) & severe & ~poor
    if not (poor.any() and rows.clean.any()):
        raise InputError(f"{kind}: wanted clean images and some of {FITTED_ON[kind]}")
    weight = np.zeros(len(rows))
    for part, in_all in ((rows.clean, 1.0), (poor, 1.0), (other, OTHER_KINDS)):
        if part.any():
            _, group = np.unique(rows.operation[part], return_inverse=True)
            share = 1 / np.bincount(group)[group]
            weight[part] = in_all * share / share.sum()
    raw = _measures(rows, kind)
    typical = np.nanmedian(raw[rows.clean], axis=0)
    chosen = weight > 0
    apart = apart_from_typical(kind, raw[chosen], typical)
    reach = np.maximum(np.quantile(np.abs(apart), REACH, axis=0), LEAST_REACH)
    apart = np.clip(apart, -reach, reach)
    values = np.concatenate([apart, products_of(apart)], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=2000))
    sample_weight = weight[chosen] * chosen.sum() / 2
    model.fit(values, poor[chosen], logisticregression__sample_weight=sample_weight)
    scaler, regression = model[0], model[1]
    weights = regression.coef_[0] / scaler.scale_
    linear = weights[: len(reach)]
    # Of the measures as they are told, not of how far they are from typical ones.
    intercept = float(regression.intercept_[0] - weights @ scaler.mean_)
    intercept -= float(linear @ told_measures(kind, typical[None])[0])
    columns = (_rounded(v) for v in (typical, weights[len(reach) :], reach))
    return PoorImage(kind, _rounded(linear), round(intercept, 5), 0.0, *columns)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _measures(rows: QualityRows, kind: str) -> NDArray[np.float64]:
    """(N, M) those that tell a kind."""
    return np.stack([rows.measure(name) for name in MEASURES_OF[kind]], axis=1)


def has_fault(rows: QualityRows, faults: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) whether an image has any of the faults, alone or among others."""
    with_it = [o for o in set(rows.operation.tolist()) if not set(faults).isdisjoint(faults_of(o))]
    return np.isin(rows.operation, with_it)


def scores(rows: QualityRows, poor: PoorImage) -> NDArray[np.float64]:
    """(N,) `PoorImage.score` of each row."""
    return poor.scores(_measures(rows, poor.kind))


def told_scores(rows: QualityRows, poor: PoorImage) -> NDArray[np.float64]:
    """(N,) the scores, minus infinity where what is measured is too slight to be told."""
    return np.where(too_slight(poor.kind, rows.measure), -np.inf, scores(rows, poor))


def fit_detector(rows: QualityRows, false_alarms: float = FALSE_ALARMS) -> QualityDetector:
    """All kinds, with thresholds that let no more than a share of the good images be told.

    Each kind is told of the same share of clean images, as large as all kinds together allow.
    Patients weigh alike, however many images they have.

    Args:
        rows: Clean and poorer images.
        false_alarms: Share of the clean images that are told to be poor in any way.
    """
    kinds = [fit_poor_image(rows, kind) for kind in KINDS]
    clean = rows[rows.clean]
    patients, patient = np.unique(clean.patient_id, return_inverse=True)
    weight = 1 / np.bincount(patient)[patient] / len(patients)
    told = np.stack([told_scores(clean, poor) for poor in kinds])
    # Of nothing, where the patients are too few.
    thresholds = np.maximum(told.max(axis=1), 0) + 1e-3
    for share in np.linspace(0, false_alarms, 101)[1:]:
        wider = np.array([_weighted_quantile(s, weight, 1 - share) for s in told])
        # At even odds where nearly all are too slight to be told anyway.
        wider = np.where(np.isfinite(wider), wider, 0.0)
        if weight[(told >= wider[:, None]).any(axis=0)].sum() > false_alarms:
            break
        thresholds = wider
    return QualityDetector(
        tuple(
            replace(poor, threshold=round(float(threshold), 5))
            for poor, threshold in zip(kinds, thresholds, strict=True)
        )
    )


def _weighted_quantile(
    values: NDArray[np.float64], weight: NDArray[np.float64], share: float
) -> float:
    """The least value from which on the values weigh no more than 1 - share; above all if none."""
    order = np.argsort(values)[::-1]
    fits = np.cumsum(weight[order]) <= 1 - share + 1e-12
    return float(values[order[fits.sum() - 1]] if fits[0] else values.max() + 1e-3)


def left_out(rows: QualityRows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log odds and whether they are told, (N, len(KINDS)), by detectors of other patients' images.

    Rows of a fold are asked of a detector that was fitted to the other folds; rows without a fold
    of one that was fitted to all that have one.
    """
    odds = np.zeros((len(rows), len(KINDS)))
    told = np.zeros(odds.shape, bool)
    for fold in np.unique(rows.fold):
        asked = rows.fold == fold
        held = np.isin(rows.patient_id, rows.patient_id[asked])
        detector = fit_detector(rows[(rows.fold >= 0) & ~held])
        odds[asked] = np.stack([scores(rows[asked], poor) for poor in detector.kinds], axis=1)
        beyond = [told_scores(rows[asked], poor) - poor.threshold for poor in detector.kinds]
        told[asked] = told_of(np.stack(beyond, axis=1), KINDS)
    return odds, told


def auroc_table(rows: QualityRows, odds: NDArray[np.float64]) -> list[dict[str, Any]]:
    """How well each kind's log odds tell each operation and severity from clean images.

    Args:
        rows: N images.
        odds: (N, len(KINDS)).

    Returns:
        One row an operation and severity; severity 0 is all from `POOR` on.
    """
    table = []
    for operation in dict.fromkeys(rows.operation[~rows.clean].tolist()):
        mine = rows.operation == operation
        for severity in [0, *np.unique(rows.severity[mine]).tolist()]:
            these = mine & ((rows.severity == severity) if severity else (rows.severity >= POOR))
            if these.any():
                told = {k: _auroc(odds[:, n], rows.clean, these) for n, k in enumerate(KINDS)}
                row = {"operation": operation, "severity": severity, "n": int(these.sum())}
                table.append(row | told)
    return table


def _auroc(odds: NDArray[np.float64], clean: NDArray[np.bool_], poor: NDArray[np.bool_]) -> float:
    chosen = clean | poor
    return float(auc(odds[chosen], poor[chosen]))


def told_table(rows: QualityRows, told: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Share of the images that each kind is told of: alarms, false or not, and what is confused.

    Args:
        rows: N images; of poorer ones those from `POOR` on count.
        told: (N, len(KINDS)).
    """
    table = []
    for operation in dict.fromkeys(rows.operation.tolist()):
        mine = (rows.operation == operation) & (rows.clean | (rows.severity >= POOR))
        if mine.any():
            shares = {kind: float(told[mine, n].mean()) for n, kind in enumerate(KINDS)}
            whole = {"any": float(told[mine].any(axis=1).mean())}
            table.append({"operation": operation, "n": int(mine.sum())} | shares | whole)
    return table


def came_table(rows: QualityRows, told: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Share of the images that each kind is told of, as they came, a row a source.

    Args:
        rows: N images; poorer ones do not count.
        told: (N, len(KINDS)).
    """
    table = []
    for source in dict.fromkeys(rows.source[rows.clean].tolist()):
        mine = rows.clean & (rows.source == source)
        shares = {kind: float(told[mine, n].mean()) for n, kind in enumerate(KINDS)}
        apart = float(np.median(rows.measure("slice_mm")[mine]))
        table.append({"source": source, "n": int(mine.sum()), "slice_mm": apart} | shares)
    return table


def number_table(rows: QualityRows) -> list[dict[str, Any]]:
    """What is measured of poorer images against what it should be, medians and spread.

    What was added comes on top of what the image had: noise and blur as squares add up, of a
    thickness the larger.
    """
    table = []
    before = dict(zip(rows.image[rows.clean].tolist(), rows[rows.clean].measures, strict=True))
    for operation, (name, added, squares) in _ADDED.items():
        for severity, add in enumerate(added, start=1):
            these = rows[(rows.operation == operation) & (rows.severity == severity)]
            if not len(these):
                continue
            clean = np.array([before[image] for image in these.image.tolist()])
            own = replace(these, measures=clean).measure(name)
            wanted = np.hypot(own, add) if squares else np.maximum(own, add)
            named = {"operation": operation, "severity": severity, "measure": name, "added": add}
            table.append(named | _agreement(these.measure(name), wanted))
    return table


def _agreement(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> dict[str, float]:
    """Medians, and how far what was measured is from what was wanted."""
    ratio = (got / wanted)[np.isfinite(got / wanted)]
    low, middle, high = np.quantile(ratio, (0.05, 0.5, 0.95)) if len(ratio) else [np.nan] * 3
    return {
        "measured": float(np.nanmedian(got)),
        "wanted": float(np.nanmedian(wanted)),
        "ratio": float(middle),
        "ratio_5": float(low),
        "ratio_95": float(high),
        "within_25": float(np.mean(np.abs(ratio - 1) <= 0.25)) if len(ratio) else float("nan"),
    }


_SLABS = ("thick_slices", "sliding_slices", "own_grid_slices")

_ADDED: Mapping[str, tuple[str, tuple[float, ...], bool]] = {
    **dict.fromkeys(FITTED_ON["noise"], ("noise_hu", LOW_DOSE_HU, True)),
    **dict.fromkeys(_SLABS, ("thickness_mm", THICKNESS_MM, False)),
    "blur": ("in_plane_mm", tuple(FWHM * s for s in PARTIAL_VOLUME_MM), True),
    "soft_kernel": ("in_plane_mm", tuple(FWHM * s for s in SOFT_MM), True),
}
"""Measure, what is added by severity, and whether squares add up."""


def table_text(rows: list[dict[str, Any]]) -> str:
    """A table of one of the functions above as text, a line a row."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[n]) for line in [names, *cells]) for n in range(len(names))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [names, *cells]
    )
