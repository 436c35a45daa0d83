"""What travels between panel and server: tensors and JSON in one safetensors body, no pickle."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from contrastdiagnosis.concepts.revision import ELSEWHERE, Box, Mode, Revision
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.imaging.reading.scan_image import (
    FARTHEST_MM,
    HU_RANGE,
    MIN_SLICES,
    SPACING_RANGE_MM,
    has_wide_padding,
)
from contrastdiagnosis.imaging.volume import Volume, apply_affine, check_finite, holds_air
from contrastdiagnosis.maps.map_variant import SIGNS, LocalCam, Sign, checked_signs

CONTENT_TYPE = "application/vnd.safetensors"

JSON_KEY = "json"
"""Where the JSON stands in the metadata of a body."""

HEADER_BYTES = 100_000
"""Longest header of a body: JSON takes many times its length in memory. One of a request that names
six cases takes 1000."""

VOXEL_TYPES = ("int16", "float32")
LEAST_DETERMINANT = 0.01
"""Of the axes' directions: 1 if they are orthogonal, 0.87 for a gantry tilted by 30 degrees."""

MARGIN = 2
"""Voxels around those that a patch reaches; interpolation needs one."""

TENSORS = {"hu", "overview_hu"}
FIELDS = {
    "ijk_to_ras",
    "point_ras_mm",
    "patient_id",
    "series_sha256",
    "case_ids",
    "overview_ijk_to_ras",
    "part_of_ct",
    "revision",
    "map",
    "signs",
}
MAP_FIELDS = {field.name for field in fields(LocalCam)}
BOX_FIELDS = {"center_ras_mm", "size_mm", "look", "concept", "axes"}
REVISION_FIELDS = {"boxes", "rejected", "mode", "elsewhere"}
MOST_BOXES = 100


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


