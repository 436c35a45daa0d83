"""The linear parts of a `ConceptHead`, fitted to scores; also after prototypes were removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.special import expit

from contrastdiagnosis.cases.source import UNDECIDED
from contrastdiagnosis.concepts.head import ConceptHead

PRESENCE_PENALTY = 3.0
DECISION_PENALTY = 3.0
"""Weights of half the squared norm of the standardised weights against the cross-entropy summed
over the rows. The latter was chosen from 1 to 30 on folds 0 and 2 (training/LOG.md)."""

ABSENT_PENALTY = 0.3
"""Weight of half the squared logits that concepts add to nodules in which readers do not see them,
summed over the rows: what a concept says where it is absent is not what it is named for."""

DROPOUT = 0.9
"""Share of the concepts denied by most readers that are rejected in a training row: what users
reject. Both were chosen on folds 0 and 2 as what makes rejections pay and costs no AUC
(docs/methods.md 6.5, training/LOG.md)."""

REPEATS = 8
"""How often every row is shown, each time with other concepts rejected."""

LEAST_SPREAD = 1e-6
"""Deviation up to which a score counts as constant."""


class Linear(NamedTuple):
    """A linear layer on scores: `(scores * weight).sum() + bias`."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


class Start(NamedTuple):
    """A fit that another one departs from, with the columns that it used (P,) or (K, M)."""

    fit: Linear
    used: NDArray


def fit_linear_parts(
    head: ConceptHead,
    scores: NDArray,
    share: NDArray,
    malignancy: NDArray,
    dropout: float = DROPOUT,
    penalty: float = DECISION_PENALTY,
    absent_penalty: float = ABSENT_PENALTY,
    views: int = 1,
    seed: int = 0,
    before: NDArray | None = None,
) -> None:
    """Fits presence and decision in place, with the prototypes that the head keeps.

    Args:
        head: Its `kept` and `absent` are those to be.
        scores: (N, K, M).
        share: (N, K) share of the readers who call each concept present, NaN where unknown.
        malignancy: (N,) on the scale that all sources share (`CaseSource.malignancy_of`); NaN and
            `UNDECIDED` teach the decision nothing.
        dropout: Share of the denied concepts that are rejected in a row of the decision.
        penalty: Of the decision's squared weights.
        absent_penalty: Of the squared logits that absent concepts add.
        views: Rows of each nodule; the penalties count them as one.
        seed: Fixes which concepts are rejected.
        before: (K, M), the prototypes that the head's own weights use. Where they are given the fit
            departs from these weights: as long as no prototype is missing they are its optimum,
            whatever nodules and readers they were fitted to.
    """
    flat = scores.astype(np.float64)
    kept, absent = head.kept.numpy(), head.absent.numpy().astype(np.float64)
    rated = np.isfinite(malignancy) & (malignancy != UNDECIDED)
    presence_start = decision_start = None
    if before is not None:
        presence_start = Start(_linear(head.presence_weight, head.presence_bias), before)
        decision_start = Start(_linear(head.decision_weight, head.decision_bias), before)
    presence = fit_presence(flat, share, kept, PRESENCE_PENALTY * views, presence_start)
    decision = fit_decision(
        flat[rated], malignancy[rated] > UNDECIDED, share[rated], kept, absent, dropout,
        penalty * views, absent_penalty, seed, decision_start,
    )  # fmt: skip
    for name, value in {
        "presence_weight": presence.weight,
        "presence_bias": presence.bias,
        "decision_weight": decision.weight,
        "decision_bias": decision.bias,
    }.items():
        getattr(head, name).copy_(torch.from_numpy(np.asarray(value)))


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    return Linear(weight.double().numpy(), bias.double().numpy())


def fit_presence(
    scores: NDArray,
    share: NDArray,
    kept: NDArray,
    penalty: float = PRESENCE_PENALTY,
    start: Start | None = None,
) -> Linear:
    """For every concept a logistic regression on its own scores, with no negative weight.

    So evidence that a box takes away never raises the presence that is shown.

    Args:
        scores: (N, K, M).
        share: (N, K) share of the readers who call the concept present, NaN where unknown.
        kept: (K, M), 0 for removed prototypes.
        penalty: Weight of the squared norm.
        start: What the fit departs from, see `fit_linear_parts`.
    """
    weight, bias = np.zeros(scores.shape[1:]), np.zeros(scores.shape[1])
    for k in range(scores.shape[1]):
        known = np.isfinite(share[:, k])
        weight[k], bias[k] = _logistic(
            scores[known, k], share[known, k], kept[k] > 0, penalty, least=0.0,
            start=start and Start(Linear(start.fit.weight[k], start.fit.bias[k]), start.used[k]),
        )  # fmt: skip
    return Linear(weight, bias)


