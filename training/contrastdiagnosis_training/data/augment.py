"""Batched augmentation on the training device: context, geometry, intensity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from torch import Tensor
from torch.nn import functional

from contrastdiagnosis_training.data.patch_store import CONTINUED, STORE_GEOMETRY, STORED


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every nodule of a batch.

    The operations are those of arXiv:2403.05280; their ranges are unpublished and set here.
    """

    probability: float = 0.8
    """Of each operation, or of all of them together (`whole_chain`)."""
    whole_chain: bool = False
    """Switch turns, flips, affine, contrast and noise on together, each nodule by one draw; the
    publication's 80 % can be read both ways (docs/methods.md 4.3). A flip, which draws nothing
    else, is then made by half. What was added here (`flip_slices`, `far`, `context`, `end_cuts`)
    keeps its own shares."""
    rotation_deg: float = 15.0
    """Largest axial rotation on top of the quarter turns."""
    scale: float = 0.1
    """Largest relative change of size; more would blur the strongest cue."""
    shift_mm: float = 4.0
    """Largest shift along each axis: how far a click lies beside the centre."""
    far: float = 0.0
    """Share of the views that are shifted in plane by up to `far_mm` instead: a nodule has to be
    found, and its evidence shown, wherever it lies."""
    far_mm: float = 11.2
    """16 voxels; a nodule of 22 mm still lies within the patch."""
    gamma: tuple[float, float] = (0.8, 1.25)
    """Contrast: intensity to this power."""
    noise: float = 0.02
    """Standard deviation of Gaussian noise, in units of the window (0.02 is 28 HU)."""
    flip_slices: bool = False
    """Also flip head to foot."""
    context: bool = False
    """Vary how much tissue beyond the nodule is seen, so that its extent cannot be read from
    where the slices end."""
    end_cuts: float = 0.0
    """Share of the views cut along the slices that end within 3 mm of the nodule's end: a stack may
    also end where the nodule is still there."""
    degraded: float = 0.0
    """Share of the views of a poorer scan, by an operation of `DEGRADATIONS` and a severity that
    are drawn (`views.nodule_views`)."""


class Views(NamedTuple):
    """Patches as the network sees them.

    Attributes:
        intensity: (B, 1, D, H, W) float32 in [0, 1], by default of a whole patch, (32, 64, 64).
        share: (B, 1, D, H, W) float32, share of the readers who marked the voxel.
        valid: (B, 1, D, H, W) float32, 0 where no voxel is known.
    """

    intensity: Tensor
    share: Tensor
    valid: Tensor


def augment(
    intensity: Tensor,
    share: Tensor,
    coverage: Tensor,
    options: Augmentation | None,
    generator: torch.Generator,
    extent: Tensor | None = None,
    shape: tuple[int, int, int] = DEFAULT_GEOMETRY.shape,
) -> Views:
    """One view of each nodule.

    Args:
        intensity: (B, D, H, W) of `PatchStore`.
        share: (B, D, H, W) uint8.
        coverage: (B, D, H, W) uint8.
        options: None cuts the centred patch out of the stored voxels, as inference does.
        generator: Source of all draws, on the tensors' device.
        extent: (B, 3, 2) `marked_extent` of the shares, where it is known already.
        shape: (D, H, W) of the views, H = W; fewer voxels show less of the tissue.
    """
    draw = _Draw(len(intensity), intensity.device, generator, options)
    extent = marked_extent(share) if extent is None else extent
    valid = _visible(coverage, extent, draw).float()
    channels = (intensity * valid, share.float() / 255, valid)
    sampled = _turn(_along_slices(channels, draw, shape[0]), draw, shape[2])
    image, share, valid = sampled[:, :1], sampled[:, 1:2], sampled[:, 2:]
    valid = (valid > 0.5).float()
    # What is not shown is not asked for: the nodule ends where the view ends.
    return Views(_intensity(image, draw) * valid, share * valid, valid)


