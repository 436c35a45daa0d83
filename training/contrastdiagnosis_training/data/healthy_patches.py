"""`HealthyPatches`: tissue without a nodule on the grid of the patch store, looking like its files.

Of whole CTs, of what the stacks show beside their nodules, and of the phantom. A lesion that is
told from healthy tissue by where its file ends would teach nothing: healthy tissue is cut to as
many millimetres of slices as the lesions' files have, and continued beyond them in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, NoduleScan, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import replacing
from contrastdiagnosis.imaging.axial import AxialSlices
from contrastdiagnosis.imaging.image_quality import image_quality
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis.imaging.volume import Volume, padding_of
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from contrastdiagnosis_training.data.acquisition import is_poor_scan
from contrastdiagnosis_training.data.healthy_points import (
    LESION_MM,
    HealthyCt,
    draw_points,
    lungs_of,
)
from contrastdiagnosis_training.data.patch_store import (
    STORE_GEOMETRY,
    file_sha256,
    resample_nodule,
)

FORMAT = 2
"""Raised when the stored tensors change, so that old caches are made anew."""

KINDS = ("vessel", "hilum", "pleura", "fissure", "parenchyma")
"""Of `healthy_points`: what lies in lung, or where lung begins."""

SIDE_MM = STORE_GEOMETRY.shape[2] * STORE_GEOMETRY.spacing_mm[2]
BESIDE_MM = 22.4
"""Side of the square beside a nodule that a stack gives; a small view of pre-training fills it."""

MARGIN_MM = 3.0
"""Between that square and anything that a reader marked."""

LUNG_SHARE = (0.4, 0.98)
"""Of that square, as light as lung: there is some, and something in it."""

PHANTOM_SEEDS = (11, 12)

BESIDE = "stack"
"""Source of the tissue beside a nodule."""

NAMES = ("patient_id", "source", "series_uid")


class HealthySources(NamedTuple):
    """Where healthy patches come from.

    Attributes:
        cts: Whole CTs, their lesions known.
        stacks: Nodules whose files show tissue beside them.
        per_kind: Points of each of `KINDS` a CT.
        phantom: Whether the phantom gives some too.
    """

    cts: Sequence[HealthyCt]
    stacks: Sequence[Nodule]
    per_kind: int = 16
    phantom: bool = True


@dataclass(frozen=True, eq=False)
class HealthyPatches:
    """M patches without a nodule.

    Attributes:
        hu: (M, D, H, W) int16 as in `PatchStore`.
        coverage: (M, D, H, W) uint8 likewise.
        patient_id: M names; those of stacks are their nodules'.
        source: M of "ct", `BESIDE` and "phantom".
        series_uid: M, empty where it is not known.
        poor: (M,) bool, whether the scan they come from is.
    """

    hu: Tensor
    coverage: Tensor
    patient_id: list[str]
    source: list[str]
    series_uid: list[str]
    poor: Tensor

    def __len__(self) -> int:
        return len(self.hu)


class _Found(NamedTuple):
    scan: NoduleScan
    patient_id: str
    source: str
    series_uid: str
    poor: bool


def load_healthy_patches(
    sources: HealthySources,
    extents_mm: NDArray[np.float64],
    cache: Path | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> HealthyPatches:
    """The healthy patches of the sources, from the cache where it matches.

    Args:
        sources: CTs, stacks, phantom.
        extents_mm: (N,) how many millimetres of slices the lesions' files show; drawn from.
        cache: Folder for the patches; None keeps them in memory only.
        seed: Draws places and extents.
        on_progress: Called with the number of patches made.

    Raises:
        InputError: No source shows healthy lung, or there are no lesions.
    """
    if not len(extents_mm):
        raise InputError("wanted lesions, to cut healthy tissue as their files are, got none")
    file = (
        cache / f"healthy-{_fingerprint(sources, extents_mm, seed)}.safetensors" if cache else None
    )
    if file and file.is_file():
        return _read(file)
    made: dict[str, list[NDArray]] = {"hu": [], "coverage": []}
    told: list[_Found] = []
    random = np.random.default_rng(seed)
    for found in _all(sources, extents_mm, random):
        for name, value in resample_nodule(found.scan, random).items():
            if name in made:
                made[name].append(value)
        told.append(found)
        if on_progress:
            on_progress(len(told))
    if not told:
        raise InputError(
            "wanted CTs with healthy lung, or nodules whose files show lung beside them; found"
            " neither, so there is nothing to tell lesions from"
        )
    patches = HealthyPatches(
        torch.from_numpy(np.stack(made["hu"])), torch.from_numpy(np.stack(made["coverage"])),
        [f.patient_id for f in told], [f.source for f in told], [f.series_uid for f in told],
        torch.tensor([f.poor for f in told]),
    )  # fmt: skip
    if file:
        _write(file, patches)
    return patches


def _all(
    sources: HealthySources, extents_mm: NDArray, random: np.random.Generator
) -> Iterator[_Found]:
    phantoms = (_phantom_ct(seed) for seed in PHANTOM_SEEDS) if sources.phantom else ()
    for source, cts in (("ct", sources.cts), ("phantom", phantoms)):
        for ct in cts:
            if not ct.lungs.any():
                continue
            for point in draw_points(ct, sources.per_kind, int(random.integers(2**31)), KINDS):
                yield _of_ct(ct, np.array(point.ras_mm), source, float(random.choice(extents_mm)))
    for nodule in sources.stacks:
        scan = beside_nodule(read_scan(nodule), random)
        if scan is not None:
            poor = _poor(scan.volume)
            yield _Found(scan, nodule.patient_id, BESIDE, nodule.series_uid, poor)


def _phantom_ct(seed: int) -> HealthyCt:
    phantom = make_phantom(seed=seed)
    boxes = [
        np.array(n.center_ras_mm) + np.array([[-1.0], [1.0]]) * max(n.diameter_mm, LESION_MM) / 2
        for n in phantom.nodules
    ]
    volume = phantom.volume
    return HealthyCt(f"phantom-{seed}", volume, lungs_of(volume), f"phantom-{seed}", tuple(boxes))


def _of_ct(ct: HealthyCt, ras_mm: NDArray, source: str, extent_mm: float) -> _Found:
    scan = cut_like_a_stack(ct.volume, ras_mm, extent_mm)
    return _Found(scan, ct.patient_id, source, "", _poor(ct.volume, ras_mm))


def _poor(volume: Volume, ras_mm: NDArray | None = None) -> bool:
    if ras_mm is None:
        ras_mm = volume.ras_from_ijk((np.array(volume.hu.shape[::-1]) - 1) / 2)
    quality = image_quality(crop_patch(volume, ras_mm), volume, ras_mm)
    return is_poor_scan(quality.slice_mm, quality.noise_hu, None)


def cut_like_a_stack(volume: Volume, ras_mm: NDArray, extent_mm: float) -> NoduleScan:
    """The voxels around a point of a CT, as a file of a nodule there would hold them.

    Args:
        volume: The CT.
        ras_mm: (3,) the point.
        extent_mm: Along the slices.

    Returns:
        As wide as the patch store, with a mark of one voxel at the point.
    """
    center = np.rint(volume.ijk_from_ras(ras_mm)).astype(int)[::-1]
    slice_mm, *pixel_mm = volume.spacing_mm
    slices = max(round(extent_mm / slice_mm), 1)
    reach = np.maximum(np.rint(SIDE_MM / 2 / np.array(pixel_mm)).astype(int), 1)
    first = center - [(slices - 1) // 2, *reach]
    low = np.maximum(first, 0)
    high = np.minimum(first + np.array([slices, *(2 * reach + 1)]), volume.hu.shape)
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] = volume.ras_from_ijk(low[::-1])
    return _marked(Volume(volume.hu[k, j, i], affine), center - low)


def beside_nodule(scan: NoduleScan, random: np.random.Generator) -> NoduleScan | None:
    """A square of a stack beside its nodule, mirrored to the stack's width; None if there is none.

    Args:
        scan: The nodule.
        random: Chooses among the squares that hold lung and nothing that a reader marked.
    """
    rows_mm, columns_mm = scan.volume.spacing_mm[1:]
    size = round(BESIDE_MM / rows_mm), round(BESIDE_MM / columns_mm)
    unmarked = scan.share.max(axis=0) == 0
    from_marks_mm = ndimage.distance_transform_edt(unmarked, sampling=(rows_mm, columns_mm))
    marked = from_marks_mm <= MARGIN_MM
    # Outside the body there is air as well, and no tissue to be told from a lesion.
    hu = scan.volume.hu.astype(np.float32)
    lung = AxialSlices(hu, scan.volume.spacing_mm, padding_of(hu)).lung().mean(axis=0)
    corners = [
        (j, i)
        for j in range(0, lung.shape[0] - size[0] + 1, 4)
        for i in range(0, lung.shape[1] - size[1] + 1, 4)
        if not marked[j : j + size[0], i : i + size[1]].any()
        and LUNG_SHARE[0] < lung[j : j + size[0], i : i + size[1]].mean() < LUNG_SHARE[1]
    ]
    if not corners:
        return None
    j, i = corners[random.integers(len(corners))]
    square = scan.volume.hu[:, j : j + size[0], i : i + size[1]]
    side = [round(SIDE_MM / s) for s in (rows_mm, columns_mm)]
    before = [(n - have) // 2 for n, have in zip(side, square.shape[1:], strict=True)]
    after = [n - have - b for n, have, b in zip(side, square.shape[1:], before, strict=True)]
    pads = [(0, 0), (before[0], after[0]), (before[1], after[1])]
    affine = scan.volume.ijk_to_ras.copy()
    affine[:3, 3] = scan.volume.ras_from_ijk([i - before[1], j - before[0], 0])
    volume = Volume(np.pad(square, pads, mode="symmetric"), affine)
    return _marked(volume, np.array(volume.hu.shape) // 2)


def _marked(volume: Volume, center: NDArray) -> NoduleScan:
    """A mark of one voxel tells where the patch's middle is; nothing of it is kept."""
    share = np.zeros(volume.hu.shape, np.float32)
    share[tuple(center.tolist())] = 1
    return NoduleScan(volume, share)


