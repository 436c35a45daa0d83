"""Siamese Local-CAM: where a nodule and a case are alike, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contrastdiagnosis.maps.distance_parts import IDENTICAL, statistics_of, statistics_share
from contrastdiagnosis.model.align_dist import distance
from contrastdiagnosis.model.network import NoduleNet, inside_of
from contrastdiagnosis.model.stem import space_to_channels
from contrastdiagnosis.protocol.map_variant import LocalCam

SIMILAR, DIFFERENT = -1, 1
"""Signs of the distance's gradient: what brings a pair together, what keeps it apart."""


class SideMaps(NamedTuple):
    """Maps on one side of N pairs, on the patch grid, each scaled to a maximum of 1.

    Attributes:
        similar: (N, D, H, W) float32 in [0, 1]; 0 throughout where nothing is alike.
        different: (N, D, H, W) likewise.
        similar_max: (N,) the maxima before scaling.
        different_max: (N,).
    """

    similar: Tensor
    different: Tensor
    similar_max: Tensor
    different_max: Tensor


class PairMaps(NamedTuple):
    """Maps of N pairs.

    Attributes:
        distance: (N,) AlignDist d.
        statistics_share: (N,) float64, of `distance_parts`; NaN where the pair is one and the
            same or the case's statistics are not known.
        query: The query's side.
        case: The cases' side, of the M pairs whose case has pixels, in their order.
    """

    distance: Tensor
    statistics_share: Tensor
    query: SideMaps
    case: SideMaps


def pair_maps(
    network: NoduleNet,
    query: Tensor,
    embedding: Tensor,
    pixels: Tensor | None = None,
    with_pixels: Sequence[int] = (),
    options: LocalCam = LocalCam(),
    statistics: Tensor | None = None,
) -> PairMaps:
    """Siamese Local-CAM of one query and N cases, all in one batch.

    As in a diagnosis, an embedding is the mean over a patch and its mirror image. A case without
    pixels takes part with its stored embedding, and only the query's side is explained.

    Args:
        network: In eval mode; its parameters keep no gradient.
        query: (D, H, W) windowed intensity.
        embedding: (N, p) z of the cases.
        pixels: (M, D, H, W) intensities of the cases that have any.
        with_pixels: Which of the N cases these are.
        options: The variant.
        statistics: (N, S) `statistics_of` the cases, for those without pixels.

    Raises:
        ValueError: The network is in training mode, or pixels and their positions do not match.
    """
    if network.training:
        raise ValueError("wanted a network in eval mode: batch statistics would mix the pairs")
    count, shown = len(embedding), len(with_pixels)
    given = 0 if pixels is None else len(pixels)
    if given != shown:
        raise ValueError(f"wanted pixels of {shown} cases, got {given}")
    images = query[None] if pixels is None else torch.cat([query[None], pixels])
    # The same patch stands once in the batch for every pair it belongs to: gradients of several
    # distances must not add up on the query.
    place = torch.tensor([0] * count + list(range(1, shown + 1)), device=query.device)
    mirrored = torch.stack([images, images.flip(-1)])[:, :, None]  # (2, 1 + M, 1, D, H, W)
    with torch.enable_grad():
        levels, mask, code = _encode(
            network, mirrored, place, min(options.levels), options.through_mask
        )
        z = network.align(code).unflatten(0, (2, len(place))).mean(dim=0)
        seen = torch.tensor(with_pixels, dtype=torch.long, device=query.device)
        case = embedding.index_copy(0, seen, z[count:])
        d = distance(z[:count], case)
        wanted = [levels[level] for level in options.levels]
        gradients = torch.autograd.grad(d.sum(), wanted)
    activations = [a.detach() for a in wanted]
    apart = (d > IDENTICAL * torch.linalg.vector_norm(z[:count], dim=1)).detach()
    own = statistics_of(network, code.detach().unflatten(0, (2, len(place))).mean(dim=0))
    if statistics is None:
        statistics = torch.full_like(own[:count], torch.nan)
    statistics_gap = own[:count] - statistics.index_copy(0, seen, own[count:])
    share = statistics_share(network, (z[:count] - case).detach(), statistics_gap)
    differs = torch.cat([apart, apart[list(with_pixels)]]).float()[:, None, None, None]
    weight = options.outside + (1 - options.outside) * inside_of(mask.detach().float())
    sides = []
    for sign in (SIMILAR, DIFFERENT):
        maps = level_product(activations, gradients, sign, options)
        maps = functional.interpolate(maps, query.shape, mode="trilinear", align_corners=False)
        straight, mirrored = (weight * maps)[:, 0].chunk(2)
        sides.append(differs * (straight + mirrored.flip(-1)) / 2)
    similar, different = (_scaled(maps) for maps in sides)
    return PairMaps(
        d.detach(),
        torch.where(apart, share, torch.nan),
        *(
            SideMaps(similar[0][part], different[0][part], similar[1][part], different[1][part])
            for part in (slice(None, count), slice(count, None))
        ),
    )


