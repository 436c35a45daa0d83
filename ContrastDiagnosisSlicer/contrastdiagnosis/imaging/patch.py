"""`Patch`: the box of tissue around a point that the networks see. The only resampling code."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from contrastdiagnosis.imaging.volume import Volume, apply_affine, padding_of


@dataclass(frozen=True)
class PatchGeometry:
    """Grid and intensity window of a patch (docs/methods.md 1; arXiv:2403.05280 gives 64x64x32)."""

    shape: tuple[int, int, int] = (32, 64, 64)
    """Voxels along (k, j, i)."""
    spacing_mm: tuple[float, float, float] = (1.25, 0.7, 0.7)
    """Distance between voxel centres along (k, j, i)."""
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    """Clipped to this range and mapped to [0, 1]. The lower end also fills what no scan covers."""

    def ijk_to_ras(self, center_ras_mm: ArrayLike) -> NDArray[np.float64]:
        """4x4 affine of the patch around a point: i to the left, j to posterior, k to superior.

        These are the axes of an axial CT as DICOM stores it, so patches of differently oriented
        scans agree, and a patch's slices are shown the way radiologists look at them.

        Example:
            >>> affine = PatchGeometry().ijk_to_ras((10.0, 20.0, 30.0))
            >>> (affine @ (0, 0, 0, 1)).round(3).tolist()  # To the right, anterior, below.
            [32.05, 42.05, 10.625, 1.0]
        """
        k, j, i = self.spacing_mm
        affine = np.diag([-i, -j, k, 1.0])
        middle = (np.array(self.shape[::-1]) - 1) / 2
        affine[:3, 3] = np.asarray(center_ras_mm, dtype=np.float64) - affine[:3, :3] @ middle
        return affine


DEFAULT_GEOMETRY = PatchGeometry()


@dataclass(frozen=True, eq=False)
class Patch:
    """Windowed voxels around a point.

    Attributes:
        intensity: (D, H, W) float32 in [0, 1]; 0 where the scan measured nothing.
        valid: (D, H, W) bool, False where the scan measured nothing: beyond it, or in padding.
        ijk_to_ras: (4, 4) affine of the patch grid.
    """

    intensity: NDArray[np.float32]
    valid: NDArray[np.bool_]
    ijk_to_ras: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Region:
    """Values on a box of a volume's own grid; outside the box they are 0.

    Attributes:
        values: (d, h, w) array.
        start: Volume index (k, j, i) of `values[0, 0, 0]`.
        volume_shape: (D, H, W) of the volume.
    """

    values: NDArray
    start: tuple[int, int, int] = field(default=(0, 0, 0))
    volume_shape: tuple[int, int, int] = field(default=(0, 0, 0))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box within an array of the volume's shape."""
        k, j, i = (slice(s, s + n) for s, n in zip(self.start, self.values.shape, strict=True))
        return k, j, i

    def full(self) -> NDArray:
        """(D, H, W) array on the whole volume's grid."""
        array = np.zeros(self.volume_shape, dtype=self.values.dtype)
        array[self.slices] = self.values
        return array


def crop_patch(
    volume: Volume, center_ras_mm: ArrayLike, geometry: PatchGeometry = DEFAULT_GEOMETRY
) -> Patch:
    """The windowed patch around a point; only the voxels under it are read.

    Args:
        volume: CT in Hounsfield units.
        center_ras_mm: (3,) point in RAS millimetres.
        geometry: Grid and window of the patch.
    """
    ijk_to_ras = geometry.ijk_to_ras(center_ras_mm)
    patch_to_volume = np.linalg.inv(volume.ijk_to_ras) @ ijk_to_ras
    air_hu = geometry.window_hu[0]
    hu, valid = resample(volume.hu, patch_to_volume, geometry.shape, fill=air_hu)
    box = _touched(patch_to_volume, geometry.shape, volume.hu.shape)
    padding = padding_of(volume.hu[box])
    if padding is not None:
        # Interpolation would mix padding into its neighbours: it is made air first.
        clean = np.where(padding, air_hu, volume.hu[box]).astype(np.float32)
        from_box = patch_to_volume.copy()
        from_box[:3, 3] -= [s.start for s in box[::-1]]
        hu, _ = resample(clean, from_box, geometry.shape, fill=air_hu)
        share, _ = resample(padding, from_box, geometry.shape, fill=0.0)
        hu[~valid] = air_hu
        valid &= share < 0.5
    return Patch(window(hu, geometry), valid, ijk_to_ras)