def _fingerprint(sources: HealthySources, extents_mm: NDArray, seed: int) -> str:
    cts = [_told_of_ct(ct) for ct in sources.cts]
    stacks = [
        [n.case_id, n.patient_id, n.series_uid, file_sha256(n.image_path), file_sha256(n.mask_path)]
        for n in sources.stacks
    ]
    told = [FORMAT, cts, stacks, sources.per_kind, sources.phantom, extents_mm.tolist(), seed]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _told_of_ct(ct: HealthyCt) -> list[object]:
    boxes = [box.tolist() for box in ct.lesions_ras_mm]
    voxels = [hashlib.sha256(v.tobytes()).hexdigest() for v in (ct.volume.hu, ct.lungs)]
    affine = ct.volume.ijk_to_ras.tolist()
    return [ct.name, ct.patient_id, *voxels, affine, boxes, ct.right_lung_only]


def _write(file: Path, patches: HealthyPatches) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"hu": patches.hu, "coverage": patches.coverage, "poor": patches.poor.byte()}
    names = {name: json.dumps(getattr(patches, name)) for name in NAMES}
    with replacing(file) as draft:
        save_file(tensors, draft, metadata=names)


def _read(file: Path) -> HealthyPatches:
    with safe_open(file, framework="pt") as stored:
        names = {name: json.loads(text) for name, text in stored.metadata().items()}
        hu, coverage, poor = (stored.get_tensor(n) for n in ("hu", "coverage", "poor"))
    return HealthyPatches(hu=hu, coverage=coverage, poor=poor.bool(), **names)
