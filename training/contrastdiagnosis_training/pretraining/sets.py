"""`FourSets`: lesions and healthy tissue, in good images and in poor ones (arXiv:2404.04887)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.image_quality import image_quality
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from numpy.typing import NDArray
from torch import Tensor

from contrastdiagnosis_training.data.acquisition import Acquisition, is_poor_scan
from contrastdiagnosis_training.data.augment import Augmentation, augment, marked_extent
from contrastdiagnosis_training.data.healthy_patches import BESIDE, HealthyPatches
from contrastdiagnosis_training.data.patch_store import STORE_GEOMETRY, PatchStore, windowed
from contrastdiagnosis_training.data.views import degraded_at_random
from contrastdiagnosis_training.pretraining.recipe import (
    HEALTHY,
    LESION,
    POOR_HEALTHY,
    POOR_LESION,
    SETS,
)

HEALTHY_EXTENT_MM = 8.0
"""Views of lesions are cut beyond the lesion, of healthy tissue beyond a middle this large."""

MIDDLE_EXTENT = torch.tensor(
    [
        [(n - 1) / 2 - HEALTHY_EXTENT_MM / 2 / s, (n - 1) / 2 + HEALTHY_EXTENT_MM / 2 / s]
        for n, s in zip(STORE_GEOMETRY.shape, STORE_GEOMETRY.spacing_mm, strict=True)
    ]
)
"""(3, 2) that middle's first and last index along (k, j, i)."""


MIDDLE = slice(25, 55)
"""Rows and columns of the patch store, 21 mm: a stack shows as much beside a nodule."""


def mirrored_middle(patches: Tensor) -> Tensor:
    """(..., H, W) the middle of patches of the patch store, mirrored to their width.

    A stack shows no more than that of the tissue beside its nodule. By the seam alone whole lesions
    could be told from such patches (AUC .97): lesions are mirrored as well, as many of them.

    Args:
        patches: (..., H, W).
    """
    rows, columns = (
        torch.from_numpy(
            np.pad(np.arange(side)[MIDDLE], (MIDDLE.start, side - MIDDLE.stop), mode="symmetric")
        )
        for side in patches.shape[-2:]
    )
    return patches[..., rows, :][..., columns]


@dataclass(frozen=True, eq=False)
class Tissue:
    """N patches of one kind of tissue.

    Attributes:
        hu: (N, D, H, W) int16 on the grid of the patch store.
        share: (N, D, H, W) uint8, or None where no reader marked anything.
        coverage: (N, D, H, W) uint8.
        patient: (N,) int64, one number a patient over all tissues.
        poor: (N,) bool, whether the image is poor as it was scanned.
    """

    hu: Tensor
    share: Tensor | None
    coverage: Tensor
    patient: Tensor
    poor: Tensor

    def __len__(self) -> int:
        return len(self.hu)

    def mirrored(self, chosen: Tensor) -> Tissue:
        """The tissue, but of the chosen patches, (N,) bool, the middle alone, mirrored."""
        places = torch.nonzero(chosen).flatten()
        hu = self.hu.index_copy(0, places, mirrored_middle(self.hu[places]))
        coverage = self.coverage.index_copy(0, places, mirrored_middle(self.coverage[places]))
        if self.share is None:
            return replace(self, hu=hu, coverage=coverage)
        marked = torch.zeros_like(self.share[places])
        marked[..., MIDDLE, MIDDLE] = self.share[places][..., MIDDLE, MIDDLE]
        share = self.share.index_copy(0, places, marked)
        return replace(self, hu=hu, coverage=coverage, share=share)

    @cached_property
    def _marked(self) -> Tensor:
        share = torch.zeros(0) if self.share is None else self.share
        marked = torch.cat([marked_extent(part) for part in share.split(64)])
        # A detector may have found the lesion so far away that the patch holds no mark.
        empty = (marked[..., 1] < 0).any(dim=1)
        return torch.where(empty[:, None, None], MIDDLE_EXTENT, marked)

    def extent(self, positions: Tensor) -> Tensor:
        """(B, 3, 2) first and last index along (k, j, i) that a view is not cut within."""
        if self.share is not None:
            return self._marked[positions]
        return MIDDLE_EXTENT.expand(len(positions), 3, 2)


