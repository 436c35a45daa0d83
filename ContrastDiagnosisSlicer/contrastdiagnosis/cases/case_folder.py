"""Reading a case folder: `nodules.csv`, `image/`, `votes/` or `mask/`, and `ratings.json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from contrastdiagnosis.cases.library import check_case_id
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.pixels import CasePixels
from contrastdiagnosis.cases.source import CaseSource, RatingScale, source_from_document
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json, read_table
from contrastdiagnosis.imaging.patch import Patch, PatchGeometry, crop_patch, resample
from contrastdiagnosis.imaging.reading.files import read_file
from contrastdiagnosis.imaging.volume import Volume, volume_from_sitk

RATINGS_FILE = "ratings.json"
"""Beside nodules.csv: the fields of the folder's `CaseSource`. Without it that is LIDC-IDRI."""


@dataclass(frozen=True)
class Nodule:
    """One row of a case folder."""

    case_id: str
    """`<patient>_<cluster>` where the folder names clusters, else the file's name."""
    patient_id: str
    image_path: Path
    mask_path: Path
    readers: int
    """How many readers' marks the mask file counts; 1 for a single or merged mask."""
    ratings: dict[str, tuple[float, ...]]
    """Every reader's rating by name; names that the folder lacks are absent."""
    series_uid: str
    fold: int | None
    """Part of the patient-grouped protocol in which the nodule is tested."""
    source: str
    """Name of the case folder."""
    case_source: CaseSource
    """By whose scales it was rated."""

    def mean_rating(self, name: str) -> float:
        """Mean over the readers, NaN where the folder lacks the rating."""
        values = self.ratings.get(name, ())
        return float(np.mean(values)) if values else float("nan")

    @property
    def malignancy(self) -> float:
        """The readers' mean on the scale that all sources share, NaN where nobody rated it."""
        return float(self.case_source.malignancy_of(self.mean_rating(self.case_source.malignancy)))

    @property
    def malignancy_by_reader(self) -> NDArray[np.float64]:
        """(R,) every reader's rating on the same scale."""
        return self.case_source.malignancy_of(self.ratings.get(self.case_source.malignancy, ()))

    def rated_by(self, scales: Iterable[RatingScale]) -> dict[str, tuple[float, ...]]:
        """The ratings on some scales; what its own source rates by another scale is absent."""
        own = set(self.case_source.scales)
        names = [scale.name for scale in scales if scale in own]
        return {name: self.ratings[name] for name in names if name in self.ratings}


@dataclass(frozen=True, eq=False)
class NoduleScan:
    """A nodule's voxels.

    Attributes:
        volume: Hounsfield units and geometry.
        share: (D, H, W) float32, share of the readers who marked the voxel.
    """

    volume: Volume
    share: NDArray[np.float32]

    @property
    def consensus(self) -> NDArray[np.bool_]:
        """(D, H, W), at least half of the readers; all marks where no voxel has half."""
        half = self.share >= 0.5
        return half if half.any() else self.share > 0

    @property
    def center_ras_mm(self) -> NDArray[np.float64]:
        """Centroid of the consensus."""
        return self.volume.ras_from_ijk(np.argwhere(self.consensus).mean(axis=0)[::-1])

    @property
    def diameter_mm(self) -> float:
        """Diameter of the sphere of the consensus's volume."""
        volume_mm3 = self.consensus.sum() * self.volume.voxel_volume_mm3
        return float((6 * volume_mm3 / np.pi) ** (1 / 3))


def read_case_source(folder: Path) -> CaseSource:
    """Where a case folder's nodules come from, as its ratings.json says; else LIDC-IDRI.

    Raises:
        InputError: The file cannot be read, or does not describe a source.
    """
    file = Path(folder) / RATINGS_FILE
    if not file.exists():
        return LIDC
    document = read_json(file)
    try:
        return source_from_document(document)
    except ValueError as error:
        raise InputError(f"{file} does not describe a source of cases: {error}") from error


