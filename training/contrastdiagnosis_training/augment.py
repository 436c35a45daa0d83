"""Batched augmentation on the training device: context, geometry, intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from contrastdiagnosis.patch import DEFAULT_GEOMETRY
from torch import Tensor
from torch.nn import functional

from contrastdiagnosis_training.patch_store import CONTINUED, FILL, STORE_GEOMETRY, STORED


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every nodule of a batch.

    The operations are those of arXiv:2403.05280; their ranges are unpublished and set here.
    """

    probability: float = 0.8
    """Of each operation."""
    rotation_deg: float = 15.0
    """Largest axial rotation on top of the quarter turns."""
    scale: float = 0.1
    """Largest relative change of size; more would blur the strongest cue."""
    shift_mm: float = 4.0
    """Largest shift along each axis: how far a click lies beside the centre."""
    gamma: tuple[float, float] = (0.8, 1.25)
    """Contrast: intensity to this power."""
    noise: float = 0.02
    """Standard deviation of Gaussian noise, in units of the window (0.02 is 28 HU)."""
    flip_slices: bool = False
    """Also flip head to foot."""
    context: bool = False
    """Vary how much tissue beyond the nodule is seen, so that its extent cannot be read from
    where the slices end."""


class Views(NamedTuple):
    """Patches as the network sees them.

    Attributes:
        intensity: (B, 1, 32, 64, 64) float32 in [0, 1].
        share: (B, 1, 32, 64, 64) float32, share of the readers who marked the voxel.
        valid: (B, 1, 32, 64, 64) float32, 0 where no voxel is known.
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
) -> Views:
    """One view of each nodule.

    Args:
        intensity: (B, D, H, W) of `PatchStore`.
        share: (B, D, H, W) uint8.
        coverage: (B, D, H, W) uint8.
        options: None cuts the centred patch out of the stored voxels, as inference does.
        generator: Source of all draws, on the tensors' device.
    """
    draw = _Draw(len(intensity), intensity.device, generator, options)
    share = share.float() / 255
    valid = _visible(share, coverage, draw).float()
    stacked = torch.stack([intensity.float() * valid, share, valid], dim=1)
    grid = functional.affine_grid(
        _affine(draw), [len(stacked), 3, *DEFAULT_GEOMETRY.shape], align_corners=False
    )
    sampled = functional.grid_sample(
        stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    image, share, valid = sampled[:, :1], sampled[:, 1:2], sampled[:, 2:]
    valid = (valid > 0.5).float()
    return Views(_intensity(image, draw) * valid, share, valid)


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

    def uniform(self, low: float = 0, high: float = 1) -> Tensor:
        """(B,) uniform values."""
        u = torch.rand(self.batch, device=self.device, generator=self.generator)
        return low + (high - low) * u

    def switch(self, probability: float | None = None) -> Tensor:
        """(B,) bool, True with the options' probability."""
        return self.uniform() < (self.options.probability if probability is None else probability)

    def symmetric(self, limit: float) -> Tensor:
        """(B,) uniform in [-limit, limit] where switched on, else 0."""
        return self.uniform(-limit, limit) * self.switch()

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of x's shape."""
        return torch.randn(x.shape, device=self.device, generator=self.generator)


def _visible(share: Tensor, coverage: Tensor, draw: _Draw) -> Tensor:
    """(B, D, H, W) bool: the voxels this view may show."""
    stored = coverage == STORED
    if not (draw.enabled and draw.options.context):
        return stored
    marked = share > 0
    visible = torch.where(draw.switch(0.6)[:, None, None, None], coverage >= CONTINUED, stored) & (
        coverage != FILL
    )
    for axis in (1, 2, 3):
        others = tuple(a for a in (1, 2, 3) if a != axis)
        here = marked.any(dim=others[1]).any(dim=others[0])
        visible = visible & _window(here, axis, draw)
    return visible


def _window(here: Tensor, axis: int, draw: _Draw) -> Tensor:
    """A random interval along an axis that holds most of the nodule, (B, ..., n, ...) bool.

    Half of the views are cut on a side: in plane a few millimetres beyond the nodule or more,
    along the slices sometimes within its last millimetre.
    """
    size = here.shape[1]
    spacing_mm = STORE_GEOMETRY.spacing_mm[axis - 1]
    index = torch.arange(size, device=here.device)
    first = torch.where(here, index, size).amin(dim=1)
    last = torch.where(here, index, -1).amax(dim=1)
    nearest_mm = -1.5 if axis == 1 else 3.0
    reach = size * spacing_mm / 2
    probability = 0.35 if axis == 1 else 0.15
    below, above = (
        torch.where(draw.switch(probability), draw.uniform(nearest_mm, reach) / spacing_mm, size)
        for _ in range(2)
    )
    inside = (index >= (first - below)[:, None]) & (index <= (last + above)[:, None])
    shape = [len(here), 1, 1, 1]
    shape[axis] = size
    return inside.reshape(shape)


def _affine(draw: _Draw) -> Tensor:
    """(B, 3, 4) from the patch's to the store's normalised coordinates (x, y, z)."""
    options = draw.options
    angle = torch.deg2rad(draw.symmetric(options.rotation_deg))
    quarter = (draw.uniform(0, 4).floor() * draw.switch()).clamp(max=3)
    angle = angle + quarter * (torch.pi / 2)
    scale = 1 + draw.symmetric(options.scale)
    flip_x = 1 - 2.0 * (draw.switch() & draw.switch(0.5))
    flip_y = 1 - 2.0 * (draw.switch() & draw.switch(0.5))
    flip_z = 1 - 2.0 * (draw.switch(0.5) & torch.tensor(options.flip_slices and draw.enabled))
    cos, sin = angle.cos(), angle.sin()
    # Millimetres of the view to millimetres of the store; x and y share one spacing.
    matrix = torch.zeros(draw.batch, 3, 4, device=draw.device)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * cos * flip_x, -scale * sin * flip_y
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * sin * flip_x, scale * cos * flip_y
    matrix[:, 2, 2] = scale * flip_z
    view_mm, store_mm = (
        torch.tensor(
            [n * s / 2 for n, s in zip(g.shape, g.spacing_mm, strict=True)][::-1],
            device=draw.device,
        )
        for g in (DEFAULT_GEOMETRY, STORE_GEOMETRY)
    )
    matrix[:, :, :3] *= view_mm / store_mm[:, None]
    shift = torch.stack([draw.symmetric(options.shift_mm) for _ in range(3)], dim=1)
    matrix[:, :, 3] = shift / store_mm
    return matrix


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
