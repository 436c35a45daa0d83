"""Simulated users who correct concept predictions (docs/methods.md 7.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from contrastdiagnosis.concepts.boxes import CellGrid
from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction
from contrastdiagnosis.imaging.volume import apply_affine
from contrastdiagnosis.protocol.revision import Box, Revision
from numpy.typing import NDArray

MARGIN_MM = 1.0
"""How far beyond the nodule a user draws a box."""

MISTAKES = 0.2
"""Share of a noisy user's actions that are wrong."""

Action = tuple[str, Box | str]
"""("box", box) or ("reject", concept)."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a perfect user knows of a nodule.

    Attributes:
        share: (K,) share of the readers who call each concept present, NaN where unknown.
        mask: (D, H, W) the readers' consensus on the patch grid.
        cells: (d, h, w) cells that it touches.
    """

    share: NDArray[np.float64]
    mask: NDArray[np.bool_]
    cells: NDArray[np.bool_]


def wrong_concepts(prediction: ConceptPrediction, truth: Truth) -> list[str]:
    """Concepts that are shown as present and that most readers deny."""
    wrong = np.flatnonzero((prediction.presence > 0.5) & (truth.share < 0.5))
    return [prediction.concepts[k].name for k in wrong]


def astray_concepts(prediction: ConceptPrediction, truth: Truth) -> list[str]:
    """Concepts that are shown as present, but elsewhere than in the nodule."""
    pointed = prediction.maps.reshape(len(prediction.concepts), -1).argmax(axis=1)
    astray = (prediction.presence > 0.5) & ~truth.cells.ravel()[pointed]
    return [prediction.concepts[k].name for k in np.flatnonzero(astray)]


def nodule_box(grid: CellGrid, mask: NDArray[np.bool_]) -> Box:
    """A box that says to look at a nodule, along R, A and S."""
    voxels = np.argwhere(mask)[:, ::-1]
    ras = apply_affine(grid.patch.ijk_to_ras, voxels)
    low, high = ras.min(axis=0) - MARGIN_MM, ras.max(axis=0) + MARGIN_MM
    r, a, s = ((low + high) / 2).tolist()
    dr, da, ds = (high - low).tolist()
    return Box((r, a, s), (dr, da, ds), look=True)


def perfect_actions(
    prediction: ConceptPrediction,
    truth: Truth,
    grid: CellGrid,
    kinds: Sequence[str],
    again: Callable[[Revision], ConceptPrediction],
    corrected: Revision = Revision(),
) -> list[Action]:
    """All corrections that are called for, of some kinds, the one that weighs most first.

    Args:
        prediction: Before any of them.
        truth: What the user knows.
        grid: Cells of the patch.
        kinds: "reject", "box" or both.
        again: Reads the concepts anew after a revision.
        corrected: Mode and weight elsewhere that the corrections are taken with.
    """
    actions: list[Action] = []
    if "reject" in kinds:
        actions += [("reject", name) for name in wrong_concepts(prediction, truth)]
    if "box" in kinds and astray_concepts(prediction, truth) and truth.mask.any():
        actions.append(("box", nodule_box(grid, truth.mask)))

    def moved(action: Action) -> float:
        return abs(again(revision_of([action], corrected)).logit - prediction.logit)

    return sorted(actions, key=moved, reverse=True)


def noisy_actions(
    actions: Sequence[Action],
    prediction: ConceptPrediction,
    truth: Truth,
    grid: CellGrid,
    random: np.random.Generator,
) -> list[Action]:
    """The actions, one in five of them wrong.

    A wrong rejection hits a concept that the readers see, or else any that nothing is wrong with,
    and is left out where none of these is left; a wrong box lies anywhere in the patch.
    """
    made: list[Action] = []
    present = [c.name for c, s in zip(prediction.concepts, truth.share, strict=True) if s >= 0.5]
    right = {what for kind, what in actions if kind == "reject"}
    others = [c.name for c in prediction.concepts if c.name not in right]
    for kind, what in actions:
        if random.random() >= MISTAKES:
            made.append((kind, what))
        elif kind == "reject":
            free = [n for n in present or others if ("reject", n) not in made]
            if free:
                made.append(("reject", str(random.choice(free))))
        else:
            center = grid.centers_ras_mm.reshape(-1, 3)[random.integers(np.prod(grid.shape))]
            r, a, s = center.tolist()
            made.append(("box", Box((r, a, s), (12.0, 12.0, 12.0), look=True)))
    return made


def revision_of(actions: Sequence[Action], corrected: Revision = Revision()) -> Revision:
    """The revision that the actions make; mode and weight elsewhere are those of `corrected`."""
    boxes = tuple(what for _, what in actions if isinstance(what, Box))
    rejected = tuple(dict.fromkeys(what for _, what in actions if isinstance(what, str)))
    return replace(corrected, boxes=boxes, rejected=rejected)