def marked_extent(share: Tensor) -> Tensor:
    """(B, 3, 2) first and last index along (k, j, i) that any reader marked in (B, D, H, W)."""
    ends = []
    for axis in (1, 2, 3):
        marked = share.amax(dim=tuple(a for a in (1, 2, 3) if a != axis)) > 0
        size = marked.shape[1]
        index = torch.arange(size, device=share.device)
        first = torch.where(marked, index, size).amin(dim=1)
        last = torch.where(marked, index, -1).amax(dim=1)
        ends.append(torch.stack([first, last], 1))
    return torch.stack(ends, 1)


class _Draw:
    """Random numbers of one batch, each operation switched on for its share of the nodules."""

    def __init__(
        self,
        batch: int,
        device: torch.device,
        generator: torch.Generator,
        options: Augmentation | None,
    ) -> None:
        self.batch, self.device, self.generator = batch, device, generator
        self.options = options or Augmentation(probability=0)
        self.enabled = options is not None
        whole = self.options.whole_chain
        self.chain = self.uniform() < self.options.probability if whole else None

    def uniform(self, low: float = 0, high: float = 1) -> Tensor:
        """(B,) uniform values."""
        u = torch.rand(self.batch, device=self.device, generator=self.generator)
        return low + (high - low) * u

    def switch(self, probability: float | None = None) -> Tensor:
        """(B,) bool, True with a probability; without one, whether an operation is on."""
        if probability is not None:
            return self.uniform() < probability
        return self.uniform() < self.options.probability if self.chain is None else self.chain

    def mirror(self) -> Tensor:
        """(B,) -1 where an axis is flipped, else 1."""
        on = self.switch()
        return 1 - 2.0 * (on if self.chain is None else on & self.switch(0.5))

    def symmetric(self, limit: float) -> Tensor:
        """(B,) uniform in [-limit, limit] where switched on, else 0."""
        return self.uniform(-limit, limit) * self.switch()

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape."""
        return torch.randn(x.shape, device=self.device, generator=self.generator)


def _visible(coverage: Tensor, extent: Tensor, draw: _Draw) -> Tensor:
    """(B, D, H, W) bool: the voxels this view may show."""
    if not (draw.enabled and draw.options.context):
        return coverage == STORED
    least = torch.where(draw.switch(0.6), CONTINUED, STORED)
    k, j, i = (_window(extent[:, a - 1], coverage.shape[a], a, draw) for a in (1, 2, 3))
    return (coverage >= least[:, None, None, None]) & (k & j & i)


def _window(extent: Tensor, size: int, axis: int, draw: _Draw) -> Tensor:
    """A random interval along an axis that holds most of the nodule, (B, ..., n, ...) bool.

    Half of the views are cut on a side: in plane a few millimetres beyond the nodule or more,
    along the slices sometimes where the nodule still goes on.
    """
    spacing_mm = STORE_GEOMETRY.spacing_mm[axis - 1]
    index = torch.arange(size, device=extent.device)
    first, last = extent.unbind(dim=1)
    nearest_mm = -1.5 if axis == 1 else 3.0
    # Of the store, also where only its middle is given.
    reach = STORE_GEOMETRY.shape[axis - 1] * spacing_mm / 2
    probability = 0.35 if axis == 1 else 0.15
    below, above = (
        torch.where(draw.switch(probability), _cut_mm(nearest_mm, reach, axis, draw), torch.inf)
        / spacing_mm
        for _ in range(2)
    )
    inside = (index >= (first - below)[:, None]) & (index <= (last + above)[:, None])
    shape = [len(extent), 1, 1, 1]
    shape[axis] = size
    return inside.reshape(shape)


def _cut_mm(nearest_mm: float, reach_mm: float, axis: int, draw: _Draw) -> Tensor:
    """(B,) where a view is cut, in mm beyond the nodule's end."""
    cut = draw.uniform(nearest_mm, reach_mm)
    if axis == 1 and draw.options.end_cuts:
        close = draw.switch(draw.options.end_cuts)
        cut = torch.where(close, draw.uniform(-3.0, 3.0), cut)
    return cut


