"""Points of whole CTs where no nodule is: vessels, hila, pleura, fissures, and what is further off.

How they are drawn, on voxels of 1 mm: tubes and sheets are told by the eigenvalues of the Hessian
(Frangi, MICCAI 1998), walls and hila by the distance to the lungs. Points of a kind are drawn at
random and lie at least `APART_MM` apart; none lies within `AWAY_MM` of a known lesion's box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json, read_table
from contrastdiagnosis.imaging.patch import resample
from contrastdiagnosis.imaging.reading.files import read_file
from contrastdiagnosis.imaging.volume import LPS_TO_RAS, Volume, read_volume
from numpy.typing import NDArray
from scipy import ndimage

KINDS = (
    "vessel", "hilum", "pleura", "fissure", "parenchyma", "mediastinum", "chest wall", "outside",
)  # fmt: skip

APART_MM = 8.0
AWAY_MM = 20.0
LESION_MM = 24.0
"""Side of the box that is taken for a lesion of which the centre alone is known."""

LUNG_MM3 = 50_000
"""Less is no lung."""

AIR_HU = -960
"""Median of air outside the body and in the airways lies below."""

SIGMA_MM = 1.5
"""Scale of the Hessian: vessels and fissures of a few millimetres."""


@dataclass(frozen=True, eq=False)
class HealthyCt:
    """A CT with its lungs.

    Attributes:
        name: Of its file.
        volume: The CT.
        lungs: (D, H, W) bool on its grid.
        lesions_ras_mm: Boxes (2, 3), lowest and highest corner.
        patient_id: Two CTs of one patient share it.
        right_lung_only: Only the patient's right half is known to be healthy.
    """

    name: str
    volume: Volume
    lungs: NDArray[np.bool_]
    patient_id: str
    lesions_ras_mm: tuple[NDArray[np.float64], ...] = ()
    right_lung_only: bool = False


class HealthyPoint(NamedTuple):
    """A place where no nodule is."""

    ct: str
    kind: str
    ras_mm: tuple[float, float, float]


def read_healthy_cts(folder: Path) -> Iterator[HealthyCt]:
    """The CTs of a folder whose tissue is known to be healthy somewhere.

    Args:
        folder: Like `ct_lungs`: `cts.csv` with the columns `file`, `source` (names the patient),
            `lesion_boxes_lps_mm` (xmin xmax ymin ymax zmin zmax, ";" between boxes) and
            `healthy_crops` ("no..." leaves a CT out, "right" in it leaves the left lung out);
            `image/` and `lungs/`. Or like `ct_click`: one NIfTI, and `lesion.json` with
            `lesion_centre_LPS_mm`.

    Raises:
        InputError: A file or column is missing.
    """
    if (folder / "lesion.json").is_file():
        yield _ct_with_one_lesion(folder)
        return
    table = folder / "cts.csv"
    if not table.is_file():
        raise InputError(f"no table of CTs at {table}")
    columns = ("file", "source", "lesion_boxes_lps_mm", "healthy_crops")
    for _, row in read_table(table, columns):
        healthy = row["healthy_crops"]
        if healthy.startswith("no"):
            continue
        volume = read_volume(folder / "image" / row["file"])
        lungs = read_mask(folder / "lungs" / row["file"], volume)
        boxes = [b.split() for b in row["lesion_boxes_lps_mm"].split(";") if b.strip()]
        yield HealthyCt(
            row["file"].removesuffix(".nii.gz"), volume, lungs, row["source"],
            tuple(_box(np.array(b, dtype=float)) for b in boxes), "right" in healthy,
        )  # fmt: skip


def _ct_with_one_lesion(folder: Path) -> HealthyCt:
    files = sorted(folder.glob("*.nii.gz"))
    if len(files) != 1:
        raise InputError(f"wanted one CT in {folder}, got {len(files)}")
    lps = read_json(folder / "lesion.json")["lesion_centre_LPS_mm"]
    center = LPS_TO_RAS[:3, :3] @ np.array(lps)
    volume = read_volume(files[0])
    box = np.stack([center - LESION_MM / 2, center + LESION_MM / 2])
    name = files[0].name.removesuffix(".nii.gz")
    return HealthyCt(name, volume, lungs_of(volume), name, (box,))


def read_mask(file: Path, volume: Volume) -> NDArray[np.bool_]:
    """A mask on the grid of a CT."""
    mask = sitk.GetArrayFromImage(read_file(file).image) > 0
    if mask.shape != volume.hu.shape:
        raise InputError(f"{file} is not of its CT's size {volume.hu.shape}")
    return mask


def lungs_of(volume: Volume) -> NDArray[np.bool_]:
    """Lungs of a CT for which no mask is at hand: large light parts that are no air, closed."""
    smooth = ndimage.gaussian_filter(volume.hu.astype(np.float32), 1)
    labels, count = ndimage.label(smooth < -500)
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, numbers) * volume.voxel_volume_mm3
    large = numbers[sizes > LUNG_MM3]
    medians = ndimage.median(smooth, labels, large)
    lungs = np.isin(labels, large[np.asarray(medians) > AIR_HU])
    reach = [max(1, round(4 / s)) for s in volume.spacing_mm]
    ball = np.ones([2 * r + 1 for r in reach], bool)
    closed = ndimage.binary_closing(np.pad(lungs, [(r, r) for r in reach], "edge"), ball)
    return np.asarray(closed[tuple(slice(r, -r) for r in reach)])


def _box(lps: NDArray[np.float64]) -> NDArray[np.float64]:
    corners = lps.reshape(3, 2).T @ LPS_TO_RAS[:3, :3]
    return np.sort(corners, axis=0)


def draw_points(
    ct: HealthyCt, count: int, seed: int = 0, kinds: tuple[str, ...] = KINDS
) -> list[HealthyPoint]:
    """Up to `count` points of each kind.

    Args:
        ct: Where from.
        count: Points of a kind.
        seed: Draws them.
        kinds: Some of `KINDS`.
    """
    grid = _Grid(ct)
    points = []
    for n, kind in enumerate(KINDS):
        if kind in kinds:
            random = np.random.default_rng([seed, n])
            for ras in grid.draw(kind, count, random):
                points.append(HealthyPoint(ct.name, kind, ras))
    return points


class _Grid:
    """A CT on upright voxels of 1 mm, (k, j, i) = (S, P, L), and what lies where."""

    def __init__(self, ct: HealthyCt) -> None:
        volume = ct.volume
        size = np.array(volume.hu.shape[::-1])
        ends = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (size - 1)
        corners = volume.ras_from_ijk(ends)
        low, high = corners.min(axis=0), corners.max(axis=0)
        self.to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
        self.to_ras[:3, 3] = high[0], high[1], low[2]
        i, j, k = ((high - low).astype(int) + 1).tolist()
        shape = (k, j, i)
        to_volume = np.asarray(np.linalg.inv(volume.ijk_to_ras) @ self.to_ras, dtype=np.float64)
        hu, valid = resample(volume.hu, to_volume, shape, fill=-1000.0)
        lungs, _ = resample(ct.lungs.astype(np.float32), to_volume, shape, fill=0.0)
        self.hu, self.lungs = hu, lungs > 0.5
        self.valid = valid & self._healthy(ct, shape)
        self.thick_mm = max(volume.spacing_mm)
        self.smooth = ndimage.gaussian_filter(self.hu, SIGMA_MM)
        self.from_lungs = ndimage.distance_transform_edt(~self.lungs)
        self.in_lungs = ndimage.distance_transform_edt(self.lungs)
        found = np.argwhere(self.lungs)
        self.middle = found.mean(axis=0)
        self.body = self._body()

    def _body(self) -> NDArray[np.bool_]:
        """Whatever lies between tissue in its slice: lungs and airways are body."""
        tissue = ndimage.binary_opening(self.smooth > -300, iterations=2)
        return np.stack([ndimage.binary_fill_holes(s) for s in tissue | self.lungs])

    def _healthy(self, ct: HealthyCt, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        healthy = np.ones(shape, bool)
        axes = [self.to_ras[a, 3] + self.to_ras[a, a] * np.arange(shape[2 - a]) for a in range(3)]
        for low, high in ct.lesions_ras_mm:
            r, a, s = (
                (x >= low[n] - AWAY_MM) & (x <= high[n] + AWAY_MM) for n, x in enumerate(axes)
            )
            healthy &= ~(s[:, None, None] & a[None, :, None] & r[None, None, :])
        if ct.right_lung_only:
            lungs = np.argwhere(ct.lungs)[:, ::-1]
            middle = ct.volume.ras_from_ijk(lungs.mean(axis=0))[0]
            healthy &= (axes[0] > middle + 5)[None, None, :]
        return healthy

    def draw(
        self, kind: str, count: int, random: np.random.Generator
    ) -> Iterator[tuple[float, float, float]]:
        """Up to `count` points of a kind, RAS mm."""
        candidates = np.argwhere(self.where(kind) & self.valid)
        taken: list[NDArray] = []
        for place in random.permutation(candidates):
            if len(taken) == count:
                return
            if taken and np.linalg.norm(np.array(taken) - place, axis=1).min() < APART_MM:
                continue
            taken.append(place)
            r, a, s = (self.to_ras @ [*place[::-1], 1.0])[:3].tolist()
            yield (r, a, s)

    def where(self, kind: str) -> NDArray[np.bool_]:
        """All places of a kind."""
        tissue = self.smooth > -300
        if kind == "vessel":
            return self._structures("tube")
        if kind == "fissure":
            if self.thick_mm > 3:
                return np.zeros_like(self.lungs)  # Thicker slices hardly show one.
            return self._structures("sheet")
        if kind == "hilum":
            return tissue & self.between & (self.from_lungs <= 8) & (self.from_lungs >= 2)
        if kind == "pleura":
            near = tissue & (self.from_lungs > 0) & (self.from_lungs <= 2)
            return near & ~ndimage.binary_dilation(self.between, iterations=3) & self.lateral
        if kind == "parenchyma":
            empty = ~ndimage.binary_dilation(self.smooth > -700, iterations=6)
            return empty & (self.in_lungs > 8)
        if kind == "mediastinum":
            convex = ndimage.binary_closing(
                np.pad(self.lungs[:, ::4, ::4], ((0, 0), (20, 20), (20, 20))), iterations=18
            )[:, 20:-20, 20:-20]
            convex = convex.repeat(4, 1).repeat(4, 2)[:, : tissue.shape[1], : tissue.shape[2]]
            return tissue & convex & (self.from_lungs > 12)
        if kind == "chest wall":
            return tissue & self.lateral & (self.from_lungs >= 5) & ~self.between
        if kind == "outside":
            return (self.smooth < -900) & ~self.body & (self.from_lungs > 5)
        raise ValueError(f"no kind {kind}")

    @cached_property
    def between(self) -> NDArray[np.bool_]:
        """Gaps of up to 24 mm in the lungs and between them: hila, large vessels."""
        return np.asarray(ndimage.binary_closing(self.lungs, iterations=12) & ~self.lungs)

    @cached_property
    def lateral(self) -> NDArray[np.bool_]:
        """Further from the middle between the lungs than the lung next to it: the outer walls."""
        _, nearest = ndimage.distance_transform_edt(~self.lungs, return_indices=True)
        j, i = np.indices(self.lungs.shape)[1:]
        own = np.hypot(j - self.middle[1], i - self.middle[2])
        lung = np.hypot(nearest[1] - self.middle[1], nearest[2] - self.middle[2])
        return own > lung

    def _structures(self, shape: str) -> NDArray[np.bool_]:
        """Ridges of tubes or sheets within the lungs."""
        second = {}
        for a in range(3):
            for b in range(a, 3):
                order = [0, 0, 0]
                order[a] += 1
                order[b] += 1
                second[a, b] = ndimage.gaussian_filter(self.hu, SIGMA_MM, order=order)
        deep = self.in_lungs > (3 if shape == "tube" else 10)
        bright = (
            (self.smooth > -500)
            if shape == "tube"
            else ((self.smooth > -850) & (self.smooth < -600))
        )
        places = np.argwhere(deep & bright)
        hessian = np.empty((len(places), 3, 3))
        at = tuple(places.T)
        for (a, b), values in second.items():
            hessian[:, a, b] = hessian[:, b, a] = values[at]
        low, middle, high = np.linalg.eigvalsh(hessian).T
        if shape == "tube":  # Two strong curvatures across, none along.
            fits = (middle < 0.5 * low) & (low < -20) & (np.abs(high) < 0.25 * np.abs(middle))
        else:
            fits = (
                (low < -15)
                & (np.abs(middle) < 0.3 * np.abs(low))
                & (np.abs(high) < 0.3 * np.abs(low))
            )
        ridge = np.zeros(self.lungs.shape, bool)
        ridge[tuple(places[fits].T)] = True
        peak = self.smooth >= ndimage.maximum_filter(self.smooth, 3) - (
            30 if shape == "tube" else 60
        )
        return ridge & peak
