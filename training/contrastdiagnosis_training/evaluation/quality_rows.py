"""What is measured of images as they are and made poorer, one row an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.image_quality import MEASURES, ImageQuality, image_quality
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from contrastdiagnosis.imaging.volume import Volume, padding_of
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from contrastdiagnosis_training.data.batches import batched
from contrastdiagnosis_training.data.columns import kept_columns
from contrastdiagnosis_training.data.degradations.degrade import (
    DEGRADATIONS,
    degrade,
    faults_of,
    item_seed,
)
from contrastdiagnosis_training.data.degradations.noise import LOW_DOSE_HU
from contrastdiagnosis_training.data.degradations.slices import THICKNESS_MM
from contrastdiagnosis_training.data.healthy_points import HealthyCt, draw_points

CLEAN = "clean"

OWN = ("white_noise", "coarse_noise", "sliding_slices", "own_grid_slices")
"""Poorer images of other makings than `DEGRADATIONS`, so that these alone are not learnt."""

HELD_OUT = ("sliding_slices",)
"""Those that no detector is fitted to: whether makings that were not learnt are told as well."""

PAIRS = (
    "motion+blur", "motion+thick_slices", "blur+thick_slices", "motion+low_dose", "blur+low_dose",
    "thick_slices+low_dose", "own_grid_slices+low_dose",
)  # fmt: skip
"""Two faults at once, in the order in which a scanner makes them: noise is of the slices."""

COARSE_NOISE_MM = 0.8
"""Standard deviation of the Gaussian that coarse noise is smoothed by within the slices."""

MARGIN_MM = 12.0
"""Degraded beyond what is looked at, so that the ends of the grid stay out of sight."""

PART = 16
"""Places whose measures are kept together: about half a minute of work."""

FORMAT = 1
"""Raised when scans are made poorer or measured otherwise, so that they are measured anew."""

LEAST_SLICES = 2
STORED_HU = (-1024, 3071)


@dataclass(frozen=True, eq=False)
class QualityRows:
    """N images.

    Attributes:
        measures: (N, len(MEASURES)).
        operation: (N,) text, `CLEAN` or how it was made poorer.
        severity: (N,) from 1 to 5, 0 where it is clean.
        image: (N,) text, whose image: the clean one and its poorer copies share it.
        patient_id: (N,) text.
        source: (N,) text, the case folder or the CT.
        fold: (N,) part of the protocol, -1 where there is none.
    """

    measures: NDArray[np.float64]
    operation: NDArray
    severity: NDArray[np.int64]
    image: NDArray
    patient_id: NDArray
    source: NDArray
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.operation)

    def __getitem__(self, chosen: NDArray) -> QualityRows:
        """The chosen rows."""
        return QualityRows(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def measure(self, name: str) -> NDArray[np.float64]:
        """(N,) one of `MEASURES`."""
        return self.measures[:, MEASURES.index(name)]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """(N,)."""
        return np.asarray(self.operation == CLEAN)

    def qualities(self) -> list[ImageQuality]:
        """The rows as the engine has them."""
        return [ImageQuality(*row) for row in self.measures.tolist()]


def joined_rows(parts: Sequence[QualityRows]) -> QualityRows:
    """All rows of several tables.

    Raises:
        InputError: There is none.
    """
    if not parts:
        raise InputError("there is no image to measure")
    return QualityRows(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(QualityRows))
    )


@dataclass(frozen=True, eq=False)
class Place:
    """A point of a scan; fields as in `QualityRows`."""

    volume: Volume
    point_ras_mm: NDArray[np.float64]
    image: str
    patient_id: str
    source: str
    fold: int = -1


def nodule_places(nodules: Iterable[Nodule]) -> Iterator[Place]:
    """The middle of each nodule."""
    for nodule in nodules:
        scan = read_scan(nodule)
        fold = -1 if nodule.fold is None else nodule.fold
        yield Place(
            scan.volume, scan.center_ras_mm, nodule.case_id, nodule.patient_id, nodule.source, fold
        )


def ct_places(
    cts: Iterable[HealthyCt],
    count: int,
    seed: int = 0,
    kinds: tuple[str, ...] = ("vessel", "parenchyma"),
) -> Iterator[Place]:
    """Up to `count` points of each kind of tissue in CTs."""
    for ct in cts:
        for n, point in enumerate(draw_points(ct, count, seed, kinds)):
            yield Place(ct.volume, np.array(point.ras_mm), f"{ct.name} {n}", ct.patient_id, ct.name)


def measured(
    places: Iterable[Place], operations: Sequence[str], severities: Sequence[int]
) -> QualityRows:
    """What is measured at some places of the images as they are, and made poorer in each way.

    Args:
        places: Where.
        operations: Of `DEGRADATIONS` and `OWN`, or several of them, as in `PAIRS`.
        severities: From 1 to 5.

    Raises:
        InputError: There is no place.
        ValueError: An operation is not known.
    """
    unknown = sorted({f for o in operations for f in faults_of(o)} - {*DEGRADATIONS, *OWN})
    if unknown:
        raise ValueError(f"wanted operations among {(*DEGRADATIONS, *OWN)}, got {unknown}")
    rows: list[tuple] = []
    ways = [(CLEAN, 0), *((o, s) for o in operations for s in severities)]
    for place in places:
        near = _around(place)
        for operation, severity in ways:
            seed = item_seed(place.image, operation, severity)
            poorer = degraded_volume(near, operation, severity, seed)
            if poorer is None:
                continue
            patch = crop_patch(poorer, place.point_ras_mm)
            quality = image_quality(patch, poorer, place.point_ras_mm)
            rows.append(
                ([getattr(quality, name) for name in MEASURES], operation, severity, place.image,
                 place.patient_id, place.source, place.fold)
            )  # fmt: skip
    if not rows:
        raise InputError("there is no image to measure")
    return QualityRows(*(np.array(column) for column in zip(*rows, strict=True)))


def measured_in_parts(
    places: Iterable[Place], operations: Sequence[str], severities: Sequence[int], folder: Path
) -> QualityRows:
    """As `measured`, but what was measured is kept, `PART` places a file, and not measured again.

    It is kept under all that it depends on, the voxels too: another image of the same name is
    measured anew.

    Args:
        places: Where.
        operations: As of `measured`.
        severities: Likewise.
        folder: Of these files; made if it is not there.

    Raises:
        InputError: There is no place.
        ValueError: An operation is not known.
    """
    parts = []
    for part in batched(places, PART):
        asked = [_asked(place) for place in part]
        made_from = [FORMAT, MEASURES, list(operations), list(severities), asked]
        make = partial(measured, part, operations, severities)
        parts.append(kept_columns(QualityRows, folder, made_from, make))
    return joined_rows(parts)


def degraded_volume(volume: Volume, operation: str, severity: int, seed: int) -> Volume | None:
    """The volume made poorer, in whole HU; None where its slices are as thick or too few for it.

    Args:
        volume: Without padding.
        operation: `CLEAN`, or of `DEGRADATIONS`, `OWN` and `PAIRS`.
        severity: From 0 to 5; of both faults of a pair.
        seed: Of what is drawn.
    """
    for fault in faults_of(operation):
        poorer = _poorer(volume, fault, severity, seed)
        if poorer is None:
            return None
        volume = poorer
    return volume


def _poorer(volume: Volume, operation: str, severity: int, seed: int) -> Volume | None:
    """With one fault more."""
    hu = volume.hu.astype(np.float32)
    affine = volume.ijk_to_ras
    if operation == "own_grid_slices":
        made = _own_grid(hu, volume, THICKNESS_MM[severity - 1])
        if made is None:
            return None
        hu, affine = made
    elif operation == "sliding_slices":
        weights = _slab(THICKNESS_MM[severity - 1] / volume.spacing_mm[0])
        if len(weights) == 1:
            return None
        hu = ndimage.correlate1d(hu, weights, 0, mode="nearest")
    elif operation in OWN:
        hu = hu + LOW_DOSE_HU[severity - 1] * _noise(operation, hu.shape, volume, seed)
    elif operation != CLEAN:
        steps, seeds = torch.tensor([severity]), [seed]
        tensor = torch.from_numpy(hu)[None]
        hu = degrade(tensor, [operation], steps, volume.spacing_mm, seeds)[0].numpy()
    stored = np.clip(np.rint(hu), *STORED_HU).astype(np.int16)
    return Volume(stored, affine, part_of_ct=True)


def _noise(
    operation: str, shape: tuple[int, ...], volume: Volume, seed: int
) -> NDArray[np.float32]:
    """Of a standard deviation of 1."""
    noise = np.random.default_rng(seed).normal(size=shape)
    if operation == "coarse_noise":
        _, row_mm, column_mm = volume.spacing_mm
        reach = (0, COARSE_NOISE_MM / row_mm, COARSE_NOISE_MM / column_mm)
        noise = ndimage.gaussian_filter(noise, reach, mode="wrap")
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _slab(thickness: float) -> NDArray[np.float64]:
    """Weights of the voxels within a slab, thickness in voxels; one where it is no thicker."""
    if thickness <= 1.2:
        return np.ones(1)
    reach = int(np.ceil(thickness / 2))
    share = np.clip(thickness / 2 - np.abs(np.arange(-reach, reach + 1)) + 0.5, 0, 1)
    return np.asarray(share / share.sum())


def _own_grid(
    hu: NDArray[np.float32], volume: Volume, thickness_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
    """Means of whole slices, side by side, and where these lie."""
    together = round(thickness_mm / volume.spacing_mm[0])
    count = len(hu) // max(together, 1)
    if together < 2 or count < LEAST_SLICES:
        return None
    means = hu[: count * together].reshape(count, together, *hu.shape[1:]).mean(axis=1)
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] += affine[:3, 2] * (together - 1) / 2
    affine[:3, 2] *= together
    return means, affine


def _around(place: Place) -> Volume:
    """What is looked at with `MARGIN_MM`, padding made air."""
    volume = place.volume
    sides_mm = np.array(DEFAULT_GEOMETRY.shape) * DEFAULT_GEOMETRY.spacing_mm
    # The corner's distance, since the volume's axes may lie anyhow.
    reach_mm = _reach_mm(volume, sides_mm / 2)
    at = volume.ijk_from_ras(place.point_ras_mm)[::-1]
    reach = (reach_mm + MARGIN_MM) / volume.spacing_mm
    low = np.clip(np.floor(at - reach).astype(int), 0, np.array(volume.hu.shape) - 1)
    high = np.clip(np.ceil(at + reach).astype(int) + 1, low + 1, volume.hu.shape)
    box = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    hu = volume.hu[box]
    padding = padding_of(hu)
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] = volume.ras_from_ijk(low[::-1])
    return Volume(hu if padding is None else np.where(padding, -1000, hu), affine)


def _asked(place: Place) -> tuple:
    """All of a place that its rows depend on, as JSON can tell it."""
    near = _around(place)
    voxels = hashlib.sha256(np.ascontiguousarray(near.hu).tobytes())
    voxels.update(f"{near.hu.dtype.str} {near.hu.shape} {near.ijk_to_ras.tolist()}".encode())
    names = (place.source, place.image, place.patient_id, place.fold)
    return (*names, *place.point_ras_mm.tolist(), voxels.hexdigest())


def _reach_mm(volume: Volume, half_mm: ArrayLike) -> NDArray[np.float64]:
    """Half of a patch along the volume's (k, j, i)."""
    axes = volume.ijk_to_ras[:3, :3] / np.array(volume.spacing_mm[::-1])
    half_ras_mm = np.asarray(half_mm, dtype=np.float64)[::-1]
    return np.asarray((np.abs(axes).T @ half_ras_mm)[::-1])
