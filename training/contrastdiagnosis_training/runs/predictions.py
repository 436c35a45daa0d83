"""`Predictions`: what a network says of a case folder's nodules, through the engine's own door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import SimpleITK as sitk
import torch
from contrastdiagnosis.cases.case_folder import Nodule, NoduleScan, read_scan
from contrastdiagnosis.concepts.encoding import Encoding, encode
from contrastdiagnosis.concepts.head import ConceptHead
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.diagnosis.outline import outline_at
from contrastdiagnosis.imaging.measure import axial_diameters
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Region, crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.trust.facts import nodule_facts
from numpy.typing import NDArray

from contrastdiagnosis_training.objectives.metrics import (
    dice,
    inter_reader_dice,
    reader_consensus_dice,
)
from contrastdiagnosis_training.progress import Bar

CONTEXT_MM = 5.0
"""A file shows a nodule's surroundings if it goes on this far above and below it."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row a nodule, clicked at the centroid of the readers' consensus.

    Attributes:
        case_id: (N,) text.
        patient_id: (N,) text.
        malignancy: (N,) mean on the scale that all sources share, NaN where unknown.
        diameter_mm: (N,) of the sphere of the consensus's volume.
        embedding: (N, p).
        dice: (N,) mask against the consensus, on the file's own grid.
        dice_inter_reader: (N,) between the readers, NaN where they are not told apart.
        dice_reader_consensus: (N,) of the readers with their consensus, NaN likewise.
        trimmed_embedding: (N, p) after the file was cut to the nodule's slices, NaN where it shows
            no more than these.
        trimmed_dice: (N,) between the masks with and without the surroundings, NaN likewise.
        facts: (N, F) `NoduleFacts.row`: what a diagnosis there can be doubted by.
    """

    case_id: NDArray
    patient_id: NDArray
    malignancy: NDArray[np.float64]
    diameter_mm: NDArray[np.float64]
    embedding: NDArray[np.float32]
    dice: NDArray[np.float64]
    dice_inter_reader: NDArray[np.float64]
    dice_reader_consensus: NDArray[np.float64]
    trimmed_embedding: NDArray[np.float32]
    trimmed_dice: NDArray[np.float64]
    facts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.case_id)

    def __getitem__(self, positions: NDArray) -> Predictions:
        """The chosen rows."""
        return Predictions(*(getattr(self, f.name)[positions] for f in fields(self)))


Change = Callable[[Nodule, Volume], Volume]
"""Makes another scan of a nodule's: a poorer one, on the same grid."""


def predict_nodules(
    network: NoduleNet,
    nodules: Sequence[Nodule],
    device: torch.device,
    bundled: Diagnoser | None = None,
    change: Change | None = None,
) -> Predictions:
    """The network's predictions of nodules, in their order.

    Args:
        network: In eval mode, on the device.
        nodules: Rows of a case folder.
        device: Where the network is.
        bundled: Reads the concepts, whose size may contradict the measured one; without it nothing
            is said against that.
        change: What becomes of the scans before they are looked at; they are not trimmed then.
    """
    told = Bar(nodules, unit="nodule", leave=False)
    rows = [_read(network, nodule, device, bundled, change) for nodule in told]
    names = [f.name for f in fields(Predictions)]
    return Predictions(**{name: np.array([row[name] for row in rows]) for name in names})


def _read(
    network: NoduleNet,
    nodule: Nodule,
    device: torch.device,
    bundled: Diagnoser | None,
    change: Change | None,
) -> dict[str, object]:
    scan = read_scan(nodule)
    if change is not None:
        scan = NoduleScan(change(nodule, scan.volume), scan.share)
    point = scan.center_ras_mm
    head = bundled.head if bundled else None
    encoding, nodule_there, mask = _diagnose_mask(network, scan.volume, point, device, head)
    concepts = bundled.predict_concepts(encoding) if bundled else None
    geometry = DEFAULT_GEOMETRY
    diameters = axial_diameters(encoding.probability * nodule_there, geometry.spacing_mm)
    between, ceiling = _reader_agreement(nodule)
    row: dict[str, object] = {
        "case_id": nodule.case_id,
        "patient_id": nodule.patient_id,
        "malignancy": nodule.malignancy,
        "diameter_mm": scan.diameter_mm,
        "embedding": encoding.embedding,
        "dice": dice(mask.full(), scan.consensus),
        "dice_inter_reader": between,
        "dice_reader_consensus": ceiling,
        "trimmed_embedding": np.full_like(encoding.embedding, np.nan),
        "trimmed_dice": np.nan,
        "facts": nodule_facts(
            encoding, nodule_there, diameters, scan.volume, point, geometry, concepts
        ).row,
    }
    kept = None if change else nodule_slices(scan)
    if kept is not None:
        trimmed = cut_slices(scan.volume, kept)
        alone, _, alone_mask = _diagnose_mask(network, trimmed, point, device)
        placed = np.zeros_like(scan.consensus)
        placed[kept] = alone_mask.full()
        row["trimmed_embedding"] = alone.embedding
        row["trimmed_dice"] = dice(mask.full(), placed)
    return row


def nodule_slices(scan: NoduleScan) -> slice | None:
    """The slices that the readers marked; None if the file shows little beyond them."""
    marked = np.flatnonzero(scan.share.any(axis=(1, 2)))
    first, last = int(marked[0]), int(marked[-1])
    beyond_mm = min(first, len(scan.share) - 1 - last) * scan.volume.spacing_mm[0]
    return slice(first, last + 1) if beyond_mm >= CONTEXT_MM else None


def cut_slices(volume: Volume, kept: slice) -> Volume:
    """The volume cut to some of its slices."""
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] = volume.ras_from_ijk([0, 0, kept.start])
    return Volume(volume.hu[kept], affine)


def _diagnose_mask(
    network: NoduleNet,
    volume: Volume,
    point: NDArray,
    device: torch.device,
    head: ConceptHead | None = None,
) -> tuple[Encoding, NDArray[np.bool_], Region]:
    encoding = encode(network, [crop_patch(volume, point)], device, head)[0]
    return encoding, *outline_at(encoding, volume, DEFAULT_GEOMETRY)


def _reader_agreement(nodule: Nodule) -> tuple[float, float]:
    if nodule.readers < 2:
        return np.nan, np.nan
    votes = sitk.GetArrayFromImage(sitk.ReadImage(str(nodule.mask_path)))
    return inter_reader_dice(votes, nodule.readers), reader_consensus_dice(votes, nodule.readers)
