"""The cells of nodules' views: what a frozen network says of them, encoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.concepts.cells import cell_channels, cell_features, nodule_weight
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis_training.concept_head.cell_views import CellViews, encode_views
from contrastdiagnosis_training.data.augment import Augmentation, augment
from contrastdiagnosis_training.data.concept_list import concepts_of
from contrastdiagnosis_training.data.patch_store import windowed
from torch.testing import assert_close

from training.conftest import TINY

CPU = torch.device("cpu")
GRID = (8, 8, 8)
CONCEPTS = concepts_of(LIDC)
STILL = Augmentation(probability=0, shift_mm=0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return NoduleNet(TINY.network).eval().requires_grad_(False)


def encoded(network, store, positions=(5, 2, 9), options=TINY.augmentation, views=2, seed=0):
    return encode_views(network, store, np.array(positions), CONCEPTS, options, views, seed, CPU)


def test_views_have_cells_weights_and_marks(network, store):
    views = encoded(network, store)
    assert views.cells.shape == (2, 3, cell_channels(TINY.network), *GRID)
    assert views.weight.shape == views.marked.shape == (2, 3, *GRID)
    assert views.seen.shape == views.elsewhere.shape == (2, 3, len(CONCEPTS), *GRID)
    assert {x.dtype for x in (views.cells, views.weight, views.seen)} == {torch.float16}
    assert_close(views.weight.float().sum(dim=(2, 3, 4)), torch.ones(2, 3), atol=0.01, rtol=0)
    assert (views.seen.flatten(3).amax(dim=-1) > 0).all()
    assert not (views.elsewhere & (views.seen > 0)).any()
    # No nodule of these is larger than 16 mm.
    assert views.elsewhere.float().mean() > 0.8


def test_a_view_equals_what_the_network_says_of_it(network, store):
    views = encoded(network, store, views=1, seed=3)
    part = torch.tensor([5, 2, 9])
    seen = augment(
        windowed(store.hu[part]), store.share[part], store.coverage[part], TINY.augmentation,
        torch.Generator().manual_seed(3),
    )  # fmt: skip
    with torch.no_grad():
        features = network(seen.intensity)
    assert_close(views.cells[0], cell_features(features).half())
    assert_close(views.weight[0], nodule_weight(features.mask_logits, GRID).half())
    for n, k, j, i in [(0, 4, 4, 4), (1, 3, 4, 3), (2, 0, 0, 0), (2, 4, 3, 3)]:
        box = seen.share[n, 0, 4 * k : 4 * k + 4, 8 * j : 8 * j + 8, 8 * i : 8 * i + 8]
        assert float(views.marked[0, n, k, j, i]) == pytest.approx(float(box.max()), abs=1e-3)
        assert float(views.seen[0, n, 0, k, j, i]) == float(box.max() >= 0.5)
        assert bool(views.elsewhere[0, n, 0, k, j, i]) == (float(box.max()) == 0)


def test_the_seed_fixes_the_views_and_views_differ(network, store):
    first, again, other = (encoded(network, store, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.cells, again.cells)
    assert torch.equal(first.weight, again.weight) and torch.equal(first.seen, again.seen)
    assert not torch.equal(first.cells, other.cells)
    assert not torch.equal(first.cells[0], first.cells[1])


def test_each_position_gives_its_own_nodule(network, store):
    """More than a batch of them, in an order of their own."""
    positions = np.random.default_rng(0).permutation(20)
    together = encoded(network, store, positions, STILL, views=1)
    assert together.cells.shape[1] == 20
    for place in (0, 15, 16, 19):
        alone = encoded(network, store, positions[place : place + 1], STILL, views=1)
        assert_close(together.cells[:, place : place + 1], alone.cells, atol=2e-2, rtol=2e-2)
        assert torch.equal(together.elsewhere[:, place : place + 1], alone.elsewhere)


def test_the_network_is_left_as_it_was(network, store):
    before = {name: w.clone() for name, w in network.state_dict().items()}
    encoded(network, store, (1,), views=1)
    assert all(torch.equal(w, before[name]) for name, w in network.state_dict().items())
    assert not network.training


def test_mean_and_scale_are_those_of_each_channel():
    random = torch.Generator().manual_seed(0)
    cells = torch.randn(2, 5, 4, *GRID, generator=random)
    cells = (cells * torch.tensor([1.0, 5.0, 0.2, 0.0])[:, None, None, None]).half()
    cells[:, :, 1] += 7
    views = CellViews(cells, cells[:, :, 0], cells[:, :, 0], cells, cells > 0)
    mean, scale = views.mean_and_scale(4)
    assert mean.shape == scale.shape == (4,)
    # Every second cell along each axis is looked at.
    for c in range(3):
        values = cells[:, :, c].float()
        assert float(mean[c]) == pytest.approx(float(values.mean()), abs=0.15 * float(scale[c]))
        assert float(scale[c]) == pytest.approx(float(values.std()), rel=0.1)
    assert scale[3] == pytest.approx(1e-3)