def _encode(
    network: NoduleNet, mirrored: Tensor, place: Tensor, lowest: int, through_mask: bool
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Levels from `lowest` on, mask logits and codes, (2 B, ...)."""
    flat = mirrored.flatten(0, 1)
    with torch.no_grad():
        encoded = network.encode([network.stem(space_to_channels(flat))])
        logits = network.decode(encoded)

    def placed(x: Tensor) -> Tensor:
        return x.unflatten(0, mirrored.shape[:2])[:, place].flatten(0, 1)

    below = [placed(level) for level in encoded[:lowest]]
    below[-1].requires_grad_()
    levels = network.encode(below)
    mask = network.decode(levels) if through_mask else placed(logits)
    code = network.code_of(placed(flat), levels, mask)
    return dict(enumerate(levels, start=1)), mask, code


def level_product(
    activations: Sequence[Tensor], gradients: Sequence[Tensor], sign: int, options: LocalCam
) -> Tensor:
    """(B, 1, d, h, w) map of the finest level, times the scaled maps of the levels above it.

    Args:
        activations: (B, K, d, h, w) of each level, deepest first.
        gradients: Of the distance with respect to them.
        sign: `SIMILAR` or `DIFFERENT`.
        options: The variant.
    """
    product = None
    for activation, gradient in zip(activations, gradients, strict=True):
        weight = window_mean(sign * gradient, options.window_cells)
        weight = functional.relu(weight) if options.rectified else weight
        local = functional.relu((weight * activation).sum(dim=1, keepdim=True))
        if product is not None:
            above = _scaled(product)[0]
            local = local * functional.interpolate(
                above, local.shape[2:], mode="trilinear", align_corners=False
            )
        product = local
    assert product is not None
    return product


def window_mean(x: Tensor, cells: int | None) -> Tensor:
    """Mean of (B, K, d, h, w) over cubes of `cells` cells around each cell, or over everything."""
    if cells is None:
        return x.mean(dim=(2, 3, 4), keepdim=True)
    if cells == 1:
        return x
    # Axis by axis, so that wide windows cost little. Padded by hand: `avg_pool3d` refuses windows
    # larger than the level, beyond which there is nothing to add.
    there = x.new_ones(1, 1, *x.shape[2:])
    for axis in range(3):
        reach = min(cells // 2, x.shape[2 + axis] - 1)
        window = [1, 1, 1]
        window[axis] = 2 * reach + 1
        padding = [0] * 6
        padding[4 - 2 * axis : 6 - 2 * axis] = [reach, reach]
        x, there = (
            functional.avg_pool3d(functional.pad(a, padding), window, stride=1) for a in (x, there)
        )
    return x / there


def _scaled(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps over their own maximum (0 stays 0), and the maxima (B,)."""
    highest = maps.flatten(1).amax(dim=1)
    safe = torch.where(highest > 0, highest, 1.0).reshape(-1, *[1] * (maps.ndim - 1))
    return maps / safe, highest
