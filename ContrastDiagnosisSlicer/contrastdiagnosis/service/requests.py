"""What a request asks, read and checked; its fields are told in `protocol.request`."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.imaging.reading.scan_image import (
    HU_RANGE,
    MIN_SLICES,
    SPACING_RANGE_MM,
    has_wide_padding,
)
from contrastdiagnosis.imaging.volume import Volume, apply_affine, check_finite, holds_air
from contrastdiagnosis.protocol.fields import numbers
from contrastdiagnosis.protocol.map_variant import (
    SIGNS,
    LocalCam,
    Sign,
    checked_signs,
    read_map,
    read_signs,
)
from contrastdiagnosis.protocol.request import FIELDS, TENSORS, pack_request
from contrastdiagnosis.protocol.revision import Revision, read_revision
from contrastdiagnosis.protocol.tensors import unpack

VOXEL_TYPES = ("int16", "float32")
LEAST_DETERMINANT = 0.01
"""Of the axes' directions: 1 if they are orthogonal, 0.87 for a gantry tilted by 30 degrees."""

MARGIN = 2
"""Voxels around those that a patch reaches; interpolation needs one."""

SHA256_HEX = "([0-9a-fA-F]{64})?"
"""Pattern of a `series_sha256`; empty if not known."""


@dataclass(frozen=True, eq=False)
class NoduleRequest:
    """A question about one nodule.

    Attributes:
        volume: The crop of the CT around the point.
        point_ras_mm: (3,) the click.
        patient_id: Whose cases must not vote, if that is known.
        series_sha256: SHA-256 (hex) of the CT's series UID: tells a bundle's own scan without
            naming it; empty if not known.
        case_ids: Which cases maps are wanted for; empty takes all that are shown.
        overview: A thin slab of the CT at the point, for the report's overview.
        key: SHA-256 of all that the diagnosis depends on; not of the revision, which needs no new
            pass through the network.
        revision: What is corrected of the concepts.
        map: How maps are made. The diagnosis does not depend on it, nor on the signs.
        signs: Which maps are wanted of each pair; a report has both all the same.
    """

    volume: Volume
    point_ras_mm: tuple[float, float, float]
    patient_id: str | None
    series_sha256: str
    case_ids: tuple[str, ...]
    overview: Volume | None
    key: str
    revision: Revision = field(default_factory=Revision)
    map: LocalCam = LocalCam()
    signs: tuple[Sign, ...] = SIGNS


def request_body(
    volume: Volume,
    point_ras_mm: ArrayLike,
    patient_id: str | None = None,
    case_ids: Sequence[str] = (),
    variant: LocalCam = LocalCam(),
    signs: Sequence[Sign] = SIGNS,
) -> bytes:
    """The body that asks for the nodule at a point: only voxels around it leave the machine.

    Args:
        volume: The whole CT.
        point_ras_mm: (3,) the click.
        patient_id: Whose cases must not vote.
        case_ids: Which cases maps are wanted for; all that are shown if empty.
        variant: How the maps are made.
        signs: Which of them are wanted.
    """
    crop = crop_around(volume, point_ras_mm)
    hu = crop.hu if crop.hu.dtype.name in VOXEL_TYPES else crop.hu.astype(np.float32)
    return pack_request(
        hu,
        crop.ijk_to_ras,
        point_ras_mm,
        crop.part_of_ct,
        patient_id=patient_id,
        case_ids=case_ids,
        map_options=None if variant == LocalCam() else asdict(variant),
        signs=() if checked_signs(signs) == SIGNS else signs,
    )


def crop_around(volume: Volume, point_ras_mm: ArrayLike) -> Volume:
    """The part of a CT that a diagnosis at a point reads; empty where the CT does not reach."""
    ends = ((0, n - 1) for n in DEFAULT_GEOMETRY.shape[::-1])
    patch_to_volume = np.linalg.inv(volume.ijk_to_ras) @ DEFAULT_GEOMETRY.ijk_to_ras(point_ras_mm)
    reached = apply_affine(patch_to_volume, list(product(*ends)))[:, ::-1]
    size = np.array(volume.hu.shape)
    low = np.clip(np.floor(reached.min(axis=0)).astype(int) - MARGIN, 0, size)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + MARGIN + 1, low, size)
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] = volume.ras_from_ijk(low[::-1])
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    hu = volume.hu[k, j, i]
    only_tissue = not holds_air(hu) and len(volume.hu) >= MIN_SLICES and holds_air(volume.hu)
    return Volume(hu, affine, part_of_ct=only_tissue)


