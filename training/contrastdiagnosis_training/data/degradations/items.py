"""`Items`: scans that are degraded in one way together, and what is drawn for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Items:
    """A batch of one operation.

    Nothing that is drawn for an item depends on its severity or on the other items: with one seed
    the same rings, streaks or path grow from severity to severity.

    Attributes:
        hu: (B, D, H, W) float32 Hounsfield units.
        severity: B steps from 1 to 5.
        spacing_mm: Distance between voxels along (k, j, i).
        seeds: One an item.
    """

    hu: Tensor
    severity: Sequence[int]
    spacing_mm: tuple[float, float, float]
    seeds: Sequence[int]

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(hashed(f"places {seed}")) for seed in self.seeds]

    def strength(self, by_severity: Sequence[float]) -> Tensor:
        """(B,) what a table of five says of each item's severity."""
        return self.tensor([by_severity[s - 1] for s in self.severity])

    def uniform(self, count: int, low: float = 0, high: float = 1) -> Tensor:
        """(B, count) uniform values, the same on all devices."""
        drawn = [torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators]
        return self.tensor(low + (high - low) * torch.stack(drawn))

    def signs(self, count: int) -> Tensor:
        """(B, count) of -1 or 1."""
        return torch.where(self.uniform(count) < 0.5, -1.0, 1.0)

    def directions(self, dimensions: int) -> Tensor:
        """(B, dimensions) unit vectors, no direction preferred."""
        drawn = [
            torch.randn(dimensions, generator=g, dtype=torch.float64) for g in self._generators
        ]
        return self.tensor(torch.nn.functional.normalize(torch.stack(drawn), dim=1))

    def white_noise(self) -> Tensor:
        """Standard normal noise of the scans' shape.

        It is drawn on the scans' device, where a batch of training would wait for the CPU: grain by
        grain it differs between kinds of device.
        """
        device = self.hu.device
        generators = (
            torch.Generator(device).manual_seed(hashed(f"noise {seed}")) for seed in self.seeds
        )
        shape = self.hu.shape[1:]
        return torch.stack([torch.randn(shape, generator=g, device=device) for g in generators])

    def tensor(self, values: Sequence[float] | Tensor) -> Tensor:
        """Values as float32 on the scans' device."""
        return torch.as_tensor(values, dtype=torch.float64).to(self.hu.device, torch.float32)


def hashed(text: str) -> int:
    """A whole number of 63 bits, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
