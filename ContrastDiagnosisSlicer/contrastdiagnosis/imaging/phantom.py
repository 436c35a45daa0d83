"""A procedural chest CT with nodules of chosen attributes, for the demo, tests and tutorials.

No patient stands behind it: body, ribs, lungs, airways, branching vessels, nodules, scanner blur
and noise are all drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.patch import Region
from contrastdiagnosis.imaging.volume import Volume

AIR, LUNG, FAT, MUSCLE, BLOOD, BONE = -1000.0, -870.0, -100.0, 45.0, 50.0, 550.0
"""Hounsfield units of the tissues."""

NOISE_HU = 18.0
BLUR_MM = 0.55
TWIGS, TWIG_STEP_MM, TWIG_MM = 800, 6.0, 0.5
"""Ends of a lung's vessel tree, length of its segments, radius of its ends."""

Texture = Literal["solid", "part-solid", "ground-glass"]


@dataclass(frozen=True)
class PhantomNodule:
    """A nodule to draw."""

    center_ras_mm: tuple[float, float, float]
    diameter_mm: float
    texture: Texture = "solid"
    spiculation: float = 0.0
    """0 none ... 1 marked: number and length of strands into the lung."""
    lobulation: float = 0.0
    """0 none ... 1 marked: depth of the undulations."""
    blur_mm: float = 0.3
    """Width of the margin; 0.3 is sharp, 2 poorly defined."""
    calcified: bool = False


class Phantom(NamedTuple):
    """A drawn CT.

    Attributes:
        volume: The CT, int16 HU.
        nodules: What was drawn.
        masks: Where: one boolean box a nodule, on the volume's grid.
    """

    volume: Volume
    nodules: tuple[PhantomNodule, ...]
    masks: tuple[Region, ...]


DEMO_NODULES = (
    PhantomNodule((72.0, 22.0, 42.0), 17.0, spiculation=0.9, lobulation=0.5, blur_mm=0.8),
    PhantomNodule((-78.0, -28.0, 18.0), 6.5, calcified=True),
    PhantomNodule((66.0, -48.0, -2.0), 13.0, texture="ground-glass", blur_mm=2.0),
    PhantomNodule((-70.0, 30.0, 50.0), 9.0, lobulation=0.3),
)
"""Spiculated, calcified, ground-glass and smooth: one of each kind a reader tells apart."""


def make_phantom(
    nodules: Sequence[PhantomNodule] = DEMO_NODULES,
    seed: int = 0,
    shape: tuple[int, int, int] = (120, 300, 360),
    spacing_mm: tuple[float, float, float] = (1.5, 0.95, 0.95),
) -> Phantom:
    """A chest CT centred on the RAS origin.

    Args:
        nodules: What to draw into the lungs.
        seed: Fixes vessels, nodule surfaces and noise.
        shape: (D, H, W) voxels.
        spacing_mm: Distance between voxels along (k, j, i).
    """
    random = np.random.default_rng(seed)
    grid = _Grid(shape, spacing_mm)
    hu, lung = _body(grid)
    for side in (1, -1):
        _draw_vessels(hu, lung, grid, side, random)
    masks = tuple(_draw_nodule(hu, grid, nodule, random) for nodule in nodules)
    blur = [BLUR_MM / s for s in spacing_mm]
    hu = ndimage.gaussian_filter(hu, blur)
    noise = ndimage.gaussian_filter(random.normal(size=shape).astype(np.float32), (0.3, 0.7, 0.7))
    hu += noise * (NOISE_HU / noise.std())
    voxels = np.round(np.clip(hu, -1024, 3071)).astype(np.int16)
    return Phantom(Volume(voxels, grid.ijk_to_ras), tuple(nodules), masks)


class _Grid:
    """Voxel grid with axial slices, centred on the origin; works on boxes of it."""

    def __init__(self, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
        self.shape, self.spacing_mm = shape, spacing_mm
        signs = (1.0, -1.0, -1.0)
        self.axes = [
            (sign * s * (np.arange(n) - (n - 1) / 2)).astype(np.float32)
            for n, s, sign in zip(shape, spacing_mm, signs, strict=True)
        ]
        self.ijk_to_ras = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
        self.ijk_to_ras[:3, 3] = [axis[0] for axis in reversed(self.axes)]

    def coordinates(
        self, box: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))
    ) -> tuple[NDArray, NDArray, NDArray]:
        """R, A, S millimetres of a box's voxels, broadcastable to the box."""
        s, a, r = (axis[part] for axis, part in zip(self.axes, box, strict=True))
        return r[None, None, :], a[None, :, None], s[:, None, None]

    def box_around(self, points: NDArray, margin_mm: float) -> tuple[slice, slice, slice]:
        """The voxels within a margin of RAS points (N, 3); may be empty."""
        low, high = points.min(axis=0) - margin_mm, points.max(axis=0) + margin_mm
        parts = []
        for axis, a, b in zip(self.axes, low[::-1], high[::-1], strict=True):
            inside = np.flatnonzero((axis >= a) & (axis <= b))
            parts.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
        return parts[0], parts[1], parts[2]


