"""`ConceptScores`: what a head says of nodules, and the atlas of those that it knows best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, consensus_on, read_scan
from contrastdiagnosis.concepts.atlas import Prototype
from contrastdiagnosis.concepts.cells import CELL_VOXELS
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.concepts.head import Concept, ConceptHead, readers_shares
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from contrastdiagnosis.model.network import NoduleNet
from numpy.typing import NDArray

from contrastdiagnosis_training.progress import Bar


@dataclass(frozen=True, eq=False)
class ConceptScores:
    """What a head says of nodules, through the engine's own door.

    Attributes:
        case_id: (N,) text.
        patient_id: (N,) text.
        scores: (N, K, M).
        share: (N, K) share of the readers who call each concept present, NaN where unknown.
        malignancy: (N,) mean on the scale that all sources share.
        diameter_mm: (N,).
        place: (N, K, M) cell of each score, flat index.
        inside: (N, K, M) whether that cell touches the readers' consensus.
    """

    case_id: NDArray
    patient_id: NDArray
    scores: NDArray[np.float32]
    share: NDArray[np.float64]
    malignancy: NDArray[np.float64]
    diameter_mm: NDArray[np.float64]
    place: NDArray[np.int64]
    inside: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.case_id)


def score_nodules(
    network: NoduleNet,
    head: ConceptHead,
    concepts: Sequence[Concept],
    nodules: Sequence[Nodule],
    device: torch.device,
) -> ConceptScores:
    """Scores of nodules clicked at the centroid of the readers' consensus.

    Args:
        network: In eval mode, on the device.
        head: Trained on that network.
        concepts: The head's, in its order; of the nodules' own source.
        nodules: N rows of a case folder.
        device: Where the network is.
    """
    rows = []
    for nodule in Bar(nodules, unit="nodule", leave=False):
        scan = read_scan(nodule)
        encoding = encode(network, [crop_patch(scan.volume, scan.center_ras_mm)], device, head)[0]
        if encoding.similarity is None:
            raise ValueError("an encoding with a head has similarities")
        flat = encoding.similarity.reshape(*encoding.similarity.shape[:2], -1)
        cells = touched_cells(consensus_on(scan, encoding.patch), encoding.grid.shape)
        place = flat.argmax(axis=-1)
        rows.append(
            {
                "case_id": nodule.case_id,
                "patient_id": nodule.patient_id,
                "scores": flat.max(axis=-1),
                "share": readers_shares(concepts, nodule.ratings, scan.diameter_mm),
                "malignancy": nodule.malignancy,
                "diameter_mm": scan.diameter_mm,
                "place": place,
                "inside": cells.ravel()[place],
            }
        )
    names = [f.name for f in fields(ConceptScores)]
    return ConceptScores(**{name: np.array([row[name] for row in rows]) for name in names})


def touched_cells(region: NDArray[np.bool_], grid: tuple[int, int, int]) -> NDArray[np.bool_]:
    """(d, h, w) cells that hold a voxel of a (D, H, W) region.

    These are the cells whose centre lies in the region widened by half a cell.
    """
    d, h, w = (n // m for n, m in zip(region.shape, grid, strict=True))
    blocks = region.reshape(grid[0], d, grid[1], h, grid[2], w)
    return np.asarray(blocks.any(axis=(1, 3, 5)))


def make_atlas(
    concepts: Sequence[Concept], head: ConceptHead, scored: ConceptScores
) -> tuple[Prototype, ...]:
    """Every prototype with the case whose cell comes nearest to it, the largest cosine."""
    atlas = []
    grid = tuple(n // m for n, m in zip(DEFAULT_GEOMETRY.shape, CELL_VOXELS, strict=True))
    for k, concept in enumerate(concepts):
        shown, kept = scored.share[:, k] >= 0.5, head.kept[k].numpy() > 0
        fired = np.where(kept, scored.scores[shown, k], -np.inf).argmax(axis=1)
        for m in range(scored.scores.shape[2]):
            n = int(scored.scores[:, k, m].argmax())
            cell = np.unravel_index(int(scored.place[n, k, m]), grid)
            atlas.append(
                Prototype(
                    concept=concept.name,
                    number=m,
                    case_id=str(scored.case_id[n]),
                    cell_kji=(int(cell[0]), int(cell[1]), int(cell[2])),
                    similarity=float(scored.scores[n, k, m]),
                    hits=int((fired == m).sum()),
                    kept=bool(kept[m]),
                )
            )
    return tuple(atlas)
