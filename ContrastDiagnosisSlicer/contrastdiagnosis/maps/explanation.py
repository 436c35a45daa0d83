"""`Explanation`: what in the nodule, and in a case, makes the two alike or different."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from contrastdiagnosis.cases.library import CaseLibrary
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.imaging.patch import Patch, Region, values_to_volume
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.distance_parts import parts_sentence
from contrastdiagnosis.maps.local_cam import SideMaps, pair_maps
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.map_variant import LocalCam

TOP_MASS = 0.1
"""Share of a map's sum that the contour encloses (docs/methods.md 5.1)."""

NO_PICTURE = "the case has no picture here, so only the nodule's side is explained"


@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """One map on a patch grid.

    Attributes:
        values: (D, H, W) float32 in [0, 1], scaled to a maximum of 1; 0 throughout if empty.
        highest: The maximum before scaling: what maps of one pair are compared by.
    """

    values: NDArray[np.float32]
    highest: float

    @property
    def empty(self) -> bool:
        """Whether nothing speaks for this sign."""
        return self.highest == 0

    @property
    def slice_index(self) -> int:
        """The slice (k) that holds most of the map."""
        return int(self.values.sum(axis=(1, 2)).argmax())

    @property
    def contour_level(self) -> float:
        """The voxels of at least this value hold the top `TOP_MASS` of the map; 1 if empty."""
        ordered = np.sort(self.values[self.values > 0])[::-1].astype(np.float64)
        if not len(ordered):
            return 1.0
        reached = np.searchsorted(np.cumsum(ordered), TOP_MASS * ordered.sum())
        return float(ordered[min(reached, len(ordered) - 1)])


@dataclass(frozen=True, eq=False)
class SideExplanation:
    """Both signs on one side of a pair."""

    similar: EvidenceMap
    """What makes the pair similar: where a rise of the features would bring it closer."""
    different: EvidenceMap
    """What keeps it apart."""

    def of_sign(self, sign: str) -> EvidenceMap:
        """The map of "similar" or "different"."""
        return self.different if sign == "different" else self.similar


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a case lies where it does. Research use only."""

    case_id: str
    distance: float
    """AlignDist of the pair."""
    query: SideExplanation
    case: SideExplanation | None
    """None where the case has no pixels."""
    pixels: CasePixels | None
    variant: LocalCam = LocalCam()
    """How the maps were made."""
    statistics_share: float | None = None
    """Share of the distance that no map can show, of `distance_parts`; None where the pair is one
    and the same, or the case has neither pixels nor stored statistics."""

    @property
    def parts(self) -> dict[str, float] | None:
        """The distance in two parts, "statistics" and "features"; None without a share."""
        if self.statistics_share is None:
            return None
        statistics = self.statistics_share * self.distance
        return {"statistics": statistics, "features": self.distance - statistics}

    @property
    def parts_sentence(self) -> str:
        """What the parts say; empty without a share."""
        return "" if self.statistics_share is None else parts_sentence(self.statistics_share)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the user about what there is no evidence of."""
        if self.query.similar.empty and self.query.different.empty:
            return (
                f"the network cannot tell the nodule from this case (distance {self.distance:.3f}),"
                " so there is nothing to explain",
            )
        remarks = []
        if self.query.similar.empty:
            remarks.append(
                "no similar evidence: nothing in the nodule brings it closer to the case"
            )
        if self.query.different.empty:
            remarks.append(
                "no evidence of difference: nothing in the nodule keeps it from the case"
            )
        return tuple(remarks)


def explain_pairs(
    network: NoduleNet,
    patch: Patch,
    case_ids: Sequence[str],
    library: CaseLibrary,
    pixels: PixelStore,
    options: LocalCam = LocalCam(),
) -> tuple[Explanation, ...]:
    """Siamese Local-CAM of one nodule against cases of the library, in one batch.

    Args:
        network: In eval mode, on its device.
        patch: The nodule.
        case_ids: Which cases.
        library: Holds their embeddings.
        pixels: Holds the pictures of those that have any.
        options: The variant of the maps.

    Raises:
        InputError: The library has no such case, or a picture is damaged.
    """
    device = next(network.parameters()).device
    stored = {n: pixels.read(c) for n, c in enumerate(case_ids) if pixels.has(c)}
    statistics = library.statistics_of(case_ids)
    maps = pair_maps(
        network,
        torch.from_numpy(patch.intensity).to(device),
        torch.from_numpy(library.embeddings_of(case_ids)).to(device),
        torch.from_numpy(np.stack([p.intensity for p in stored.values()])).to(device)
        if stored
        else None,
        list(stored),
        options,
        None if statistics is None else torch.from_numpy(statistics).to(device),
    )
    place = {n: m for m, n in enumerate(stored)}
    return tuple(
        Explanation(
            case_id=case_id,
            distance=float(maps.distance[n]),
            query=_side(maps.query, n),
            case=_side(maps.case, place[n]) if n in place else None,
            pixels=stored.get(n),
            variant=options,
            statistics_share=share if np.isfinite(share) else None,
        )
        for n, (case_id, share) in enumerate(
            zip(case_ids, maps.statistics_share.tolist(), strict=True)
        )
    )


def map_on_volume(evidence: EvidenceMap, patch: Patch, volume: Volume) -> Region:
    """The map on the volume's own grid: linear interpolation under the patch, 0 elsewhere."""
    return values_to_volume(evidence.values, patch.ijk_to_ras, volume)


def _side(maps: SideMaps, n: int) -> SideExplanation:
    return SideExplanation(
        EvidenceMap(maps.similar[n].cpu().numpy(), float(maps.similar_max[n])),
        EvidenceMap(maps.different[n].cpu().numpy(), float(maps.different_max[n])),
    )