def read_case_folder(folder: Path) -> list[Nodule]:
    """The folder's nodules in the order of its table.

    Raises:
        InputError: The folder, its table, a needed column or an image is missing, or a rating is
            not on the scale of the folder's source.
    """
    folder = Path(folder)
    table = folder / "nodules.csv"
    if not table.is_file():
        raise InputError(
            f"wanted a case folder with nodules.csv, image/ and votes/ or mask/, got {folder}"
        )
    masks = next((folder / name for name in ("votes", "mask") if (folder / name).is_dir()), None)
    if masks is None:
        raise InputError(f"{folder} has neither votes/ nor mask/")
    case_source = read_case_source(folder)
    nodules = []
    for line, row in read_table(table, ("file", "patient_id")):
        try:
            nodules.append(_nodule(row, folder, masks, case_source))
        except ValueError as error:
            raise InputError(f"{table}, line {line}: {error}") from error
    if not nodules:
        raise InputError(f"{table} has no rows")
    absent = [
        n.image_path for n in nodules if not (n.image_path.is_file() and n.mask_path.is_file())
    ]
    if absent:
        raise InputError(
            f"{table} names {len(absent)} cases without image or mask; the first is {absent[0]}"
        )
    return nodules


def read_scan(nodule: Nodule) -> NoduleScan:
    """The nodule's voxels and the readers' marks."""
    volume = volume_from_sitk(read_file(nodule.image_path).image)
    votes = sitk.GetArrayFromImage(read_file(nodule.mask_path).image)
    if votes.shape != volume.hu.shape or not votes.any():
        raise InputError(
            f"{nodule.mask_path} is empty or not of its image's size {volume.hu.shape}"
        )
    readers = max(nodule.readers, int(votes.max()))
    return NoduleScan(volume, (votes / readers).astype(np.float32))


def case_pixels(nodule: Nodule, geometry: PatchGeometry) -> CasePixels:
    """The patch around a nodule with the readers' consensus, for `PixelStore`."""
    scan = read_scan(nodule)
    patch = crop_patch(scan.volume, scan.center_ras_mm, geometry)
    return CasePixels(patch.intensity, patch.valid, consensus_on(scan, patch))


def consensus_on(scan: NoduleScan, patch: Patch) -> NDArray[np.bool_]:
    """The readers' consensus on a patch's grid."""
    to_volume = np.linalg.inv(scan.volume.ijk_to_ras) @ patch.ijk_to_ras
    share, _ = resample(scan.consensus, to_volume, patch.intensity.shape, fill=0)
    return share >= 0.5


def _nodule(row: dict[str, str], folder: Path, masks: Path, case_source: CaseSource) -> Nodule:
    readers = _whole(row.get("n_readers") or "1") if masks.name == "votes" else 1
    cluster = row.get("cluster")
    file = row["file"]
    if not file or Path(file).name != file or "\\" in file:
        raise ValueError(f"file must be the name of one within image/, got {file!r}")
    case_id = f"{row['patient_id']}_{cluster}" if cluster else file.removesuffix(".nii.gz")
    check_case_id(case_id)
    return Nodule(
        case_id=case_id,
        patient_id=row["patient_id"],
        image_path=folder / "image" / file,
        mask_path=masks / file,
        readers=readers,
        ratings={s.name: values for s in case_source.scales if (values := _ratings(row, s))},
        series_uid=row.get("series_uid") or "",
        fold=_whole(row["fold"]) if row.get("fold") else None,
        source=folder.name,
        case_source=case_source,
    )


def _ratings(row: dict[str, str], scale: RatingScale) -> tuple[float, ...]:
    """Every reader's value, or the single value of folders with one rating a row."""
    text = row.get(f"{scale.name}_readers") or row.get(scale.name) or ""
    values = tuple(float(value) for value in text.split())
    scale.check(values)
    return values


def _whole(text: str) -> int:
    """A count, also as tables with gaps write it: 4.0."""
    number = float(text)
    if not np.isfinite(number) or not number.is_integer():
        raise ValueError(f"wanted a whole number, got {text}")
    return int(number)
