"""`PatchStore`: the nodules of case folders as tensors, resampled once and cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import (
    Nodule,
    NoduleScan,
    read_case_folder,
    read_case_source,
    read_scan,
)
from contrastdiagnosis.cases.source import UNDECIDED, CaseSource, RatingScale
from contrastdiagnosis.files.output import replacing
from contrastdiagnosis.imaging.patch import PatchGeometry, resample
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrastdiagnosis_training.data.context import extend_along_slices

STORE_GEOMETRY = PatchGeometry(shape=(40, 80, 80))
"""Larger than a patch, so that shifted, turned and scaled patches can be cut from it."""

FORMAT = 4
"""Raised when the stored tensors change, so that old caches are made anew."""

KEPT_HU = (-1024, 3071)
"""More than the window holds: images are made worse before they are windowed."""

FILL, CONTINUED, STORED = 0, 1, 2
"""Where a voxel's intensity comes from: nowhere, `context.extend_along_slices`, or the file. The
higher, the surer."""


@dataclass(frozen=True, eq=False)
class PatchStore:
    """Training data of N nodules.

    Attributes:
        nodules: The N table rows.
        hu: (N, D, H, W) int16, continued beyond the stored slices.
        share: (N, D, H, W) uint8, share of the readers who marked the voxel, 255 = all.
        coverage: (N, D, H, W) uint8, `FILL`, `CONTINUED` or `STORED`.
        diameter_mm: (N,) diameter of the sphere of the consensus's volume.
        ratings: (N, R) mean ratings in the order of the source's scales, NaN where unknown.
        malignancy: (N,) mean on the scale that all sources share, NaN where unknown.
        suspicion: (N,) share of the readers who rate malignancy above 3 on that scale, a 3 counting
            half.
        case_source: Of the first folder: its scales and concepts are learnt. What the nodules of
            another one rate by other scales is unknown; their malignancy counts by their own rule.
    """

    nodules: list[Nodule]
    hu: Tensor
    share: Tensor
    coverage: Tensor
    diameter_mm: Tensor
    ratings: Tensor
    malignancy: Tensor
    suspicion: Tensor
    case_source: CaseSource

    def __len__(self) -> int:
        return len(self.nodules)

    def indices(self, keep: Callable[[Nodule], bool]) -> Tensor:
        """Positions of the nodules that `keep` accepts."""
        return torch.tensor([n for n, nodule in enumerate(self.nodules) if keep(nodule)])


def windowed(hu: Tensor) -> Tensor:
    """Hounsfield units as the network sees them, float32 in [0, 1]: `window` on any device."""
    low, high = STORE_GEOMETRY.window_hu
    return (hu.float().clamp(low, high) - low) / (high - low)


def load_patch_store(
    folders: Sequence[Path],
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    centers_ras_mm: Mapping[str, NDArray[np.float64]] | None = None,
) -> PatchStore:
    """The nodules of the folders, from the cache where it matches.

    Args:
        folders: Case folders; a nodule that stands in several is kept once for each.
        cache: Folder for the resampled tensors; None keeps them in memory only.
        on_progress: Called with (done, all) while patches are made.
        centers_ras_mm: (3,) middles of the patches by case, where they are not the centroids of
            the readers' consensus.
    """
    nodules = [nodule for folder in folders for nodule in read_case_folder(folder)]
    case_source = read_case_source(folders[0])
    centers = centers_ras_mm or {}
    file = cache / f"patches-{_fingerprint(nodules, centers)}.safetensors" if cache else None
    if file and file.is_file():
        tensors = load_file(file)
    else:
        tensors = _make_tensors(nodules, on_progress, centers)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as draft:
                save_file(tensors, draft)
    return PatchStore(
        nodules,
        hu=tensors["hu"],
        share=tensors["share"],
        coverage=tensors["coverage"],
        diameter_mm=tensors["diameter_mm"],
        ratings=torch.from_numpy(mean_ratings(nodules, case_source.scales)).float(),
        malignancy=torch.tensor([n.malignancy for n in nodules]),
        suspicion=torch.tensor([_suspicion(n) for n in nodules]),
        case_source=case_source,
    )


def mean_ratings(nodules: Sequence[Nodule], scales: Sequence[RatingScale]) -> NDArray[np.float64]:
    """(N, R) mean ratings in the order of the scales, NaN where unknown or rated by others."""
    rated = [nodule.rated_by(scales) for nodule in nodules]
    return np.array(
        [[np.mean(row[s.name]) if s.name in row else np.nan for s in scales] for row in rated],
        dtype=np.float64,
    ).reshape(len(nodules), len(scales))


def _suspicion(nodule: Nodule) -> float:
    votes = nodule.malignancy_by_reader
    return (
        float(((votes > UNDECIDED) + 0.5 * (votes == UNDECIDED)).mean()) if len(votes) else np.nan
    )


def _fingerprint(nodules: Sequence[Nodule], centers: Mapping[str, NDArray]) -> str:
    files = [
        (n.case_id, n.readers, file_sha256(n.image_path), file_sha256(n.mask_path)) for n in nodules
    ]
    told = {case: center.tolist() for case, center in centers.items()}
    text = json.dumps([FORMAT, asdict(STORE_GEOMETRY), files, *([told] if told else [])])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(file: Path) -> str:
    """Hexadecimal digest of a file: whether a cache is still of it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _make_tensors(
    nodules: Sequence[Nodule],
    on_progress: Callable[[int, int], None] | None,
    centers: Mapping[str, NDArray],
) -> dict[str, Tensor]:
    shape = (len(nodules), *STORE_GEOMETRY.shape)
    tensors = {
        "hu": torch.empty(shape, dtype=torch.int16),
        "share": torch.empty(shape, dtype=torch.uint8),
        "coverage": torch.empty(shape, dtype=torch.uint8),
        "diameter_mm": torch.empty(len(nodules)),
    }
    for n, nodule in enumerate(nodules):
        scan = read_scan(nodule)
        seed = int.from_bytes(hashlib.sha256(nodule.case_id.encode()).digest()[:8], "little")
        random, center = np.random.default_rng(seed), centers.get(nodule.case_id)
        for name, value in resample_nodule(scan, random, center).items():
            tensors[name][n] = torch.from_numpy(value)
        tensors["diameter_mm"][n] = scan.diameter_mm
        if on_progress:
            on_progress(n + 1, len(nodules))
    return tensors


