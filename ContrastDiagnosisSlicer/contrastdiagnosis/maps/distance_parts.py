"""Whose evidence a distance is: that of the mask's statistics, which no map can show, or the rest.

z = A c + b, so the gap between two embeddings is u + v: u from the pooled features, which the maps
explain, v from the mask's statistics. The share of v is v . (u + v) / d^2, that of u likewise; they
add up to 1. It is the Shapley value of the two parts for d^2 (the cross term 2 u . v is halved),
and the same as integrated gradients of d itself along the straight line from one code to the other
(arXiv:1703.01365, section 3): d is homogeneous, its gradient keeps its direction on that line. What
the parts have in common, such as the shift b and the means of `code_norm`, drops out of a gap; so
mirror images may be averaged before. A share below 0 means that the part alone would bring the pair
closer, and the other one is above 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastdiagnosis.model.mask_statistics import STATISTICS
from contrastdiagnosis.model.network import NoduleNet

IDENTICAL = 1e-5
"""Distance, relative to the embedding's length, below which a pair is one and the same: the
gradient of a distance has length 1 however small it is, and would explain rounding errors."""

BATCH = 8


def statistics_of(network: NoduleNet, code: Tensor) -> Tensor:
    """(N, S) the mask's statistics in codes (N, n), as `code_norm` leaves them; S may be 0."""
    return code[:, network.code_length - (STATISTICS if network.config.statistics else 0) :]


def statistics_share(network: NoduleNet, gap: Tensor, statistics_gap: Tensor) -> Tensor:
    """(N,) share of the distance that the mask's statistics make, in float64.

    Args:
        network: Its A weighs the statistics.
        gap: (N, p) differences of two embeddings.
        statistics_gap: (N, S) differences of their `statistics_of`.

    Returns:
        NaN where the gap is 0 or a statistic is NaN.
    """
    first = network.code_length - statistics_gap.shape[1]
    weight = network.align.weight[:, first:].double()
    whole = gap.double()
    part = statistics_gap.double() @ weight.T
    return (part * whole).sum(dim=1) / (whole * whole).sum(dim=1)


def patch_statistics(
    network: NoduleNet, intensity: NDArray[np.float32], device: torch.device
) -> NDArray[np.float32]:
    """(N, S) of (N, D, H, W) patches, means over them and their mirror images.

    Args:
        network: In eval mode.
        intensity: Windowed.
        device: Where the network is.
    """
    parts = []
    for start in range(0, len(intensity), BATCH):
        images = torch.from_numpy(intensity[start : start + BATCH])[:, None].to(device)
        with torch.inference_mode():
            code = network(torch.cat([images, images.flip(-1)]), pyramid=False).code.float()
        mean = code.unflatten(0, (2, -1)).mean(dim=0)
        parts.append(statistics_of(network, mean).cpu().numpy())
    return np.concatenate(parts)


def parts_sentence(share: float) -> str:
    """What a share says, in percent that add up to 100."""
    statistics = round(100 * share)
    rest = 100 - statistics
    whole = "size, density and outline"
    if statistics < 0:
        return (
            f"what the maps show makes {rest} % of the distance; {whole} take {-statistics} % back:"
            " they bring the two closer"
        )
    if rest < 0:
        return (
            f"{whole} make {statistics} % of the distance; what the maps show takes {-rest} % back:"
            " it brings the two closer"
        )
    return (
        f"{whole} make {statistics} % of the distance, which no map can show; the maps explain the"
        f" other {rest} %"
    )
