"""The concepts' part of a report: what is seen and where, what follows, what was corrected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from contrastdiagnosis.bundle.bundle import Bundle, ConceptPart
from contrastdiagnosis.cases.library import Case
from contrastdiagnosis.concepts.atlas import Prototype
from contrastdiagnosis.concepts.cells import CELL_VOXELS, cell_channels
from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction, predict_concepts
from contrastdiagnosis.concepts.head import Concept
from contrastdiagnosis.concepts.score_parts import ScoreParts, score_parts
from contrastdiagnosis.diagnosis.diagnoser import Diagnosis
from contrastdiagnosis.imaging.volume import apply_affine
from contrastdiagnosis.protocol.revision import Box
from contrastdiagnosis.report.pictures import CellSlice, middle_slice
from contrastdiagnosis.report.summary import evidence_sentence

AGREEMENT = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
"""Words for kappa up to a value (Landis and Koch, Biometrics 33:159, 1977)."""


class Example(NamedTuple):
    """The prototype that is evidence for a concept, shown by the nodule that it is most like."""

    prototype: Prototype
    case: Case | None
    """None where it is not among the bundle's cases."""
    shown: CellSlice | None
    """None where the case has no pixels."""


class ConceptRow(NamedTuple):
    """One concept."""

    concept: Concept
    presence: float | None
    """Calibrated; None if it was rejected."""
    contribution: float
    """In logits, rounded so that all of them and the baseline add up."""
    score: float
    """Highest cosine of a cell and the example's prototype; 0 without one."""
    usual: float
    """Median of that score among nodules without the concept: what adds nothing."""
    parts: ScoreParts | None
    """What the score is made of, before any box; None without an example."""
    shown: CellSlice
    example: Example | None
    """None where no prototype is evidence, or no cell is like it."""

    @property
    def agreement(self) -> str:
        """Readers' agreement in a word, empty where it was not measured."""
        kappa = self.concept.reader_kappa
        if kappa is None:
            return ""
        return next((word for limit, word in AGREEMENT if kappa <= limit), "almost perfect")


class ConceptSection(NamedTuple):
    """Everything that the report tells of the concepts."""

    prediction: ConceptPrediction
    rows: tuple[ConceptRow, ...]
    """The one that adds or takes most first."""
    baseline: float
    """Rounded like the contributions."""
    logit: float
    """Sum of what is shown."""
    before: dict[str, ConceptRow]
    """By name: the concepts before they were corrected; empty where nothing was."""
    uncorrected: ConceptPrediction | None
    sentence: str

    @property
    def highest(self) -> float:
        """The largest contribution on either side: the length of the bars."""
        values = [abs(r.contribution) for r in (*self.rows, *self.before.values())]
        return max([*values, abs(self.baseline), 0.01])

    @property
    def pictures_lack(self) -> bool:
        """Whether an example has no picture."""
        return any(row.example and row.example.shown is None for row in self.rows)

    @staticmethod
    def upright(box: Box) -> bool:
        """Whether a box's sides run along R, A and S."""
        return np.allclose(box.axes, np.eye(3), atol=1e-6)


def concept_section(diagnosis: Diagnosis, bundle: Bundle) -> ConceptSection | None:
    """What the report tells of the concepts; None for a bundle without them."""
    prediction, part = diagnosis.concepts, bundle.concepts
    if prediction is None or part is None:
        return None
    rows, baseline, logit = _rows(prediction, diagnosis, bundle, part)
    before, uncorrected = {}, None
    if not prediction.revision.empty:
        uncorrected = _uncorrected(diagnosis, bundle, part)
        before = {row.concept.name: row for row in _rows(uncorrected, diagnosis, bundle, part)[0]}
    order = np.argsort(-np.abs(prediction.contribution), kind="stable")
    return ConceptSection(
        prediction, tuple(rows[k] for k in order), baseline, logit, before, uncorrected,
        evidence_sentence(prediction),
    )  # fmt: skip


def adding_up(values: ArrayLike, digits: int = 2) -> tuple[list[float], float]:
    """The values rounded up or down so that they add up to their rounded sum; that sum."""
    units = np.asarray(values, dtype=np.float64) * 10**digits
    whole, total = np.floor(units), round(float(units.sum()))
    raised = np.argsort(whole - units, kind="stable")[: int(total - whole.sum())]
    whole[raised] += 1
    # Adding 0 turns -0.0 into 0.0.
    return (np.round(whole / 10**digits, digits) + 0.0).tolist(), total / 10**digits + 0.0