def fit_decision(
    scores: NDArray,
    malignant: ArrayLike,
    share: NDArray,
    kept: NDArray,
    absent: NDArray,
    dropout: float = DROPOUT,
    penalty: float = DECISION_PENALTY,
    absent_penalty: float = ABSENT_PENALTY,
    seed: int = 0,
    start: Start | None = None,
) -> Linear:
    """The linear layer from all scores to malignancy, trained with concepts rejected as users do.

    Args:
        scores: (N, K, M).
        malignant: (N,) bool.
        share: (N, K) share of the readers who call the concept present, NaN where unknown.
        kept: (K, M), 0 for removed prototypes.
        absent: (K, M) scores of absent concepts, what one of the two ways of rejecting gives.
        dropout: Share of the concepts denied by most readers that are rejected; both ways take
            turns. Without them the nodule is as malignant as before: a user who rejects what is
            not there must not be led astray.
        penalty: Weight of the squared norm.
        absent_penalty: Of the squared logits that absent concepts add.
        seed: Fixes which.
        start: What the fit departs from, see `fit_linear_parts`.
    """
    random = np.random.default_rng(seed)
    shown = kept if start is None else start.used
    rows = np.repeat(scores, REPEATS, axis=0) * shown
    denied = np.repeat(np.nan_to_num(share, nan=1.0) < 0.5, REPEATS, axis=0)
    gone = (random.random(denied.shape) < dropout)[..., None] & denied[..., None]
    as_zero = random.random((len(rows), 1, 1)) < 0.5
    rows = np.where(gone, np.where(as_zero, 0.0, absent * shown), rows)
    target = np.repeat(np.asarray(malignant, dtype=np.float64), REPEATS)
    flat, shape = rows.reshape(len(rows), -1), scores.shape[1:]
    # The statistics of whole nodules: a score of 0 is no measure of how far scores spread.
    deviation = scores.reshape(len(scores), -1).std(axis=0)
    form = absent_penalty * block_diag(*absent_spread(scores, share, shown, absent))
    flat_start = start and Start(
        Linear(start.fit.weight.ravel(), start.fit.bias), start.used.ravel()
    )
    weight, bias = _logistic(
        flat, target, kept.ravel() > 0, penalty, deviation=deviation, repeats=REPEATS, form=form,
        start=flat_start,
    )  # fmt: skip
    return Linear(weight.reshape(shape), np.array(bias))


def absent_spread(
    scores: NDArray, share: NDArray, kept: NDArray, absent: NDArray
) -> NDArray[np.float64]:
    """(K, M, M) quadratic forms of the weights of each concept's prototypes.

    Each gives the sum of the squared logits that the concept adds to nodules without it, every
    nodule counting by the share of the readers who deny it.

    Args:
        scores: (N, K, M).
        share: (N, K) share of the readers who call the concept present, NaN where unknown.
        kept: (K, M), 0 for removed prototypes.
        absent: (K, M) scores at which a concept adds nothing.
    """
    beyond = (scores - absent) * kept
    denied = np.where(np.isfinite(share), 1 - share, 0.0)
    return np.einsum("nk,nkm,nkl->kml", denied, beyond, beyond)


def absent_scores(scores: NDArray, share: NDArray) -> NDArray[np.float64]:
    """(K, M) median scores of the nodules in which few readers see the concept.

    Args:
        scores: (N, K, M).
        share: (N, K), NaN where unknown.
    """
    return np.stack(
        [np.median(scores[share[:, k] < 0.5, k], axis=0) for k in range(scores.shape[1])]
    )


def _logistic(
    x: NDArray,
    target: NDArray,
    used: NDArray[np.bool_],
    penalty: float,
    least: float | None = None,
    deviation: NDArray | None = None,
    repeats: int = 1,
    form: NDArray | None = None,
    start: Start | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Weights and bias of a penalised logistic regression; unused and constant columns get 0.

    Columns are standardised and the standardisation is folded into weights and bias: scores span a
    narrow band, in which a plain penalty would leave nothing but the majority class.
    `form` (P, P) is a quadratic form of the weights of columns as they are, half of which is added.
    With a start, the cost's slope there is taken from the cost, so that the start is the optimum
    while all of its columns are used (a Bregman divergence).
    """
    mean = x.mean(axis=0)
    deviation = x.std(axis=0) if deviation is None else deviation

    def problem(columns: NDArray[np.bool_]) -> Callable[[NDArray], tuple[float, NDArray]]:
        z = (x[:, columns] - mean[columns]) / deviation[columns]
        curvature = penalty * np.eye(int(columns.sum()))
        if form is not None:
            spread = np.outer(deviation[columns], deviation[columns])
            curvature += form[np.ix_(columns, columns)] / spread

        def cost(parameters: NDArray) -> tuple[float, NDArray]:
            w, b = parameters[:-1], parameters[-1]
            logit = z @ w + b
            loss = (np.logaddexp(0, logit) - target * logit).sum() / repeats + w @ curvature @ w / 2
            error = (expit(logit) - target) / repeats
            return float(loss), np.append(z.T @ error + curvature @ w, error.sum())

        return cost

    varies = deviation > LEAST_SPREAD
    used = used & varies
    cost, count = problem(used), int(used.sum())
    begin, slope = np.zeros(count + 1), np.zeros(count + 1)
    if start is not None:
        full = (start.used > 0) & varies
        at = start.fit.weight[full] * deviation[full]
        at = np.append(at, start.fit.bias + mean[full] @ start.fit.weight[full])
        stays = np.append(used[full], True)
        begin, slope = at[stays], problem(full)(at)[1][stays]
        if least is not None:  # What the bound holds back stays held back.
            slope[:-1] = np.where(begin[:-1] <= least, np.minimum(slope[:-1], 0), slope[:-1])

    def tilted(parameters: NDArray) -> tuple[float, NDArray]:
        loss, gradient = cost(parameters)
        return loss - float(slope @ parameters), gradient - slope

    bounds = [(least, None)] * count + [(None, None)]
    found = minimize(tilted, begin, jac=True, method="L-BFGS-B", bounds=bounds)
    weight = np.zeros(x.shape[1])
    weight[used] = found.x[:-1] / deviation[used]
    return weight, float(found.x[-1] - mean @ weight)
