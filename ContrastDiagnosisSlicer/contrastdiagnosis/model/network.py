"""`NoduleNet`: the U-Net that segments a nodule and turns it into an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from monai.networks.blocks import Convolution, ResidualUnit, UpSample
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import PatchGeometry

NORM = ("batch", {"affine": True})
"""BatchNorm is a plain affine map at inference, so density survives and gradient maps sum up to
the distance; Instance-, Group- and LayerNorm erase both (docs/methods.md 3.2)."""

STEM_STRIDE = (1, 2, 2)
"""Pixels of a 2x2 in-plane block become channels: voxels of 1.25x0.7x0.7 mm turn into nearly cubic
ones of 1.25x1.4x1.4 mm at no loss, and the costly first level shrinks fourfold."""

MASK_PRIOR_LOGIT = -4.0
"""Few voxels are nodule; starting there spares the first epochs (arXiv:1708.02002, 4.1)."""

HAZE = 0.1
"""Mask probabilities up to this count as outside when features are pooled."""

EPSILON = 1e-6


@dataclass(frozen=True)
class NoduleNetConfig:
    """What fixes the network's tensors."""

    channels: tuple[int, ...] = (16, 32, 96, 192)
    """Features of the pyramid levels a1...a4."""
    embedding: int = 64
    """Length of z."""
    mask_pooling: bool = True
    """Pool the code also under the predicted mask; False is the published global pooling."""
    statistics: bool = True
    """Add density and shape statistics of the predicted mask to the code."""
    code_norm: bool = True
    """BatchNorm of the code, so that A meets components of one scale."""
    ratings: int = 0
    """Number of reader ratings that a linear head on z predicts; 0 for none."""


class NoduleFeatures(NamedTuple):
    """What one forward pass gives.

    Attributes:
        pyramid: a0...a4; a0 is the patch itself, a_l has in-plane stride 2**l.
        mask_logits: (B, 1, D, H, W), positive where at least half of the readers would mark.
        code: (B, n) pooled features c.
        embedding: (B, p) z = A c + b, the space of distances.
        ratings: (B, R) predicted reader ratings, standardised.
    """

    pyramid: tuple[Tensor, ...]
    mask_logits: Tensor
    code: Tensor
    embedding: Tensor
    ratings: Tensor


