"""`NoduleFacts`: everything measured at a point that a diagnosis there can be doubted by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction, size_factor
from contrastdiagnosis.concepts.encoding import Encoding
from contrastdiagnosis.imaging.image_quality import MEASURES, ImageQuality, image_quality
from contrastdiagnosis.imaging.measure import AxialDiameters, bounding_box
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, PatchGeometry
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.trust.cues import CUE_NAMES, NoduleCues, nodule_cues

NEAR_MM = 3.0
"""Tissue this near to a nodule tells what it is attached to."""


@dataclass(frozen=True)
class NoduleFacts:
    """Plain numbers, so that evaluation can keep them in columns.

    Attributes:
        covered_share: Of the patch, where the scan measured something.
        volume_mm3: Of what was found at the point; 0 where nothing was.
        long_mm: Its longest axial diameter.
        beyond_patch: 1 if it reaches the patch's border, else 0.
        unmeasured_share: Of its mask, where the scan measured nothing.
        edge_mm: From its mask to the nearest place where the scan measured nothing, at most
            `NEAR_MM`.
        cut_share: Where the scan ends on two opposite sides of it: the smaller of the two
            cross-sections there, as a share of the largest; else 0.
        size_factor: By which its size contradicts the concepts of size; NaN without these.
        quality: What is measured of the image.
        cues: What tells a nodule from normal tissue.
    """

    covered_share: float
    volume_mm3: float
    long_mm: float
    beyond_patch: float
    unmeasured_share: float
    edge_mm: float
    cut_share: float
    size_factor: float
    quality: ImageQuality
    cues: NoduleCues

    @property
    def found(self) -> bool:
        """Whether there is a mask at the point."""
        return self.volume_mm3 > 0

    @property
    def row(self) -> list[float]:
        """The numbers in the order of `FACT_NAMES`."""
        flat = asdict(self)
        flat |= flat.pop("quality") | flat.pop("cues")
        return [float(flat[name]) for name in FACT_NAMES]


NESTED = ("quality", "cues")
FACT_NAMES = (
    *(f.name for f in fields(NoduleFacts) if f.name not in NESTED), *MEASURES, *CUE_NAMES
)  # fmt: skip


def facts_of_row(row: ArrayLike) -> NoduleFacts:
    """What `NoduleFacts.row` gave, read back."""
    values: Mapping[str, Any] = dict(
        zip(FACT_NAMES, np.asarray(row, dtype=float).tolist(), strict=True)
    )
    cues = NoduleCues(**{name: values[name] for name in CUE_NAMES})
    quality = ImageQuality(**{name: values[name] for name in MEASURES})
    own = {n: v for n, v in values.items() if n not in CUE_NAMES and n not in MEASURES}
    return NoduleFacts(**own, quality=quality, cues=cues)


def nodule_facts(
    encoding: Encoding,
    nodule: NDArray[np.bool_],
    diameters: AxialDiameters,
    volume: Volume,
    point_ras_mm: ArrayLike,
    geometry: PatchGeometry = DEFAULT_GEOMETRY,
    concepts: ConceptPrediction | None = None,
) -> NoduleFacts:
    """What is measured at a point.

    Args:
        encoding: Of the patch there.
        nodule: (D, H, W) the part of its mask that belongs to the point; may be empty.
        diameters: Of the nodule.
        volume: The CT, or a crop of it that holds the patch.
        point_ras_mm: (3,) the point.
        geometry: Of the patch.
        concepts: Of the patch, where there is a head.
    """
    patch = encoding.patch
    volume_mm3 = float(np.count_nonzero(nodule) * np.prod(geometry.spacing_mm))
    return NoduleFacts(
        covered_share=float(patch.valid.mean()),
        volume_mm3=volume_mm3,
        long_mm=diameters.long_mm,
        beyond_patch=float(_at_border(nodule)),
        unmeasured_share=float((~patch.valid[nodule]).mean()) if nodule.any() else 0.0,
        edge_mm=_edge_mm(nodule, patch.valid, geometry),
        cut_share=cut_share(nodule, patch.valid),
        size_factor=(
            size_factor(concepts.concepts, concepts.presence, volume_mm3)
            if concepts
            else float("nan")
        ),
        quality=image_quality(patch, volume, point_ras_mm, geometry),
        cues=nodule_cues(patch, encoding.probability, nodule, geometry),
    )


def _at_border(mask: NDArray[np.bool_]) -> bool:
    ends = (mask.take(end, axis).any() for axis in range(3) for end in (0, -1))
    return bool(any(ends))


def _edge_mm(nodule: NDArray[np.bool_], valid: NDArray[np.bool_], geometry: PatchGeometry) -> float:
    """Distance from a mask to the nearest voxel that the scan did not measure, capped."""
    if not nodule.any() or valid.all():
        return NEAR_MM
    margin = int(np.ceil(NEAR_MM / min(geometry.spacing_mm))) + 1
    box = bounding_box(nodule, margin)
    if valid[box].all():
        return NEAR_MM
    away = ndimage.distance_transform_edt(valid[box], sampling=geometry.spacing_mm)
    return float(min(away[nodule[box]].min(), NEAR_MM))


def cut_share(nodule: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    """How much of a mask's largest cross-section lies at both ends of the scan.

    Args:
        nodule: (D, H, W).
        valid: (D, H, W) where the scan measured something.

    Returns:
        0 if the scan goes on beyond the mask on some side of every axis, else the smaller of the
        cross-sections at the two ends as a share of the largest; 1 for a cylinder cut out of it.

    Example:
        >>> valid = np.zeros((6, 3, 3), bool)
        >>> valid[2:4] = True  # A scan of two slices.
        >>> nodule = np.ones((6, 3, 3), bool)
        >>> cut_share(nodule, valid)
        1.0
        >>> nodule[3, 1:] = False  # It tapers: a third is left in the last slice.
        >>> round(cut_share(nodule, valid), 3)
        0.333
    """
    largest = 0.0
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        reached = np.flatnonzero(valid.any(axis=others))
        area = np.count_nonzero(nodule & valid, axis=others)
        # The patch's own ends are none of the scan's.
        if len(reached) and reached[0] > 0 and reached[-1] < valid.shape[axis] - 1 and area.any():
            largest = max(largest, min(area[reached[0]], area[reached[-1]]) / area.max())
    return float(largest)