def _ellipsoid(
    grid: _Grid, center: tuple[float, float, float], radii: tuple[float, float, float]
) -> NDArray[np.bool_]:
    r, a, s = grid.coordinates()
    x, y, z = ((p - c) / q for p, c, q in zip((r, a, s), center, radii, strict=True))
    return x**2 + y**2 + z**2 < 1


def _body(grid: _Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Everything but vessels and nodules, and where lung is."""
    r, a, s = grid.coordinates()
    trunk = (np.abs(r) / 160) ** 2.4 + (np.abs(a) / 112) ** 2.4
    hu = np.full(grid.shape, AIR, dtype=np.float32)
    skin = np.broadcast_to(trunk < 1, grid.shape)
    hu[skin] = FAT
    hu[np.broadcast_to(trunk < 0.84, grid.shape)] = MUSCLE
    cage = (r / 138) ** 2 + (a / 92) ** 2
    # Ribs fall from the spine to the sternum.
    rib_height = (s + 0.45 * a) % 26
    ribs = (cage > 0.93) & (cage < 1.06) & (np.abs(rib_height - 13) < 5) & (np.abs(r) > 22)
    hu[np.broadcast_to(ribs, grid.shape)] = BONE
    lung = _lungs(grid)
    # Blood and water sink: lung is denser towards the back.
    hu[lung] = np.broadcast_to(LUNG - 0.5 * a, grid.shape)[lung]
    hu[_ellipsoid(grid, (0, -80, 0), (19, 17, 400))] = BONE - 250
    hu[_ellipsoid(grid, (0, -80, 0), (16, 14, 400))] = BONE - 380
    hu[_ellipsoid(grid, (0, -60, 0), (8, 8, 400))] = MUSCLE - 20
    hu[_ellipsoid(grid, (-20, -52, 0), (12, 12, 400))] = BLOOD
    trachea = (r / 9) ** 2 + ((a + 12) / 9) ** 2
    hu[np.broadcast_to((trachea < 1.3) & (s > 12), grid.shape)] = MUSCLE
    hu[np.broadcast_to((trachea < 1) & (s > 12), grid.shape)] = AIR
    for side in (1, -1):
        bronchus = np.array([[0, -12, 14], [side * 34, -16, -6]], dtype=np.float64)
        _draw_tube(hu, grid, bronchus, 7.5, MUSCLE)
        _draw_tube(hu, grid, bronchus, 5.8, AIR)
    return hu, lung


def _lungs(grid: _Grid) -> NDArray[np.bool_]:
    r, a, s = grid.coordinates()
    narrowing = np.clip(1 - np.maximum(s - 30, 0) / 160, 0.35, 1) ** 0.7
    cage = (r / (128 * narrowing)) ** 2 + ((a + 4) / (86 * narrowing)) ** 2 < 1
    mediastinum = np.abs(r) < 26 + 8 * np.cos(a / 30)
    dome = -62 + 26 * np.exp(-(((np.abs(r) - 70) / 45) ** 2) - ((a - 5) / 55) ** 2)
    lung = cage & ~mediastinum & (s > dome)
    heart = _ellipsoid(grid, (-30, 28, -28), (52, 46, 48))
    return lung & ~heart


def _draw_tube(
    hu: NDArray[np.float32], grid: _Grid, ends: NDArray, radius_mm: float, value: float
) -> None:
    """Draws a straight tube with round ends, its edge spread over one voxel."""
    box = grid.box_around(ends, radius_mm + 1.5)
    if hu[box].size == 0:
        return
    r, a, s = grid.coordinates(box)
    start, along = ends[0], ends[1] - ends[0]
    position = (
        (r - start[0]) * along[0] + (a - start[1]) * along[1] + (s - start[2]) * along[2]
    ) / (along @ along)
    position = np.clip(position, 0, 1)
    gap = np.sqrt(
        (r - start[0] - position * along[0]) ** 2
        + (a - start[1] - position * along[1]) ** 2
        + (s - start[2] - position * along[2]) ** 2
    )
    filled = np.clip(radius_mm - gap + 0.5, 0, 1).astype(np.float32)
    hu[box] += filled * (value - hu[box])


def _draw_vessels(
    hu: NDArray[np.float32],
    lung: NDArray[np.bool_],
    grid: _Grid,
    side: int,
    random: np.random.Generator,
) -> None:
    """Draws one lung's vessels: a tree from the hilum that fills the lung."""
    filled = np.zeros_like(hu)
    for ends, radius_mm in _vessel_tree(lung, grid, side, random):
        _draw_tube(filled, grid, ends, radius_mm, 1.0)
    filled *= ndimage.binary_dilation(lung, iterations=2)
    hu += filled * np.maximum(BLOOD - hu, 0)


def _vessel_tree(
    lung: NDArray[np.bool_], grid: _Grid, side: int, random: np.random.Generator
) -> Iterator[tuple[NDArray, float]]:
    """Segments (2, 3) and radii: every twig grows from the nearest vessel towards its own tissue.

    Radii follow Murray's law: a vessel's radius to the power 2.7 is the sum over its branches.
    """
    hilum = np.array([side * 34.0, -14.0, -2.0])
    voxels = np.argwhere(lung)
    voxels = voxels[random.integers(len(voxels), size=3 * TWIGS)]
    ras = np.stack([grid.axes[2 - n][voxels[:, 2 - n]] for n in range(3)], axis=1)
    tissue = ras[np.sign(ras[:, 0]) == side][:TWIGS]
    nodes, parents = [hilum], [-1]
    # Near tissue first: trunks form before twigs.
    for target in tissue[np.linalg.norm(tissue - hilum, axis=1).argsort()]:
        parent = int(np.linalg.norm(np.array(nodes) - target, axis=1).argmin())
        position = nodes[parent]
        for _ in range(int(np.linalg.norm(target - position) // TWIG_STEP_MM)):
            heading = target - position
            heading = heading / np.linalg.norm(heading) + random.normal(0, 0.25, 3)
            position = position + TWIG_STEP_MM * heading / np.linalg.norm(heading)
            nodes.append(position)
            parents.append(parent)
            parent = len(nodes) - 1
    flow = np.zeros(len(nodes))
    leaves = set(range(len(nodes))) - set(parents)
    flow[list(leaves)] = 1
    for node in reversed(range(1, len(nodes))):
        flow[parents[node]] += flow[node]
    for node in range(1, len(nodes)):
        yield np.array([nodes[parents[node]], nodes[node]]), TWIG_MM * flow[node] ** (1 / 2.7)


def _draw_nodule(
    hu: NDArray[np.float32], grid: _Grid, nodule: PhantomNodule, random: np.random.Generator
) -> Region:
    """Draws the nodule and returns where it covers more than half of a voxel."""
    radius = nodule.diameter_mm / 2
    center = np.array(nodule.center_ras_mm)
    reach = radius * (1 + 0.3 * nodule.lobulation) + radius * 1.3 * nodule.spiculation
    box = grid.box_around(center[None], reach + 3 * nodule.blur_mm + 2)
    r, a, s = grid.coordinates(box)
    offset = np.stack(np.broadcast_arrays(r - center[0], a - center[1], s - center[2]), axis=-1)
    distance = np.linalg.norm(offset, axis=-1)
    unit = offset / np.maximum(distance, 1e-3)[..., None]
    bumps = _unit_vectors(7, random)
    waves = np.exp(8 * (unit @ bumps.T - 1)).max(axis=-1) - 0.45
    surface = radius * (1 + 0.5 * nodule.lobulation * waves)
    body = _soft_step(surface - distance, nodule.blur_mm)
    strands = np.zeros_like(body)
    for direction in _unit_vectors(round(30 * nodule.spiculation), random):
        length = radius * random.uniform(0.6, 1.4) * nodule.spiculation
        along = offset @ direction
        width = 1.2 * np.clip(1 - (along - radius) / length, 0, 1)
        across = np.sqrt(np.maximum(distance**2 - along**2, 0))
        strands = np.maximum(strands, _soft_step(width - across, 0.3) * (along > 0) * (width > 0))
    filled = np.maximum(body, 0.8 * strands).astype(np.float32)
    hu[box] += filled * (_density(nodule, distance, radius) - hu[box])
    start = (box[0].start, box[1].start, box[2].start)
    return Region(body > 0.5, start, grid.shape)


def _density(nodule: PhantomNodule, distance: NDArray, radius: float) -> NDArray:
    veil, tissue, chalk = -560.0, 35.0, 650.0
    if nodule.texture == "ground-glass":
        return np.full_like(distance, veil)
    if nodule.texture == "part-solid":
        core = _soft_step(0.5 * radius - distance, 1.0)
        return veil + core * (tissue - veil)
    if nodule.calcified:
        core = _soft_step(0.65 * radius - distance, 0.5)
        return tissue + core * (chalk - tissue)
    return np.full_like(distance, tissue)


def _soft_step(x: NDArray, width: float) -> NDArray:
    """0 to 1 across zero, over about four widths."""
    return 1 / (1 + np.exp(-np.clip(x / (0.5 * width), -30, 30)))


def _unit_vectors(count: int, random: np.random.Generator) -> NDArray[np.float64]:
    vectors = random.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
