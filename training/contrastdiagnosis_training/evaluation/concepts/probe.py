"""What the concepts of one nodule are worth: pointing, simulated users, scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import NoduleScan, consensus_on
from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.boxes import CellGrid
from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction, predict_concepts
from contrastdiagnosis.concepts.encoding import Encoding, encode
from contrastdiagnosis.concepts.head import Concept, ConceptHead
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch, resample
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.revision import Box, Revision
from numpy.typing import NDArray

from contrastdiagnosis_training.concept_head.place import IMAGE_TRUTH, image_region
from contrastdiagnosis_training.concept_head.scores import touched_cells
from contrastdiagnosis_training.evaluation.concepts.users import (
    Truth,
    noisy_actions,
    perfect_actions,
    revision_of,
)
from contrastdiagnosis_training.evaluation.maps.probe import off_centre_mm

USERS: dict[str, tuple[tuple[str, ...], int | None]] = {
    "reject": (("reject",), None),
    "box": (("box",), None),
    "both": (("reject", "box"), None),
    "one action": (("reject", "box"), 1),
}
"""Kinds of actions of a perfect user, and how many at most; "one action" is also the lazy one."""


CORRECTIONS = {
    "rejected: median where absent": Revision(mode="absent_median"),
    "rejected: zero": Revision(mode="zero"),
    **{f"elsewhere {weight:g}": Revision(elsewhere=weight) for weight in (0.0, 0.2, 0.5, 1.0)},
}
"""Ways of taking the same corrections, all those of a perfect user."""


IGNORED = 2
"""Boxes to ignore that are drawn at random into every nodule's patch."""


@dataclass(frozen=True, eq=False)
class EvaluatedHead:
    """A network and a head, new to the nodules that they are asked about.

    Attributes:
        network: In eval mode, on its device.
        head: In eval mode, on the CPU.
        concepts: Calibrated on other nodules.
        calibration: Of the decision, on other nodules.
        corrected: In which mode, and with which weight elsewhere, users' corrections are taken.
    """

    network: NoduleNet
    head: ConceptHead
    concepts: tuple[Concept, ...]
    calibration: Calibration
    corrected: Revision = field(default_factory=Revision)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def encode(self, patch: Patch) -> Encoding:
        """The patch as the engine encodes it."""
        return encode(self.network, [patch], self.device, self.head)[0]

    def predict(self, encoding: Encoding, revision: Revision = Revision()) -> ConceptPrediction:
        """Its concepts."""
        if encoding.similarity is None:
            raise ValueError("an encoding with a head has similarities")
        return predict_concepts(
            self.head, self.concepts, self.calibration, encoding.similarity, encoding.grid, revision
        )


@dataclass(frozen=True, eq=False)
class ConceptProbe:
    """The metrics of one nodule.

    Attributes:
        presence: (K,) calibrated, centred.
        contribution: (K,) logits of malignancy that each concept adds, centred.
        probability: Of malignancy through the concepts, centred.
        revised: Probability after each user's actions.
        actions: How many actions each user took.
        corrected: Probability after a perfect user's actions, by the way of taking them.
        rise: Largest rise of any presence by random boxes to ignore; boxes can only take away.
        pointing: Hits of pointers by (where, region, pointer), one value for each present concept
            or for each concept whose region there is.
    """

    presence: NDArray[np.float64]
    contribution: NDArray[np.float64]
    probability: float
    revised: dict[str, float]
    actions: dict[str, int]
    corrected: dict[str, float]
    rise: float
    pointing: dict[tuple[str, str, str], list[float]]


def probe_concepts(
    evaluated: EvaluatedHead,
    refined: EvaluatedHead | None,
    scan: NoduleScan,
    share: NDArray[np.float64],
    random: np.random.Generator,
) -> ConceptProbe:
    """Asks everything about the concepts of one nodule.

    Args:
        evaluated: Network and head.
        refined: The same network with the head after pruning, if there is one.
        scan: The nodule.
        share: (K,) share of the readers who call each concept present.
        random: Draws patches and mistakes.
    """
    centred = evaluated.encode(crop_patch(scan.volume, scan.center_ras_mm))
    off = evaluated.encode(crop_patch(scan.volume, scan.center_ras_mm + off_centre_mm(random)))
    prediction = evaluated.predict(centred)
    pointing = {
        **point(evaluated, centred, scan, share, "centred"),
        **point(evaluated, off, scan, share, "off centre"),
        **(point(refined, off, scan, share, "off centre, refined") if refined else {}),
    }
    mask = consensus_on(scan, centred.patch)
    truth = Truth(share, mask, touched_cells(mask, centred.grid.shape))
    again = partial(evaluated.predict, centred)
    revised, actions = _users(again, prediction, truth, centred.grid, evaluated.corrected, random)
    wanted = perfect_actions(prediction, truth, centred.grid, USERS["both"][0], again)
    corrected = {
        way: again(revision_of(wanted, as_told)).probability if wanted else prediction.probability
        for way, as_told in CORRECTIONS.items()
    }
    if refined:
        revised["refined"] = refined.predict(centred).probability
    return ConceptProbe(
        prediction.presence, prediction.contribution, prediction.probability,
        revised, actions, corrected,
        rise_by_ignoring(again, prediction, centred.grid, random.spawn(1)[0]), pointing,
    )  # fmt: skip