def _along_slices(channels: Sequence[Tensor], draw: _Draw, count: int) -> Tensor:
    """(B, C, D, h, w) slices of a patch out of C stored (B, d, h, w): shift, scale, flip.

    Apart from the axial part, because this way both together take a quarter of the time.
    """
    options = draw.options
    spacing_mm = DEFAULT_GEOMETRY.spacing_mm[0]
    stored, device = channels[0].shape[1], channels[0].device
    flip = 1 - 2.0 * (draw.switch(0.5) & torch.tensor(options.flip_slices and draw.enabled))
    step = flip * (1 + draw.symmetric(options.scale))
    shift = draw.symmetric(options.shift_mm) / spacing_mm
    place = torch.arange(count, device=device) - (count - 1) / 2
    wanted = place[None] * step[:, None] + shift[:, None] + (stored - 1) / 2
    index = torch.arange(stored, device=device)
    weight = (1 - (wanted[..., None] - index).abs()).clamp(min=0)
    moved = torch.stack([weight @ x.flatten(2) for x in channels], dim=1)
    return moved.unflatten(3, channels[0].shape[2:])


def _turn(x: Tensor, draw: _Draw, side: int) -> Tensor:
    """(B, C, D, H, W) of a patch out of (B, C, D, h, w): axial turn, scale, shift and flips."""
    options = draw.options
    quarter = draw.uniform(1, 4).floor().clamp(max=3) * draw.switch()
    angle = torch.deg2rad(draw.symmetric(options.rotation_deg)) + quarter * (torch.pi / 2)
    scale = 1 + draw.symmetric(options.scale)
    flip_x, flip_y = (draw.mirror() for _ in range(2))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # grid_sample counts in half widths; height and width are alike in patch and store.
    stored_side = x.shape[4]
    half_mm = stored_side * DEFAULT_GEOMETRY.spacing_mm[2] / 2
    theta = torch.zeros(draw.batch, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 0, 1] = cos * flip_x, -sin * flip_y
    theta[:, 1, 0], theta[:, 1, 1] = sin * flip_x, cos * flip_y
    theta *= side / stored_side
    theta[:, :, 2] = _shift_mm(draw) / half_mm
    planes = x.flatten(1, 2)
    grid = functional.affine_grid(theta, [*planes.shape[:2], side, side], align_corners=False)
    # A far view reaches beyond the stored voxels. Mirrored tissue there gives nothing away, where
    # air would tell on which side the nodule lies.
    padding = "reflection" if options.far else "zeros"
    turned = functional.grid_sample(planes, grid, padding_mode=padding, align_corners=False)
    return turned.unflatten(1, x.shape[1:3])


def _shift_mm(draw: _Draw) -> Tensor:
    """(B, 2) how far the nodule lies beside the centre in plane."""
    options = draw.options
    shift = torch.stack([draw.symmetric(options.shift_mm) for _ in range(2)], 1)
    if not (draw.enabled and options.far):
        return shift
    far = torch.stack([draw.uniform(-options.far_mm, options.far_mm) for _ in range(2)], 1)
    return torch.where(draw.switch(options.far)[:, None], far, shift)


def _intensity(image: Tensor, draw: _Draw) -> Tensor:
    if not draw.enabled:
        return image
    options = draw.options
    low, high = options.gamma
    log_low, log_high = torch.tensor([low, high]).log().tolist()
    gamma = torch.where(draw.switch(), draw.uniform(log_low, log_high).exp(), 1.0)
    image = image.clamp(min=1e-6) ** gamma[:, None, None, None, None]
    sigma = draw.uniform(0, options.noise) * draw.switch()
    image = image + sigma[:, None, None, None, None] * draw.normal_like(image)
    return image.clamp(0, 1)