class NoduleNet(nn.Module):
    """Siamese U-Net of ContrastDiagnosis (arXiv:2403.05280); the two branches are two batch items.

    Input is (B, 1, D, H, W) windowed intensity with D divisible by 8 and H, W by 16.
    """

    def __init__(self, config: NoduleNetConfig = NoduleNetConfig()) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stem = Convolution(3, 4, channels[0], norm=NORM, act="RELU")
        self.encoder = nn.ModuleList(
            ResidualUnit(3, c, d, strides=2, subunits=2, norm=NORM, act="RELU")
            for c, d in pairwise(channels)
        )
        self.up = nn.ModuleList(
            UpSample(3, d, c, scale_factor=2, mode="deconv") for c, d in pairwise(channels)
        )
        self.decoder = nn.ModuleList(
            Convolution(3, c, c, norm=NORM, act="RELU") for c in channels[:-1]
        )
        self.mask_head = nn.Conv3d(channels[0], 4, kernel_size=1)
        self.mask_head.bias.data.fill_(MASK_PRIOR_LOGIT)  # type: ignore[union-attr]
        self.code_norm = (
            nn.BatchNorm1d(self.code_length, affine=False) if config.code_norm else nn.Identity()
        )
        self.align = nn.Linear(self.code_length, config.embedding)
        self.rating_head = nn.Linear(config.embedding, config.ratings) if config.ratings else None

    @property
    def code_length(self) -> int:
        """Length n of the code c."""
        channels = self.config.channels
        pooled = sum(channels[1:]) if self.config.mask_pooling else 0
        return channels[-1] + pooled + (STATISTICS if self.config.statistics else 0)

    def forward(self, intensity: Tensor, pyramid: bool = True) -> NoduleFeatures:
        """Pyramid, mask, code, embedding and ratings of (B, 1, D, H, W) intensities.

        Args:
            intensity: Patches.
            pyramid: False leaves the pyramid empty, for training: Lightning Fabric converts all
                that is returned to float32, and its gradient back.
        """
        encoded = self.encode([self.stem(space_to_channels(intensity))])
        mask_logits = self.decode(encoded)
        code = self.code_of(intensity, encoded, mask_logits)
        embedding = self.align(code)
        ratings = self.rating_head(embedding) if self.rating_head else embedding[:, :0]
        levels = (intensity, *encoded) if pyramid else ()
        return NoduleFeatures(levels, mask_logits, code, embedding, ratings)

    def encode(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """All of a1...a4, from the first of them on."""
        encoded = list(levels)
        for block in list(self.encoder)[len(encoded) - 1 :]:
            encoded.append(block(encoded[-1]))
        return encoded

    def decode(self, encoded: Sequence[Tensor]) -> Tensor:
        """(B, 1, D, H, W) mask logits of a1...a4."""
        decoded = encoded[-1]
        for level in reversed(range(len(self.decoder))):
            decoded = self.decoder[level](self.up[level](decoded) + encoded[level])
        return channels_to_space(self.mask_head(decoded))

    def code_of(self, intensity: Tensor, encoded: Sequence[Tensor], mask_logits: Tensor) -> Tensor:
        """(B, n) code c of intensities, a1...a4 and the mask's logits."""
        # Pooling runs in float32: half precision loses the small nodules' volume.
        with torch.autocast(mask_logits.device.type, enabled=False):
            pooled = [encoded[-1].float().mean(dim=(2, 3, 4))]
            inside = inside_of(mask_logits.float())
            if self.training:
                inside = inside.detach()  # The mask learns from the readers' marks alone.
            if self.config.mask_pooling:
                pooled += [pool_under_mask(features.float(), inside) for features in encoded[1:]]
            if self.config.statistics:
                pooled.append(mask_statistics(intensity.float(), inside))
            return self.code_norm(torch.cat(pooled, dim=1))


def save_network(file: Path, network: NoduleNet, dtype: torch.dtype = torch.float32) -> None:
    """Writes the weights as safetensors, kernels and matrices in `dtype`."""
    save_file({n: w.to(_stored(w, dtype)) for n, w in _weights(network).items()}, file)


def round_weights(network: NoduleNet, dtype: torch.dtype) -> None:
    """Rounds the weights in place to what `save_network` keeps of them."""
    with torch.no_grad():
        for weight in network.state_dict().values():
            weight.copy_(weight.to(_stored(weight, dtype)))


def _weights(network: NoduleNet) -> dict[str, Tensor]:
    return {name: value.contiguous().cpu() for name, value in network.state_dict().items()}


def _stored(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Vectors stay as they are: a running variance may exceed what half precision can hold."""
    return dtype if weight.is_floating_point() and weight.ndim > 1 else weight.dtype


def load_network(file: Path, config: NoduleNetConfig) -> NoduleNet:
    """The network with the weights of a file, float32, in eval mode, without gradients.

    Raises:
        InputError: The file is damaged, or its tensors are not those of the configuration.
    """
    network = NoduleNet(config)
    try:
        weights = load_file(file)
        broken = [n for n, w in weights.items() if not torch.isfinite(w).all()]
        if broken:
            raise InputError(f"{file} holds weights that are not finite: {', '.join(broken)}")
        network.load_state_dict({n: w.to(_full(w)) for n, w in weights.items()}, strict=True)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{file} does not fit the network {config}: {error}") from error
    return network.eval().requires_grad_(False)


def _full(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.is_floating_point() else weight.dtype


def inside_of(mask_logits: Tensor) -> Tensor:
    """Weights in [0, 1] that features are pooled with, of mask logits.

    Exactly 0 away from the nodule: a faint haze over 131,072 voxels outweighs a nodule.
    """
    return functional.relu(torch.sigmoid(mask_logits) - HAZE) / (1 - HAZE)


def pool_under_mask(features: Tensor, inside: Tensor) -> Tensor:
    """(B, C) mean of (B, C, d, h, w) features weighted by a (B, 1, D, H, W) mask probability."""
    weight = functional.adaptive_avg_pool3d(inside, tuple(features.shape[2:])).flatten(2)  # type: ignore[arg-type]
    # As a product of matrices the gradient keeps the features' own channels-last layout.
    total = weight @ features.permute(0, 2, 3, 4, 1).flatten(1, 3)
    return total[:, 0] / (weight.sum(dim=2) + EPSILON)


DENSITY_BINS = 10
STATISTICS = DENSITY_BINS + 9
"""Length of `mask_statistics`."""


def mask_statistics(intensity: Tensor, inside: Tensor) -> Tensor:
    """(B, STATISTICS) size, density and shape of a soft mask, differentiable.

    Log volume; mean and standard deviation of intensity; share of the mask in each of ten density
    bins; roughness of the surface; steepness of the edge; intensity of the rim; logs of the three
    principal extents.

    Args:
        intensity: (B, 1, D, H, W) in [0, 1].
        inside: (B, 1, D, H, W) mask probability.
    """
    # On the stem's nearly cubic grid: a quarter of the cost, and the same step along each axis.
    intensity, inside = (functional.avg_pool3d(x, STEM_STRIDE) for x in (intensity, inside))
    spacing = torch.tensor(PatchGeometry().spacing_mm) * torch.tensor(STEM_STRIDE)
    spacing = spacing.to(inside.device)
    volume = inside.sum(dim=(2, 3, 4)) + 1
    weight = inside / volume[..., None, None, None]

    def mean(x: Tensor) -> Tensor:
        return (x * weight).sum(dim=(2, 3, 4))

    average = mean(intensity)
    deviation = (mean(intensity**2) - average**2).clamp(min=1e-6).sqrt()
    centers = torch.linspace(0.05, 0.95, DENSITY_BINS, device=inside.device)
    bins = [mean((1 - (intensity - c).abs() * DENSITY_BINS).clamp(min=0)) for c in centers]
    steps = [inside.diff(dim=d).abs() for d in (2, 3, 4)]
    slopes = [intensity.diff(dim=d).abs() for d in (2, 3, 4)]
    faces = torch.stack([x.sum(dim=(1, 2, 3, 4)) for x in steps])
    area = (faces * (spacing.prod() / spacing)[:, None]).sum(dim=0)[:, None]
    edge = sum((a * b).sum(dim=(2, 3, 4)) for a, b in zip(steps, slopes, strict=True))
    steepness = edge / (faces.sum(dim=0)[:, None] + 1)
    rim_weight = _largest_nearby(inside) - inside
    rim = (intensity * rim_weight).sum(dim=(2, 3, 4)) / (rim_weight.sum(dim=(2, 3, 4)) + 1)
    log_volume = volume.log()
    return torch.cat(
        [
            log_volume,
            average,
            deviation,
            *bins,
            (area + 1).log() - 2 / 3 * log_volume,
            steepness,
            rim,
            principal_extents(weight, spacing).log(),
        ],
        dim=1,
    )


def _largest_nearby(x: Tensor) -> Tensor:
    """Maximum over the 3x3x3 neighbours of (B, C, D, H, W): ten times as fast as `max_pool3d`."""
    for dim in (2, 3, 4):
        size = x.shape[dim]
        wide = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, size - 1, 1)], dim)
        for start in (0, 2):
            x = torch.maximum(x, wide.narrow(dim, start, size))
    return x


def principal_extents(weight: Tensor, spacing_mm: Tensor) -> Tensor:
    """(B, 3) ascending variances in mm2 along the principal axes of (B, 1, D, H, W) weights."""
    axes = [
        torch.arange(n, device=weight.device) * s
        for n, s in zip(weight.shape[2:], spacing_mm, strict=True)
    ]
    marginals = [weight.sum(dim=d) for d in ((1, 3, 4), (1, 2, 4), (1, 2, 3))]
    means = [m @ a for m, a in zip(marginals, axes, strict=True)]
    centred = [a - m[:, None] for a, m in zip(axes, means, strict=True)]
    covariance = weight.new_empty(len(weight), 3, 3)
    for a in range(3):
        covariance[:, a, a] = (marginals[a] * centred[a] ** 2).sum(dim=1)
        for b in range(a):
            (rest,) = {0, 1, 2} - {a, b}
            plane = weight.sum(dim=(1, 2 + rest))
            shared = torch.einsum("nij,ni,nj->n", plane, centred[b], centred[a])
            covariance[:, a, b] = covariance[:, b, a] = shared
    return torch.linalg.eigvalsh(covariance + 0.05 * torch.eye(3, device=weight.device))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """AlignDist: Euclidean distance of embeddings (..., p), (...).

    The square root is taken so that identical embeddings have distance 0 and a gradient of 0.

    Example:
        >>> distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(2)).tolist()
        [0.0, 5.0]
    """
    return torch.linalg.vector_norm(a - b, dim=-1)


def space_to_channels(x: Tensor) -> Tensor:
    """(B, 1, D, H, W) to (B, 4, D, H/2, W/2): each in-plane 2x2 block becomes 4 channels."""
    batch, _, depth, height, width = x.shape
    x = x.reshape(batch, depth, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    x = x.reshape(batch, 4, depth, height // 2, width // 2)
    return x.contiguous(memory_format=torch.channels_last_3d)


def channels_to_space(x: Tensor) -> Tensor:
    """Inverse of `space_to_channels`."""
    batch, _, depth, height, width = x.shape
    x = x.reshape(batch, 2, 2, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, 1, depth, 2 * height, 2 * width)
