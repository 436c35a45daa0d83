"""Figures of one peer in poorer and poorer scans, as far as a peer has any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.robustness.figures import RobustFigures, kappa_of
from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.peers.predictions import PeerPredictions


def read(peers: Sequence[PeerPredictions]) -> NDArray[np.float64]:
    """(N,) the probability of the nodules of all folds."""
    return np.concatenate([p.probability for p in peers])


def peer_figures(
    clean: Sequence[PeerPredictions],
    poorer: Sequence[PeerPredictions],
    diameter: NDArray[np.float64],
) -> RobustFigures:
    """A peer's figures; it has no cases, no mask and no confidence, so those are NaN.

    Args:
        clean: Of unseen nodules in their scans as they are, one table a fold.
        poorer: Of the same nodules in poorer scans.
        diameter: (N,) what the diameter says of them.
    """
    probability, before = read(poorer), read(clean)
    malignancy = np.concatenate([p.malignancy for p in poorer])
    kept, truth = RULES["exclude3"](malignancy), is_malignant(malignancy)
    unknown = float("nan")
    return RobustFigures(
        n=int(kept.sum()),
        auc=auc(probability[kept], truth[kept]),
        auc_diameter=auc(diameter[kept], truth[kept]),
        accuracy=float(((probability > 0.5) == truth)[kept].mean()),
        kappa=kappa_of(1 + 4 * probability, malignancy),
        shift=float((probability - before).mean()),
        change=float(np.abs(probability - before).mean()),
        overlap=unknown,
        dice=unknown,
        confident=unknown,
        confident_wrong=unknown,
        wrong=unknown,
    )