def resample_nodule(
    scan: NoduleScan, random: np.random.Generator, center_ras_mm: NDArray | None = None
) -> dict[str, np.ndarray]:
    """`hu`, `share` and `coverage` of one nodule on the grid of `STORE_GEOMETRY`.

    Args:
        scan: The nodule.
        random: Draws what continues it beyond its slices.
        center_ras_mm: (3,) middle of the patch; the centroid of the consensus if not given.
    """
    reach_mm = STORE_GEOMETRY.shape[0] * STORE_GEOMETRY.spacing_mm[0] / 2
    longer, stored_slices = extend_along_slices(scan, reach_mm, random)
    store_to_volume = np.linalg.inv(longer.volume.ijk_to_ras) @ STORE_GEOMETRY.ijk_to_ras(
        scan.center_ras_mm if center_ras_mm is None else center_ras_mm
    )
    shape = STORE_GEOMETRY.shape
    hu, covered = resample(
        longer.volume.hu, store_to_volume, shape, fill=STORE_GEOMETRY.window_hu[0]
    )
    share, _ = resample(longer.share, store_to_volume, shape, fill=0)
    shift = np.eye(4)
    shift[2, 3] = -stored_slices.start
    _, stored = resample(scan.volume.hu, shift @ store_to_volume, shape, fill=0)
    return {
        "hu": np.round(hu).clip(*KEPT_HU).astype(np.int16),
        "share": np.round(share * 255).astype(np.uint8),
        "coverage": np.where(stored, STORED, np.where(covered, CONTINUED, FILL)).astype(np.uint8),
    }