def rise_by_ignoring(
    again: Callable[[Revision], ConceptPrediction],
    prediction: ConceptPrediction,
    grid: CellGrid,
    random: np.random.Generator,
) -> float:
    """Largest change of any presence by `IGNORED` boxes to ignore; none should be above 0."""
    centers, rises = grid.centers_ras_mm.reshape(-1, 3), []
    for _ in range(IGNORED):
        r, a, s = centers[random.integers(len(centers))].tolist()
        dr, da, ds = random.uniform(6, 48, 3).tolist()
        revised = again(Revision(boxes=(Box((r, a, s), (dr, da, ds), look=False),)))
        rises.append((revised.presence - prediction.presence).max())
    return float(max(rises))


def point(
    evaluated: EvaluatedHead, encoding: Encoding, scan: NoduleScan, share: NDArray, where: str
) -> dict[tuple[str, str, str], list[float]]:
    """Whether the strongest cell of each present concept's map lies where it should.

    A pointer hits if its cell's centre lies in the region widened by half a cell, which is if the
    cell touches the region. Controls: the middle of the patch, any cell, any cell of the mask.
    """
    prediction, grid = evaluated.predict(encoding), encoding.grid
    mask = consensus_on(scan, encoding.patch)
    found = touched_cells(encoding.probability >= 0.5, grid.shape)
    hits: dict[tuple[str, str, str], list[float]] = {}
    maps = prediction.maps
    for k, concept in enumerate(evaluated.concepts):
        if not share[k] >= 0.5:
            continue
        regions = {"nodule": mask}
        if concept.name in IMAGE_TRUTH:
            regions[concept.name] = concept_region(concept, encoding.patch, scan, mask)
        for name, region in regions.items():
            cells = touched_cells(region, grid.shape)
            if not cells.any():
                continue
            pointers = {
                "map": float(cells.ravel()[maps[k].argmax()]),
                "centre": float(cells[3:5, 3:5, 3:5].mean()),
                "random": float(cells.mean()),
                "mask": float(cells[found].mean()) if found.any() else float(cells.mean()),
            }
            for pointer, hit in pointers.items():
                hits.setdefault((where, name, pointer), []).append(hit)
    return hits


def concept_region(
    concept: Concept, patch: Patch, scan: NoduleScan, mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(D, H, W) where image or readers tell that a concept is."""
    low, high = DEFAULT_GEOMETRY.window_hu
    hu = patch.intensity * (high - low) + low
    to_volume = np.linalg.inv(scan.volume.ijk_to_ras) @ patch.ijk_to_ras
    marked, _ = resample(scan.share, to_volume, patch.intensity.shape, fill=0, mode="nearest")
    return np.asarray(image_region(concept, hu, mask, (marked > 0) & (marked < 1)))


def _users(
    again: Callable[[Revision], ConceptPrediction],
    prediction: ConceptPrediction,
    truth: Truth,
    grid: CellGrid,
    corrected: Revision,
    random: np.random.Generator,
) -> tuple[dict[str, float], dict[str, int]]:
    """Probability after, and number of, the actions of perfect, lazy and noisy users."""
    revised, count = {}, {}
    for name, (kinds, most) in USERS.items():
        wanted = perfect_actions(prediction, truth, grid, kinds, again, corrected)[:most]
        noisy = noisy_actions(wanted, prediction, truth, grid, random)
        for user, actions in ((name, wanted), (f"{name}, noisy", noisy)):
            after = again(revision_of(actions, corrected)) if actions else prediction
            revised[user], count[user] = after.probability, len(actions)
    return revised, count
