"""What a click sends: the fields of a request about a nodule, all that leaves for the engine.

The panel fills them from the scene (`Scene/VolumeBridge.py`), a program from a volume; the server
reads and checks them (`service/requests.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.protocol.tensors import pack

TENSORS = {
    "hu",  # (D, H, W) int16 or float32 HU around the point, (k, j, i).
    "overview_hu",  # A thin slab of the CT at the point, for the report's overview.
}
FIELDS = {
    "ijk_to_ras",  # 4x4, of `hu`.
    "point_ras_mm",  # 3 numbers, the click.
    "patient_id",  # Whose cases must not vote; the panel never sends it.
    "series_sha256",  # SHA-256 (hex) of the series UID; the panel tells it to an own engine alone.
    "case_ids",  # Cases that maps are wanted for; none takes all that are shown.
    "overview_ijk_to_ras",  # 4x4, of `overview_hu`.
    "part_of_ct",  # True where `hu` holds no air, but the CT that it was cut from does.
    "revision",  # What is corrected of the concepts (`protocol.revision`).
    "map",  # How maps are made, where not as usual (`protocol.map_variant`).
    "signs",  # Which maps of a pair are wanted, where not both.
}
"""Nothing else is sent, and anything else is refused."""


def pack_request(
    hu: NDArray[Any],
    ijk_to_ras: NDArray[np.float64],
    point_ras_mm: ArrayLike,
    part_of_ct: bool,
    *,
    overview: tuple[NDArray[Any], NDArray[np.float64]] | None = None,
    patient_id: str | None = None,
    series_sha256: str = "",
    case_ids: Sequence[str] = (),
    revision: Mapping[str, Any] | None = None,
    map_options: Mapping[str, Any] | None = None,
    signs: Sequence[str] = (),
) -> bytes:
    """The body of a request; what is not given is left out, for older servers refuse new fields.

    Args:
        hu: (D, H, W) int16 or float32 Hounsfield units around the point, in (k, j, i) order.
        ijk_to_ras: (4, 4) affine of `hu`.
        point_ras_mm: (3,) the click, RAS.
        part_of_ct: `hu` holds no air, but the CT that it was cut from does.
        overview: A slab of the CT and its affine, for the report.
        patient_id: Whose cases must not vote.
        series_sha256: SHA-256 (hex) of the DICOM series' UID.
        case_ids: Cases that maps are wanted for.
        revision: What is corrected, as `protocol.revision.read_revision` reads it.
        map_options: How maps are made, as `protocol.map_variant.read_map` reads it.
        signs: Which maps of a pair are wanted; both if none is named.
    """
    tensors = {"hu": hu}
    document: dict[str, Any] = {
        "ijk_to_ras": ijk_to_ras.tolist(),
        "point_ras_mm": np.asarray(point_ras_mm, dtype=np.float64).tolist(),
        "part_of_ct": part_of_ct,
    }
    options = {
        "patient_id": patient_id,
        "series_sha256": series_sha256,
        "case_ids": list(case_ids),
        "revision": revision,
        "map": map_options,
        "signs": list(signs),
    }
    document |= {name: value for name, value in options.items() if value}
    if overview is not None:
        tensors["overview_hu"], affine = overview
        document["overview_ijk_to_ras"] = affine.tolist()
    return pack(tensors, document)
