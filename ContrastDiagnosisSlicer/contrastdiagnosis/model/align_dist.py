"""AlignDist, the distance of two nodules (arXiv:2403.05280; docs/methods.md 4.1).

`d(q, i) = ||A c_q - A c_i||`: the Euclidean distance of embeddings z = A c + b, whose shift b
cancels; `NoduleNet.align` is A and b. `CaseLibrary.nearest` searches by it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distance(a: Tensor, b: Tensor) -> Tensor:
    """AlignDist: Euclidean distance of embeddings (..., p), (...).

    The square root is taken so that identical embeddings have distance 0 and a gradient of 0.

    Example:
        >>> distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(2)).tolist()
        [0.0, 5.0]
    """
    return torch.linalg.vector_norm(a - b, dim=-1)