def window(hu: NDArray, geometry: PatchGeometry = DEFAULT_GEOMETRY) -> NDArray[np.float32]:
    """Hounsfield units clipped to the window and mapped to [0, 1]."""
    low, high = geometry.window_hu
    return ((np.clip(hu, low, high) - low) / (high - low)).astype(np.float32)


def hu_of(
    intensity: NDArray[np.float32], geometry: PatchGeometry = DEFAULT_GEOMETRY
) -> NDArray[np.float32]:
    """Hounsfield units of windowed intensities; what the window cut off stays cut off."""
    low, high = geometry.window_hu
    return intensity * np.float32(high - low) + np.float32(low)


def voxels_under_patch(
    volume: Volume, center_ras_mm: ArrayLike, geometry: PatchGeometry
) -> NDArray:
    """The volume's own voxels, not copied, that a patch around the point touches; may be empty."""
    to_volume = np.linalg.inv(volume.ijk_to_ras) @ geometry.ijk_to_ras(center_ras_mm)
    return volume.hu[_touched(to_volume, geometry.shape, volume.hu.shape)]


def values_to_volume(values: NDArray, patch_ijk_to_ras: NDArray, volume: Volume) -> Region:
    """Values on the patch grid, brought back to the volume's own grid.

    Args:
        values: (D, H, W) on the patch grid.
        patch_ijk_to_ras: Affine of the patch grid.
        volume: Gives the grid; its voxels are not read.

    Returns:
        Linear interpolation at every volume voxel that the patch covers, 0 elsewhere.
    """
    patch_in_volume = np.linalg.inv(volume.ijk_to_ras) @ patch_ijk_to_ras
    box = _touched(patch_in_volume, values.shape, volume.hu.shape)
    start = tuple(s.start for s in box)
    shape = tuple(s.stop - s.start for s in box)
    if 0 in shape:
        return Region(np.zeros((0, 0, 0), np.float32), (0, 0, 0), volume.hu.shape)
    shift = np.eye(4)
    shift[:3, 3] = start[::-1]
    sampled, _ = resample(values, np.linalg.inv(patch_in_volume) @ shift, shape, fill=0.0)
    return Region(sampled, start, volume.hu.shape)