def upsampled(cells: NDArray, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """(d, h, w) values of cells on the patch grid (D, H, W), trilinear."""
    tensor = torch.from_numpy(np.ascontiguousarray(cells, dtype=np.float32))[None, None]
    return functional.interpolate(tensor, shape, mode="trilinear", align_corners=False)[
        0, 0
    ].numpy()


def _uncorrected(diagnosis: Diagnosis, bundle: Bundle, part: ConceptPart) -> ConceptPrediction:
    encoding, info = diagnosis.encoding, bundle.info
    if encoding.similarity is None:
        raise ValueError("a diagnosis with concepts needs similarities")
    return predict_concepts(
        part.head, info.concepts, info.concept_calibration, encoding.similarity, encoding.grid
    )


def _rows(
    prediction: ConceptPrediction, diagnosis: Diagnosis, bundle: Bundle, part: ConceptPart
) -> tuple[list[ConceptRow], float, float]:
    """The concepts in the head's order, the baseline, and the sum of both."""
    (baseline, *shares), logit = adding_up([prediction.baseline, *prediction.contribution])
    atlas = {(p.concept, p.number): p for p in part.atlas}
    rows = []
    for k, concept in enumerate(prediction.concepts):
        m, cells = int(prediction.shown[k]), prediction.maps[k]
        example = _example(atlas[concept.name, m], bundle) if cells.max() > 0 else None
        rejected = concept.name in prediction.revision.rejected
        rows.append(
            ConceptRow(
                concept,
                None if rejected else float(prediction.presence[k]),
                shares[k],
                float(cells.max()),
                float(part.head.absent[k, m]) if example else 0.0,
                _parts(diagnosis, bundle, part, k, m, cells) if example else None,
                _nodule_slice(diagnosis, cells, _boxes_about(concept.name, prediction)),
                example,
            )
        )
    return rows, baseline, logit


def _parts(
    diagnosis: Diagnosis, bundle: Bundle, part: ConceptPart, k: int, m: int, cells: NDArray
) -> ScoreParts | None:
    """Of the strongest cell of a concept's map."""
    if diagnosis.encoding.cells is None:
        return None
    d, h, w = np.unravel_index(int(cells.argmax()), cells.shape)
    own = cell_channels(bundle.info.network, whole=False)
    return score_parts(part.head, diagnosis.encoding.cells, own, k, m, (int(d), int(h), int(w)))


def _boxes_about(name: str, prediction: ConceptPrediction) -> list[Box]:
    return [box for box in prediction.revision.boxes if box.concept in (None, name)]


def _nodule_slice(diagnosis: Diagnosis, cells: NDArray, boxes: Sequence[Box]) -> CellSlice:
    """The slice of the nodule through the strongest cell of a map, with the map and the boxes."""
    patch = diagnosis.encoding.patch
    shape = patch.intensity.shape
    nodule = diagnosis.encoding.probability * diagnosis.nodule
    if cells.max() > 0:
        size = [n // m for n, m in zip(shape, cells.shape, strict=True)]
        k, frame = _place(np.unravel_index(int(cells.argmax()), cells.shape), size)
        strength = upsampled(cells, shape)[k]
    else:
        k, frame, strength = middle_slice(nodule), None, None
    j, i = np.indices(shape[1:])
    ras = apply_affine(patch.ijk_to_ras, np.stack([i, j, np.full_like(i, k)], axis=-1))
    looked, ignored = (
        np.any(
            [box.contains(ras) for box in boxes if box.look == wanted] or [np.zeros(j.shape, bool)],
            axis=0,
        )
        for wanted in (True, False)
    )
    return CellSlice(patch.intensity[k], nodule[k], frame, strength, looked, ignored)


def _example(prototype: Prototype, bundle: Bundle) -> Example:
    case = next((c for c in bundle.library.cases if c.case_id == prototype.case_id), None)
    if not bundle.pixels.has(prototype.case_id):
        return Example(prototype, case, None)
    pixels = bundle.pixels.read(prototype.case_id)
    k, frame = _place(prototype.cell_kji, CELL_VOXELS)
    shown = CellSlice(pixels.intensity[k], pixels.mask[k].astype(np.float32), frame)
    return Example(prototype, case, shown)


def _place(
    cell_kji: Sequence[int | np.intp], size: Sequence[int]
) -> tuple[int, tuple[int, int, int, int]]:
    """The middle slice of a cell, and its frame: first column and row, width and height."""
    k, j, i = (int(c) * s for c, s in zip(cell_kji, size, strict=True))
    return k + size[0] // 2, (i, j, size[2], size[1])