def read_request(body: bytes) -> NoduleRequest:
    """The question in a body.

    Args:
        body: The tensors and fields of `protocol.request`, of which `hu`, `ijk_to_ras` and
            `point_ras_mm` must be there.

    Raises:
        InputError: Something is missing, unknown or out of range.
    """
    tensors, document = unpack(body)
    unknown = (set(document) - FIELDS) | (set(tensors) - TENSORS)
    if unknown:
        raise InputError(f"the request holds unknown fields: {reprlib.repr(sorted(unknown))}")
    part_of_ct = document.get("part_of_ct", False)
    if not isinstance(part_of_ct, bool):
        raise InputError(f"part_of_ct must be true or false, got {reprlib.repr(part_of_ct)}")
    volume = replace(_volume(tensors, document, "hu", "ijk_to_ras"), part_of_ct=part_of_ct)
    overview = None
    if "overview_hu" in tensors:
        overview = _volume(tensors, document, "overview_hu", "overview_ijk_to_ras")
    r, a, s = numbers(document, "point_ras_mm", (3,)).tolist()
    patient_id = document.get("patient_id")
    series = document.get("series_sha256", "")
    case_ids = document.get("case_ids", [])
    if not (patient_id is None or isinstance(patient_id, str)):
        raise InputError(f"patient_id must be a text, got {reprlib.repr(patient_id)}")
    if not (isinstance(series, str) and re.fullmatch(SHA256_HEX, series)):
        raise InputError(f"series_sha256 must be 64 hex digits, got {reprlib.repr(series)}")
    if not (isinstance(case_ids, list) and all(isinstance(c, str) for c in case_ids)):
        raise InputError(f"case_ids must be a list of texts, got {reprlib.repr(case_ids)}")
    told = [volume.hu.dtype.str, volume.hu.shape, volume.ijk_to_ras.tolist(), part_of_ct, r, a, s]
    digest = hashlib.sha256(json.dumps([*told, patient_id, series.lower()]).encode())
    digest.update(np.ascontiguousarray(volume.hu).data)
    return NoduleRequest(
        volume, (r, a, s), patient_id, series, tuple(case_ids), overview, digest.hexdigest(),
        read_revision(document.get("revision", {})), read_map(document.get("map", {})),
        read_signs(document.get("signs", list(SIGNS))),
    )  # fmt: skip


def _volume(
    tensors: Mapping[str, NDArray], document: Mapping[str, Any], name: str, affine_name: str
) -> Volume:
    if name not in tensors:
        raise InputError(f"the request lacks the tensor {name!r}")
    hu = tensors[name]
    if hu.dtype.name not in VOXEL_TYPES:
        raise InputError(f"{name} must be {' or '.join(VOXEL_TYPES)}, got {hu.dtype.name}")
    if hu.ndim != 3 or hu.size == 0:
        raise InputError(f"{name} must have 3 dimensions (k, j, i) with voxels, got {hu.shape}")
    check_finite(hu)
    if has_wide_padding(hu):
        hu = hu.clip(*HU_RANGE)
    return Volume(hu, _affine(document, affine_name))


def _affine(document: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    affine = numbers(document, name, (4, 4))
    if affine[3].tolist() != [0, 0, 0, 1]:
        raise InputError(f"the last row of {name} must be 0 0 0 1, got {affine[3].tolist()}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if spacing.min() < low or spacing.max() > high:
        raise InputError(
            f"the spacing of {name} must lie between {low:g} and {high:g} mm, got"
            f" {spacing.tolist()}"
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < LEAST_DETERMINANT:
        raise InputError(f"the axes of {name} lie in one plane: {affine[:3, :3].tolist()}")
    return affine
