"""P x K batches."""

from __future__ import annotations

import pytest
import torch
from contrastdiagnosis_training.data.batches import (
    balanced_batches,
    batched,
    batches_per_epoch,
)

LABEL = torch.arange(50) % 5 == 0


def epoch(seed=0, **kwargs):
    return list(balanced_batches(LABEL, 8, torch.Generator().manual_seed(seed), **kwargs))


def test_every_batch_holds_both_classes_alike():
    assert all(int(LABEL[b].sum()) == 4 for b in epoch())


def test_the_larger_class_is_seen_once_and_the_smaller_evenly():
    counts = torch.bincount(torch.cat(epoch()), minlength=50)
    assert counts[~LABEL].max() == 1
    assert len(epoch()) == batches_per_epoch(LABEL, 8) == 10
    assert counts[LABEL].min() == counts[LABEL].max() == 4


def test_the_order_comes_from_the_generator():
    assert all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(2), strict=True))


def test_two_processes_share_the_epoch():
    whole, parts = epoch(3), [epoch(3, rank=r, world_size=2) for r in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(whole[::2], parts[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[1::2], parts[1], strict=True))


@pytest.mark.parametrize("batch", [0, 7])
def test_an_odd_batch_is_refused(batch):
    with pytest.raises(ValueError, match=f"batch must be even and at least 2, got {batch}"):
        batches_per_epoch(LABEL, batch)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="wanted both classes, got 0 malignant of 4"):
        batches_per_epoch(torch.zeros(4, dtype=torch.bool), 2)


def test_some_items_at_a_time_leave_none_out():
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