def resample(
    array: NDArray,
    out_to_in: NDArray[np.float64],
    shape: tuple[int, int, int],
    fill: float,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The array at the points of another grid.

    Args:
        array: (D, H, W), any real dtype; only the voxels around the points are read.
        out_to_in: (4, 4) affine from output indices (i, j, k) to input indices (i, j, k).
        shape: Output (D, H, W).
        fill: Value where the input has no voxel.
        mode: "bilinear" is trilinear in 3-D, as torch calls it.

    Returns:
        Values, float32, and whether each point lies within the outer faces of the input's voxels.
    """
    box = _touched(out_to_in, shape, array.shape)
    source = np.ascontiguousarray(array[box], dtype=np.float32)
    if source.size == 0:
        return np.full(shape, fill, np.float32), np.zeros(shape, dtype=bool)
    start = np.array([s.start for s in box])[::-1]
    to_source = out_to_in.copy()
    to_source[:3, 3] -= start
    if mode == "bilinear" and _parallel(to_source, shape):
        values = _sample_by_axis(source, to_source, shape)
    else:
        values = _sample(source, to_source, shape, mode)
    inside = _inside(out_to_in, shape, array.shape)
    if not inside.all():
        values[~inside] = fill
    return values, inside


def _parallel(out_to_in: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether the grids' axes agree, to 1e-4 voxels over the whole output."""
    aside = np.abs(out_to_in[:3, :3] * (1 - np.eye(3)))
    return bool((aside @ shape[::-1] < 1e-4).all())


def _sample_by_axis(
    source: NDArray[np.float32], to_source: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Trilinear interpolation between parallel grids, one axis after the other.

    Most scans lie in their own axes, and this takes a tenth of `_sample`'s time: weights of an axis
    are shared by all its lines, and NumPy waits for no threads that others keep busy.
    """
    values = source
    for axis, size in enumerate(source.shape):
        scale, start = to_source[2 - axis, 2 - axis], to_source[2 - axis, 3]
        position = np.clip(scale * np.arange(shape[axis]) + start, 0, size - 1)
        below = position.astype(int)
        share = (position - below).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        low = values.take(below, axis)
        values = low + share * (values.take(np.minimum(below + 1, size - 1), axis) - low)
    return values


def _sample(
    source: NDArray[np.float32],
    to_source: NDArray[np.float64],
    shape: tuple[int, int, int],
    mode: str,
) -> NDArray[np.float32]:
    """The source at the points of a grid that is turned anyhow."""
    sampled = functional.grid_sample(
        torch.from_numpy(source)[None, None],
        _sampling_grid(to_source, shape, source.shape)[None],
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )
    return np.asarray(sampled[0, 0].numpy())


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(8, 3) indices (i, j, k) of a grid's corner voxels."""
    return np.array(list(product(*((0, n - 1) for n in shape[::-1]))), dtype=np.float64)


def _touched(
    out_to_in: NDArray, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    """Box of the input that the output grid reaches, with a margin of one voxel."""
    reached = apply_affine(out_to_in, _corners(out_shape))[:, ::-1]
    size = np.array(in_shape)
    low = np.clip(np.floor(reached.min(axis=0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 2, low, size)
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return k, j, i


def _sampling_grid(
    to_source: NDArray, shape: tuple[int, int, int], source_shape: tuple[int, ...]
) -> torch.Tensor:
    """(D, H, W, 3) coordinates in [-1, 1] for `grid_sample(align_corners=True)`."""
    # A single voxel along an axis has no ends to map to -1 and 1: a second one is made and cut off.
    size = tuple(max(n, 2) for n in shape)
    out_scale, out_shift = _normalisation(size)
    in_scale, in_shift = _normalisation(source_shape)
    # normalised output -> output index -> input index -> normalised input
    theta = np.empty((3, 4))
    theta[:, :3] = to_source[:3, :3] / out_scale * in_scale[:, None]
    index_at_zero = to_source[:3, :3] @ (-out_shift / out_scale) + to_source[:3, 3]
    theta[:, 3] = index_at_zero * in_scale + in_shift
    affine = torch.from_numpy(theta)[None].float()
    grid = functional.affine_grid(affine, [1, 1, *size], align_corners=True)[0]
    return grid[: shape[0], : shape[1], : shape[2]]


def _normalisation(shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Per axis (i, j, k): normalised = index * scale + shift, so that the ends map to -1 and 1."""
    size = np.array(shape[::-1], dtype=np.float64)
    scale = 2 / np.maximum(size - 1, 1)
    shift = np.where(size > 1, -1.0, 0.0)
    return scale, shift


def _inside(
    out_to_in: NDArray, shape: tuple[int, int, int], in_shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    size = np.array(in_shape[::-1])
    corners = apply_affine(out_to_in, _corners(shape))
    if ((corners >= -0.5) & (corners <= size - 0.5)).all():
        return np.ones(shape, dtype=bool)
    # The affine of a grid is a sum of one term per axis, so nothing of size (D, H, W, 3) is built.
    inside = np.ones(shape, dtype=bool)
    index = [np.arange(n) for n in shape[::-1]]
    for axis in range(3):
        i, j, k = (out_to_in[axis, c] * index[c] for c in range(3))
        along = k[:, None, None] + j[None, :, None] + i[None, None, :] + out_to_in[axis, 3]
        inside &= (along >= -0.5) & (along <= size[axis] - 0.5)
    return inside
