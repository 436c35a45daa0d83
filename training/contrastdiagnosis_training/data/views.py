"""Views of stored nodules: made worse, as a poorer scan would be, windowed, augmented."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from contrastdiagnosis_training.data.augment import Augmentation, Views, augment
from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST, degrade
from contrastdiagnosis_training.data.patch_store import STORE_GEOMETRY, PatchStore, windowed


class NoduleViews(NamedTuple):
    """Views of a batch.

    Attributes:
        seen: (B) views.
        degraded: (B,) bool, which are of a poorer scan.
        as_scanned: The same views of the scans as they are, of those that are degraded alone; None
            where none is, or nobody asked.
    """

    seen: Views
    degraded: Tensor
    as_scanned: Views | None


def nodule_views(
    store: PatchStore,
    positions: Tensor,
    options: Augmentation | None,
    generator: torch.Generator,
    extent: Tensor | None = None,
) -> Views:
    """One view of each nodule, on the generator's device; arguments as of `paired_views`."""
    return paired_views(store, positions, options, generator, extent, paired=False).seen


def paired_views(
    store: PatchStore,
    positions: Tensor,
    options: Augmentation | None,
    generator: torch.Generator,
    extent: Tensor | None = None,
    paired: bool = True,
) -> NoduleViews:
    """One view of each nodule, on the generator's device, and how it would be without degradation.

    Args:
        store: Holds the nodules.
        positions: (B,) which of them.
        options: None cuts the centred patch out of the stored voxels, as inference does.
        generator: Source of all draws.
        extent: (N, 3, 2) `marked_extent` of the store, where it is known already.
        paired: Whether `as_scanned` is wanted.
    """
    device = generator.device
    scanned = store.hu[positions].to(device).float()
    hu, degraded = scanned, torch.zeros(len(scanned), dtype=torch.bool, device=device)
    if options is not None and options.degraded:
        hu, degraded = _some_degraded(scanned, options.degraded, generator)
    drawn = generator.get_state()

    def view(hu: Tensor) -> Views:
        generator.set_state(drawn)
        return augment(
            windowed(hu),
            store.share[positions].to(device),
            store.coverage[positions].to(device),
            options,
            generator,
            None if extent is None else extent[positions].to(device),
        )

    as_scanned = None
    if paired and degraded.any():
        as_scanned = Views(*(part[degraded] for part in view(scanned)))
    return NoduleViews(view(hu), degraded, as_scanned)


def degraded_at_random(hu: Tensor, least: int, generator: torch.Generator) -> Tensor:
    """(B, D, H, W) Hounsfield units, each item by a drawn operation of a drawn severity.

    Args:
        hu: (B, D, H, W) on the grid of `STORE_GEOMETRY`.
        least: Lowest severity that is drawn, 1 to 5.
        generator: On hu's device.
    """
    count, device = len(hu), hu.device

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), device=device, generator=generator)

    operations = [DEGRADATIONS[n] for n in draw(0, len(DEGRADATIONS)).tolist()]
    severity = draw(least, WORST + 1)
    seeds = draw(0, 2**31 - 1).tolist()
    return degrade(hu, operations, severity, STORE_GEOMETRY.spacing_mm, seeds)


def _some_degraded(hu: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The patches with a share of them made poorer, and which."""
    chosen = torch.rand(len(hu), device=hu.device, generator=generator) < share
    if chosen.any():
        hu = hu.clone()
        hu[chosen] = degraded_at_random(hu[chosen], 1, generator)
    return hu, chosen