def pack(tensors: Mapping[str, NDArray], document: Mapping[str, Any]) -> bytes:
    """A body of named arrays and a JSON document."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(contiguous, {JSON_KEY: json.dumps(document)})


def unpack(body: bytes) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The arrays and the JSON document of a body.

    Raises:
        InputError: The body is no safetensors file with a JSON object in its metadata.
    """
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 + length or length > HEADER_BYTES:
        raise InputError(
            f"wanted a safetensors body with a header of at most {HEADER_BYTES} bytes, got"
            f" {len(body)} bytes that announce a header of {length}"
        )
    try:
        tensors = load(body)
    except KeyError as error:
        raise InputError(f"a tensor of the body is of type {error}, which is not known") from error
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"wanted a safetensors body, got {len(body)} bytes: {str(error)[:200]}"
        ) from error
    metadata = json.loads(body[8 : 8 + length].decode()).get("__metadata__") or {}
    if JSON_KEY not in metadata:
        raise InputError(f"the body's metadata has no {JSON_KEY!r}")
    try:
        document = json.loads(metadata[JSON_KEY], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON in the body's metadata is damaged: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"wanted a JSON object in the metadata, got {reprlib.repr(document)}")
    return tensors, document


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
    document = {
        "ijk_to_ras": crop.ijk_to_ras.tolist(),
        "point_ras_mm": np.asarray(point_ras_mm, dtype=np.float64).tolist(),
        "patient_id": patient_id,
        "case_ids": list(case_ids),
        "part_of_ct": crop.part_of_ct,
    }
    # An older server refuses fields that it does not know.
    if variant != LocalCam():
        document["map"] = asdict(variant)
    if checked_signs(signs) != SIGNS:
        document["signs"] = list(signs)
    return pack({"hu": hu}, document)


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
        body: Tensor `hu` (D, H, W) and optionally `overview_hu`, int16 or float32 Hounsfield units
            in (k, j, i) order; JSON with `ijk_to_ras` (4x4), `point_ras_mm` (3) and optionally
            `patient_id`, `series_sha256`, `case_ids`, `overview_ijk_to_ras` and `part_of_ct` (true
            where `hu` holds no air, but the CT that it was cut from does), `revision`, `map` and
            `signs`.

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
    r, a, s = _numbers(document, "point_ras_mm", (3,)).tolist()
    patient_id = document.get("patient_id")
    series = document.get("series_sha256", "")
    case_ids = document.get("case_ids", [])
    if not (patient_id is None or isinstance(patient_id, str)):
        raise InputError(f"patient_id must be a text, got {reprlib.repr(patient_id)}")
    if not (isinstance(series, str) and re.fullmatch("([0-9a-fA-F]{64})?", series)):
        raise InputError(f"series_sha256 must be 64 hex digits, got {reprlib.repr(series)}")
    if not (isinstance(case_ids, list) and all(isinstance(c, str) for c in case_ids)):
        raise InputError(f"case_ids must be a list of texts, got {reprlib.repr(case_ids)}")
    told = [volume.hu.dtype.str, volume.hu.shape, volume.ijk_to_ras.tolist(), part_of_ct, r, a, s]
    digest = hashlib.sha256(json.dumps([*told, patient_id, series.lower()]).encode())
    digest.update(np.ascontiguousarray(volume.hu).data)
    return NoduleRequest(
        volume, (r, a, s), patient_id, series, tuple(case_ids), overview, digest.hexdigest(),
        read_revision(document.get("revision", {})), read_map(document.get("map", {})),
        _signs(document.get("signs", list(SIGNS))),
    )  # fmt: skip


def read_map(document: object) -> LocalCam:
    """The variant of the maps in JSON, each field as in `LocalCam`; what is absent is as usual.

    Raises:
        InputError: Something is unknown or of another kind.
    """
    usual = json.loads(json.dumps(asdict(LocalCam())))
    values = {**usual, **_known_fields(document, MAP_FIELDS, "map")}
    levels, window, outside = (values[name] for name in ("levels", "window_cells", "outside"))
    # `bool` is an `int`.
    if not (isinstance(levels, list) and all(type(level) is int for level in levels)):
        raise InputError(f"levels must be a list of 4, 3, 2 and 1, got {reprlib.repr(levels)}")
    if not (window is None or type(window) is int):
        raise InputError(f"window_cells must be odd or null, got {reprlib.repr(window)}")
    for name in ("rectified", "through_mask"):
        if not isinstance(values[name], bool):
            raise InputError(f"{name} must be true or false, got {reprlib.repr(values[name])}")
    if not _is_numbers(outside, ()):
        raise InputError(f"outside must be a number, got {reprlib.repr(outside)}")
    return LocalCam(**{**values, "levels": tuple(levels)})


def _signs(value: object) -> tuple[Sign, ...]:
    if not (isinstance(value, list) and all(isinstance(sign, str) for sign in value)):
        raise InputError(f"signs must be a list of texts, got {reprlib.repr(value)}")
    return checked_signs(value)


def read_revision(document: object) -> Revision:
    """The revision in JSON: `boxes`, `rejected`, `mode`, `elsewhere`, each as in `Revision`.

    Raises:
        InputError: Something is unknown or of another kind.
    """
    values = _known_fields(document, REVISION_FIELDS, "revision")
    boxes, rejected = values.get("boxes", []), values.get("rejected", [])
    if not (isinstance(boxes, list) and len(boxes) <= MOST_BOXES):
        raise InputError(f"boxes must be a list of at most {MOST_BOXES}, got {reprlib.repr(boxes)}")
    if not (isinstance(rejected, list) and all(isinstance(name, str) for name in rejected)):
        raise InputError(f"rejected must be a list of texts, got {reprlib.repr(rejected)}")
    elsewhere = values.get("elsewhere", ELSEWHERE)
    if not _is_numbers(elsewhere, ()):
        raise InputError(f"elsewhere must be a number, got {reprlib.repr(elsewhere)}")
    mode = values.get("mode", "absent_median")
    if not isinstance(mode, str):
        raise InputError(f"mode must be a text, got {reprlib.repr(mode)}")
    return Revision(
        tuple(_box(box) for box in boxes), tuple(rejected), cast(Mode, mode), float(elsewhere)
    )


def _box(document: object) -> Box:
    values = _known_fields(document, BOX_FIELDS, "box")
    look, concept = values.get("look"), values.get("concept")
    if not isinstance(look, bool):
        raise InputError(f"look must be true or false, got {reprlib.repr(look)}")
    if not (concept is None or isinstance(concept, str)):
        raise InputError(f"concept must be a text, got {reprlib.repr(concept)}")
    center, size = (_numbers(values, name, (3,)).tolist() for name in ("center_ras_mm", "size_mm"))
    axes = _numbers({"axes": np.eye(3).tolist(), **values}, "axes", (3, 3)).tolist()
    return Box(tuple(center), tuple(size), look, concept, tuple(tuple(row) for row in axes))


def _known_fields(document: object, known: set[str], name: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InputError(f"wanted a JSON object for {name}, got {reprlib.repr(document)}")
    if unknown := set(document) - known:
        raise InputError(f"the {name} holds unknown fields: {reprlib.repr(sorted(unknown))}")
    return document


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
    affine = _numbers(document, name, (4, 4))
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


def _numbers(document: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if name not in document:
        raise InputError(f"the request lacks {name!r}")
    if not _is_numbers(document[name], shape):
        raise InputError(
            f"{name} must be {' x '.join(map(str, shape))} numbers of at most {FARTHEST_MM:g}, got"
            f" {reprlib.repr(document[name])}"
        )
    return np.array(document[name], dtype=np.float64)


def _is_numbers(value: object, shape: tuple[int, ...]) -> bool:
    """Whether JSON is an array of a shape; told before NumPy guesses a type."""
    if not shape:
        # `bool` is an `int`, and no number is within bounds that is not finite.
        return type(value) in (int, float) and abs(value) <= FARTHEST_MM  # type: ignore[arg-type]
    return (
        isinstance(value, list)
        and len(value) == shape[0]
        and all(_is_numbers(part, shape[1:]) for part in value)
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
