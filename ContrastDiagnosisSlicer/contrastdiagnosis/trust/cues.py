"""`NoduleCues`: what tells a nodule from a vessel and other normal tissue."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.measure import bounding_box
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, PatchGeometry, hu_of

HAZE = 0.05
"""Probabilities below this are not counted as mask."""

LUNG_HU = -850.0
"""Of aerated lung; brightness is told relative to it and to the nodule's own density."""

SOFT_TISSUE_HU = 50.0
"""Denser than this is told as this, so that calcium and contrast medium do not count."""

RAYS = 200
"""Directions that tissue is followed in, evenly over the sphere."""

BEYOND_MM = (1.0, 1.5, 2.0, 2.5)
"""Distances beyond the mask at which a ray must still meet tissue."""

OPPOSITE = -0.8
"""Cosine below which two rays go opposite ways: vessels bend."""

STEP_MM = 0.5
SMOOTHING_MM = 0.56


@dataclass(frozen=True)
class NoduleCues:
    """Measured of a mask and the tissue around it; NaN where nothing was found.

    Attributes:
        certainty: Log odds of the mean probability within the mask: how sure the segmentation is.
        alone: Log odds of the mask's share of all probability in the patch: normal tissue lights up
            in many places.
        elongation: Logarithm of the largest over the second largest principal extent.
        density_hu: Mean within the mask, at most `SOFT_TISSUE_HU`.
        through: Brightness of the tissue that goes on beyond the mask in two opposite directions,
            0 for lung, 1 for the mask's own density: a vessel passes through, a nodule ends.
    """

    certainty: float
    alone: float
    elongation: float
    density_hu: float
    through: float

    @property
    def found(self) -> bool:
        """Whether there was anything to measure."""
        return bool(np.isfinite(self.certainty))


CUE_NAMES = tuple(field.name for field in fields(NoduleCues))
NO_CUES = NoduleCues(*[float("nan")] * len(CUE_NAMES))


def nodule_cues(
    patch: Patch,
    probability: NDArray[np.float32],
    nodule: NDArray[np.bool_],
    geometry: PatchGeometry = DEFAULT_GEOMETRY,
) -> NoduleCues:
    """The cues of what was found in a patch.

    Args:
        patch: The tissue.
        probability: (D, H, W) of belonging to a nodule.
        nodule: (D, H, W) the mask that belongs to the point; may be empty.
        geometry: Of the patch.
    """
    if not nodule.any():
        return NO_CUES
    inside = probability[nodule]
    density_hu = float(hu_of(patch.intensity[nodule], geometry).mean())
    return NoduleCues(
        certainty=_log_odds(float(inside.mean())),
        alone=_log_odds(float(inside.sum() / probability[probability > HAZE].sum())),
        elongation=_elongation(nodule, np.array(geometry.spacing_mm)),
        density_hu=min(density_hu, SOFT_TISSUE_HU),
        through=_through(patch, nodule, density_hu, geometry),
    )


def _log_odds(share: float) -> float:
    share = min(max(share, 0.02), 0.985)
    return float(np.log(share / (1 - share)))


def _elongation(nodule: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> float:
    where = np.argwhere(nodule) * spacing_mm
    # The voxels' own extent is added, so that a mask of one voxel has one too.
    spread = np.cov(where.T, bias=True) if len(where) > 1 else np.zeros((3, 3))
    extents = np.sqrt(np.linalg.eigvalsh(spread + np.diag(spacing_mm**2 / 12)))
    return float(np.log(extents[2] / extents[1]))


def _sphere() -> NDArray[np.float64]:
    """(RAYS, 3) unit vectors on a Fibonacci lattice."""
    n = np.arange(RAYS) + 0.5
    polar, turn = np.arccos(1 - 2 * n / RAYS), np.pi * (1 + 5**0.5) * n
    across = np.sin(polar)
    return np.stack([np.cos(polar), across * np.sin(turn), across * np.cos(turn)], axis=1)


DIRECTIONS = _sphere()
OPPOSED = DIRECTIONS @ DIRECTIONS.T < OPPOSITE


def _through(
    patch: Patch, nodule: NDArray[np.bool_], density_hu: float, geometry: PatchGeometry
) -> float:
    """How bright the tissue is that goes on beyond a mask in two opposite directions."""
    spacing_mm = np.array(geometry.spacing_mm)
    margin = int(np.ceil((max(BEYOND_MM) + 2) / spacing_mm.min()))
    box = bounding_box(nodule, margin)
    mask, valid = nodule[box], patch.valid[box]
    hu = ndimage.gaussian_filter(hu_of(patch.intensity[box], geometry), SMOOTHING_MM / spacing_mm)
    middle = _middle(mask, spacing_mm)
    reach_mm = float(np.linalg.norm(np.array(mask.shape) * spacing_mm))
    steps = np.arange(0, reach_mm, STEP_MM)
    along = middle + steps[:, None, None] * DIRECTIONS / spacing_mm
    index = np.rint(along).astype(int)
    within = ((index >= 0) & (index < mask.shape)).all(axis=-1)
    k, j, i = np.where(within[..., None], index, 0).transpose(2, 0, 1)
    met = mask[k, j, i] & within
    last_mm = steps[len(steps) - 1 - met[::-1].argmax(axis=0)]
    beyond = middle + (last_mm + np.array(BEYOND_MM)[:, None])[..., None] * DIRECTIONS / spacing_mm
    places = beyond.reshape(-1, 3).T
    met_hu = ndimage.map_coordinates(hu, places, order=1, cval=LUNG_HU)
    seen = ndimage.map_coordinates(valid.astype(np.float32), places, order=1, cval=0) > 0.99
    brightness = (met_hu - LUNG_HU) / (min(density_hu, SOFT_TISSUE_HU) - LUNG_HU + 1e-6)
    goes_on = np.where(seen, brightness, 0).clip(0, 1.2).reshape(len(BEYOND_MM), RAYS).min(axis=0)
    return float(np.where(OPPOSED, np.minimum.outer(goes_on, goes_on), 0).max())


def _middle(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mask's centroid, or its thickest place where the centroid lies beside it."""
    middle = np.argwhere(mask).mean(axis=0)
    if not mask[tuple(np.rint(middle).astype(int))]:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)
        middle = np.array(np.unravel_index(depth.argmax(), depth.shape), dtype=float) - 1
    return middle
