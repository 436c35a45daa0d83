"""The rules that turn readers' opinions of malignancy into labels (docs/methods.md 2.1).

Malignancy is on the scale that all sources share, `CaseSource.malignancy_of`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from contrastdiagnosis.cases.source import UNDECIDED
from numpy.typing import NDArray


def _known(mean: NDArray) -> NDArray[np.bool_]:
    return np.isfinite(mean)


RULES: dict[str, Callable[[NDArray], NDArray[np.bool_]]] = {
    "paper": _known,
    "exclude3": lambda mean: _known(mean) & (mean != UNDECIDED),
    "band": lambda mean: _known(mean) & ~((mean > 2.5) & (mean < 3.5)),
}
"""Which nodules a rule keeps, by their mean malignancy."""


def is_malignant(mean_malignancy: NDArray) -> NDArray[np.bool_]:
    """Label under every rule: mean above 3, as its source says; False where unknown.

    Example:
        >>> mean = np.array([2.0, 3.0, 3.25, 4.0, np.nan])
        >>> is_malignant(mean).tolist()
        [False, False, True, True, False]
        >>> {rule: int(keeps(mean).sum()) for rule, keeps in RULES.items()}
        {'paper': 4, 'exclude3': 3, 'band': 2}
    """
    return np.asarray(mean_malignancy) > UNDECIDED
