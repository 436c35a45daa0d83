"""The list of concepts: sizes, and the findings of a source (LIDC-IDRI's six: `cases/lidc.py`).

Also how far its readers agree on them (docs/methods.md 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.concepts.head import DIAMETER, Concept, readers_shares
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

SIZES = (
    Concept("6 mm or more", DIAMETER, at_least=6),
    Concept("8 mm or more", DIAMETER, at_least=8),
    Concept("15 mm or more", DIAMETER, at_least=15),
)
"""Size would otherwise hide in the prototypes of the others: at the steps of Lung-RADS v2022 for
solid nodules. It is measured, so every source has it."""


def concepts_of(case_source: CaseSource) -> tuple[Concept, ...]:
    """The findings of a source, and size; not yet calibrated."""
    return (
        *(Concept(f.name, f.rating, f.at_least, f.at_most) for f in case_source.findings),
        *SIZES,
    )


def concept_shares(
    nodules: Sequence[Nodule], diameter_mm: Sequence[float] | Tensor, case_source: CaseSource
) -> Tensor:
    """(N, K) share of the readers who call each concept present, NaN where none rated it.

    Args:
        nodules: Of any source; what they rate by other scales says nothing.
        diameter_mm: (N,).
        case_source: Whose concepts are asked for.
    """
    concepts = concepts_of(case_source)
    return torch.tensor(
        [
            readers_shares(concepts, nodule.rated_by(case_source.scales), float(mm))
            for nodule, mm in zip(nodules, diameter_mm, strict=True)
        ]
    )


def reader_pairs(nodules: Sequence[Nodule], concept: Concept) -> NDArray[np.bool_]:
    """(P, 2) opinions of all ordered pairs of readers of the same nodule."""
    pairs = []
    for nodule in nodules:
        votes = [concept.share([value]) > 0.5 for value in nodule.ratings.get(concept.rating, ())]
        pairs += [(a, b) for i, a in enumerate(votes) for j, b in enumerate(votes) if i != j]
    return np.array(pairs, dtype=bool).reshape(-1, 2)


def cohen_kappa(pairs: NDArray[np.bool_]) -> float:
    """Agreement beyond chance of two opinions (P, 2); NaN where all are alike.

    With two values quadratic weights change nothing.

    Example:
        >>> cohen_kappa(np.array([[True, True], [False, False], [True, False], [False, True]]))
        0.0
        >>> cohen_kappa(np.array([[True, True], [True, True]]))  # No chance to differ.
        nan
    """
    if not len(pairs) or pairs.all() or not pairs.any():
        return float("nan")
    return float(cohen_kappa_score(pairs[:, 0], pairs[:, 1]))


def with_agreement(concepts: Sequence[Concept], nodules: Sequence[Nodule]) -> tuple[Concept, ...]:
    """The concepts with the kappa of their readers, None where they are not rated."""
    kappas = [cohen_kappa(reader_pairs(nodules, concept)) for concept in concepts]
    return tuple(
        replace(concept, reader_kappa=round(kappa, 3) if np.isfinite(kappa) else None)
        for concept, kappa in zip(concepts, kappas, strict=True)
    )
