"""P x K batches: both classes in equal number in every batch; and some items at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time, the last ones fewer (`itertools.batched` of Python 3.12)."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def batches_per_epoch(label: Tensor, batch: int) -> int:
    """How many batches let the larger class be seen once.

    Args:
        label: (N,) bool.
        batch: Nodules per batch, even.
    """
    if batch < 2 or batch % 2:
        raise ValueError(f"batch must be even and at least 2, got {batch}")
    malignant = int(label.sum())
    if malignant in (0, len(label)):
        raise ValueError(f"wanted both classes, got {malignant} malignant of {len(label)} nodules")
    return max(max(malignant, len(label) - malignant) // (batch // 2), 1)


def balanced_batches(
    label: Tensor, batch: int, generator: torch.Generator, rank: int = 0, world_size: int = 1
) -> Iterator[Tensor]:
    """One epoch of batches, half of each from either class.

    The larger class is seen once; the smaller one is reshuffled and repeated to match it.

    Args:
        label: (N,) bool.
        batch: Nodules per batch, even.
        generator: Source of the order, on the CPU, seeded alike in all processes.
        rank: This process takes every `world_size`-th batch from here.
        world_size: Number of processes.

    Yields:
        (batch,) indices into `label`; the last incomplete batch is dropped.
    """
    steps = batches_per_epoch(label, batch)
    half = batch // 2
    columns = [
        _repeat_shuffled(torch.nonzero(label == value).flatten(), steps * half, generator)
        for value in (False, True)
    ]
    complete = max(steps // world_size, 1) * world_size
    for step in range(rank, complete, world_size):
        part = slice(step % steps * half, (step % steps + 1) * half)
        yield torch.cat([column[part] for column in columns])


def _repeat_shuffled(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    rounds = -(-count // len(items))
    order = [items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)]
    return torch.cat(order)[:count]
