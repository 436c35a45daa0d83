"""`Encoding`: what the network and the concept head say of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from contrastdiagnosis.concepts.boxes import CellGrid
from contrastdiagnosis.concepts.head import ConceptHead
from contrastdiagnosis.imaging.patch import Patch
from contrastdiagnosis.model.network import NoduleNet


@dataclass(frozen=True, eq=False)
class Encoding:
    """What the network says of one patch.

    Attributes:
        patch: What it saw.
        probability: (D, H, W) of belonging to the nodule, on the patch grid.
        embedding: (p,) z.
        similarity: (K, M, d, h, w) cosines of the patch's cells with the prototypes; None without
            a concept head.
        cells: (2, C, d, h, w) standardised cells of the patch and of its mirror image; None
            likewise.
    """

    patch: Patch
    probability: NDArray[np.float32]
    embedding: NDArray[np.float32]
    similarity: NDArray[np.float32] | None = None
    cells: NDArray[np.float32] | None = None

    @property
    def grid(self) -> CellGrid:
        """The cells of `similarity`."""
        if self.similarity is None:
            raise ValueError("this encoding was made without a concept head")
        d, h, w = self.similarity.shape[2:]
        return CellGrid(self.patch, (d, h, w))


class NetworkOutput(NamedTuple):
    """What the network says of N patches.

    Attributes:
        probability: (N, D, H, W).
        embedding: (N, p).
        similarity: (N, K, M, d, h, w), None without a concept head.
        cells: (N, 2, C, d, h, w), None likewise.
    """

    probability: NDArray[np.float32]
    embedding: NDArray[np.float32]
    similarity: NDArray[np.float32] | None
    cells: NDArray[np.float32] | None


def encode(
    network: NoduleNet,
    patches: Sequence[Patch],
    device: torch.device,
    head: ConceptHead | None = None,
) -> list[Encoding]:
    """Mask probability, embedding and similarities of each patch: means over it and its mirror.

    The mirror is no luxury on a CPU: PyTorch's fast convolutions take over from batch 2 on, so two
    images cost less than one.
    """
    seen = infer(network, np.stack([patch.intensity for patch in patches]), device, head)
    alike = [None] * len(patches) if seen.similarity is None else seen.similarity
    cells = [None] * len(patches) if seen.cells is None else seen.cells
    rows = zip(patches, seen.probability, seen.embedding, alike, cells, strict=True)
    return [Encoding(*row) for row in rows]


def infer(
    network: NoduleNet,
    intensity: NDArray[np.float32],
    device: torch.device,
    head: ConceptHead | None = None,
) -> NetworkOutput:
    """What the network says of (N, D, H, W) intensities, averaged over mirror images."""
    images = torch.from_numpy(intensity)[:, None].to(device)
    with torch.inference_mode():
        features = network(torch.cat([images, images.flip(-1)]))
        logits, mirrored = features.mask_logits.float().chunk(2)
        probability = torch.sigmoid((logits + mirrored.flip(-1)) / 2)[:, 0]
        embedding = features.embedding.float().unflatten(0, (2, -1)).mean(dim=0)
        similarity = cells = None
        if head is not None:
            standard = head.cells(features)
            plain, turned = head.similarity(standard).chunk(2)
            similarity = ((plain + turned.flip(-1)) / 2).cpu().numpy()
            cells = standard.unflatten(0, (2, -1)).transpose(0, 1).cpu().numpy()
    return NetworkOutput(probability.cpu().numpy(), embedding.cpu().numpy(), similarity, cells)