@dataclass(frozen=True, eq=False)
class FourSets:
    """The four sets; a set's patches are told by positions in its tissue.

    Attributes:
        lesions: Of L and L~.
        healthy: Of H and H~.
        least_severity: Of what makes a good image poor.
        poorer: (R, N, D, H, W) int16 of L~ and H~: copies of their patches that were made poor
            once and for all; without them they are made poor each time anew.
    """

    lesions: Tissue
    healthy: Tissue
    least_severity: int
    poorer: Mapping[str, Tensor] = field(default_factory=dict)

    def with_copies(self, count: int, generator: torch.Generator) -> FourSets:
        """The sets with `count` poor copies of each patch, which spares a step half of its time.

        Args:
            count: R; none if 0.
            generator: Draws how they are made poor.
        """
        if not count:
            return self
        poorer = {}
        for name in (POOR_LESION, POOR_HEALTHY):
            members = self.members(name).split(64)
            copies = [
                torch.cat(
                    [self.hu(name, part, generator).round().short().cpu() for part in members]
                )
                for _ in range(count)
            ]
            poorer[name] = torch.stack(copies)
        return replace(self, poorer=poorer)

    def tissue(self, name: str) -> Tissue:
        """That of a set of `SETS`."""
        return self.lesions if name in (LESION, POOR_LESION) else self.healthy

    def members(self, name: str) -> Tensor:
        """(M,) positions of a set: of the good images, or of all, for they are made poor."""
        tissue = self.tissue(name)
        if name in (LESION, HEALTHY):
            return torch.nonzero(~tissue.poor).flatten()
        return torch.arange(len(tissue))

    def hu(self, name: str, positions: Tensor, generator: torch.Generator) -> Tensor:
        """(B, D, H, W) Hounsfield units of members, made poor where the set asks for it.

        Args:
            name: Of `SETS`.
            positions: (B,) of `members(name)`.
            generator: Draws how they are made poor; on the device that is wanted.
        """
        tissue = self.tissue(name)
        if name in self.poorer:
            copies, device = self.poorer[name], generator.device
            which = torch.randint(
                len(copies), (len(positions),), device=device, generator=generator
            )
            return copies[which.cpu(), positions].to(device).float()
        hu = tissue.hu[positions].to(generator.device).float()
        good = ~tissue.poor[positions]
        if name in (POOR_LESION, POOR_HEALTHY) and good.any():
            hu[good] = degraded_at_random(hu[good], self.least_severity, generator)
        return hu

    def views(
        self,
        name: str,
        positions: Tensor,
        hu: Tensor,
        options: Augmentation | None,
        generator: torch.Generator,
        shape: tuple[int, int, int],
    ) -> Tensor:
        """(B, 1, *shape) one view of each member.

        Args:
            name: Of `SETS`.
            positions: (B,) of the members.
            hu: (B, D, H, W) theirs.
            options: How views are drawn; None for the centred patch.
            generator: Draws them.
            shape: (D, H, W) of the views.
        """
        tissue, device = self.tissue(name), generator.device
        box = seen_of_store(shape, options)
        coverage = tissue.coverage[positions][:, *box].to(device)
        share = torch.zeros_like(coverage)
        if tissue.share is not None:
            share = tissue.share[positions][:, *box].to(device)
        first = torch.tensor([part.start for part in box])
        extent = (tissue.extent(positions) - first[None, :, None]).to(device)
        seen = windowed(hu[:, *box])
        return augment(seen, share, coverage, options, generator, extent, shape).intensity

    def whole_views(self, name: str, positions: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 1, 32, 64, 64) centred patches of members, not augmented, as inference sees them."""
        hu = self.hu(name, positions, generator)
        return self.views(name, positions, hu, None, generator, DEFAULT_GEOMETRY.shape)


def seen_of_store(
    shape: tuple[int, int, int], options: Augmentation | None
) -> tuple[slice, slice, slice]:
    """The middle of the patch store that views can reach, along (k, j, i).

    Args:
        shape: (D, H, W) of the views.
        options: How they are drawn.
    """
    whole = STORE_GEOMETRY.shape
    if options is None or options.far:
        return slice(0, whole[0]), slice(0, whole[1]), slice(0, whole[2])
    boxes = []
    for axis, (size, stored) in enumerate(zip(shape, whole, strict=True)):
        turned = size if axis == 0 else np.hypot(*shape[1:])
        shift = options.shift_mm / STORE_GEOMETRY.spacing_mm[axis]
        reach = int(np.ceil(turned / 2 * (1 + options.scale) + shift)) + 1
        # The middle stays the middle: as much is left out at either end.
        out = max(stored // 2 - reach, 0)
        boxes.append(slice(out, stored - out))
    k, j, i = boxes
    return k, j, i


def four_sets(
    lesions: PatchStore,
    positions: NDArray[np.int64],
    healthy: HealthyPatches,
    acquisitions: Mapping[str, Acquisition],
    least_severity: int,
    seen: Callable[[str], bool] = lambda patient: True,
) -> FourSets:
    """The sets of the chosen lesions and of the healthy patches of patients that may be seen.

    Args:
        lesions: Nodules.
        positions: (N,) which of them.
        healthy: Patches without a nodule.
        acquisitions: How series were scanned, by UID; what is not told is judged by what is
            measured.
        least_severity: Of what makes a good image poor.
        seen: Whether the healthy tissue of a patient may be seen.

    Raises:
        InputError: One of the sets would be empty.
    """
    kept = [n for n, patient in enumerate(healthy.patient_id) if seen(patient)]
    beside = torch.tensor([healthy.source[n] == BESIDE for n in kept]).bool()
    chosen = [lesions.nodules[n] for n in positions.tolist()]
    names = [n.patient_id for n in chosen] + [healthy.patient_id[n] for n in kept]
    number = {name: n for n, name in enumerate(sorted(set(names)))}
    patient = torch.tensor([number[name] for name in names])
    poor = native_quality(lesions, positions, acquisitions)
    poor_healthy = _poor_healthy(healthy, kept, acquisitions)
    sets = FourSets(
        Tissue(
            lesions.hu[positions], lesions.share[positions], lesions.coverage[positions],
            patient[: len(chosen)], poor,
        ).mirrored(_as_many(poor, poor_healthy, beside)),
        Tissue(
            healthy.hu[kept], None, healthy.coverage[kept], patient[len(chosen) :], poor_healthy,
        ).mirrored(beside),
        least_severity,
    )  # fmt: skip
    _check(sets)
    return sets


def _as_many(poor: Tensor, poor_healthy: Tensor, beside: Tensor) -> Tensor:
    """(N,) which lesions are mirrored: of good and of poor images the share that is of healthy."""
    chosen = torch.zeros(len(poor), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for quality in (False, True) if len(beside) else ():
        places = torch.nonzero(poor == quality).flatten()
        of_healthy = beside[poor_healthy == quality]
        share = float((of_healthy if len(of_healthy) else beside).float().mean())
        order = torch.randperm(len(places), generator=generator)
        chosen[places[order[: round(share * len(places))]]] = True
    return chosen


def _poor_healthy(
    healthy: HealthyPatches, kept: list[int], acquisitions: Mapping[str, Acquisition]
) -> Tensor:
    told = [acquisitions.get(healthy.series_uid[n]) for n in kept]
    return healthy.poor[kept] | torch.tensor([t is not None and t.poor for t in told]).bool()


def _check(sets: FourSets) -> None:
    told = {
        LESION: "lesions in good images",
        POOR_LESION: "lesions",
        HEALTHY: "healthy tissue in good images",
        POOR_HEALTHY: "healthy tissue",
    }
    empty = [told[name] for name in SETS if not len(sets.members(name))]
    if empty:
        raise InputError(
            f"pre-training needs {' and '.join(dict.fromkeys(empty))}; there is none among the"
            " patients that may be seen"
        )


def native_quality(
    store: PatchStore, positions: Sequence[int] | NDArray, acquisitions: Mapping[str, Acquisition]
) -> Tensor:
    """(N,) bool: whether the images of nodules are poor as they were scanned.

    Args:
        store: Holds the nodules.
        positions: (N,) which of them.
        acquisitions: How series were scanned, by UID.
    """
    poor = []
    for n in np.asarray(positions).tolist():
        nodule = store.nodules[n]
        scan = read_scan(nodule)
        point = scan.center_ras_mm
        quality = image_quality(crop_patch(scan.volume, point), scan.volume, point)
        told = acquisitions.get(nodule.series_uid)
        poor.append(is_poor_scan(quality.slice_mm, quality.noise_hu, told))
    return torch.tensor(poor, dtype=torch.bool)
