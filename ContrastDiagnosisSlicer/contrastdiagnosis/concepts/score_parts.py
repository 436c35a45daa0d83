"""Whose evidence a concept's similarity is: the place's, or that of the nodule as a whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import NDArray

from contrastdiagnosis.concepts.head import ConceptHead


class ScoreParts(NamedTuple):
    """What a similarity is made of; the three add up to it."""

    place: float
    """Of what the cell itself looks like."""
    whole: float
    """Of the embedding of the nodule that the cell is a part of, which is the same in all of its
    cells: no box and no map can tell its parts apart."""
    average: float
    """What an average cell of the training patches has."""


def score_parts(
    head: ConceptHead,
    cells: NDArray,
    own: int,
    concept: int,
    number: int,
    cell_kji: tuple[int, int, int],
) -> ScoreParts:
    """The parts of the similarity of one cell with one prototype.

    Shapley values of two players, the cell's own features and those of the whole, each of which is
    either as seen or as in an average cell (Lundberg and Lee, arXiv:1705.07874).

    Args:
        head: In eval mode.
        cells: (2, C, d, h, w) standardised cells of a patch and of its mirror image, of `Encoding`.
        own: How many of the C features, the first ones, are the cell's own.
        concept: Its place among the head's concepts.
        number: Of the prototype.
        cell_kji: The cell.
    """
    k, j, i = cell_kji
    seen = torch.from_numpy(cells).to(head.mean.device)
    vectors = torch.stack([seen[0, :, k, j, i], seen[1, :, k, j, seen.shape[-1] - 1 - i]])
    place, whole = vectors.clone(), vectors.clone()
    place[:, own:], whole[:, :own] = 0, 0  # Standardised: 0 is the mean.
    variants = torch.stack([vectors, place, whole, torch.zeros_like(vectors)])
    with torch.inference_mode():
        alike = head.similarity(variants.flatten(0, 1)[..., None, None, None])
    told = alike[:, concept, number, 0, 0, 0].double().view(4, 2).mean(dim=1)
    both, by_place, by_whole, average = told.tolist()
    return ScoreParts(
        (by_place - average + both - by_whole) / 2,
        (by_whole - average + both - by_place) / 2,
        average,
    )
