"""ConceptHead: maps, prototypes, similarities and the linear decision (docs/methods.md 7.7: F)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.concepts.cells import (
    CELL_LEVELS,
    CELL_STATISTICS,
    CELL_VOXELS,
    INSIDE_FLOOR,
    cell_channels,
    cell_features,
    cell_statistics,
    nodule_weight,
)
from contrastdiagnosis.concepts.head import (
    DIAMETER,
    Concept,
    ConceptConfig,
    ConceptHead,
    load_head,
    read_config,
    readers_shares,
    save_head,
)
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.model.network import NoduleNet, inside_of
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from engine.conftest import TINY

CHANNELS = cell_channels(TINY)
CONFIG = ConceptConfig(concepts=3, prototypes=4, width=8, blocks=2, channels=CHANNELS)
GRID = (2, 3, 4)


def made_head(seed=0):
    """Nothing of it is 0 or 1 by default."""
    torch.manual_seed(seed)
    head = ConceptHead(CONFIG).eval().requires_grad_(False)
    for name, buffer in head.named_buffers():
        if name != "kept":
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    head.concept_bias.copy_(torch.randn(3))
    head.prototype.mul_(torch.rand(3, 4, 1) + 0.5)
    return head


def made_cells(batch=2, seed=0):
    return torch.randn(batch, CHANNELS, *GRID, generator=torch.Generator().manual_seed(seed))


def made_weight(batch=2, seed=1):
    weight = torch.rand(batch, *GRID, generator=torch.Generator().manual_seed(seed))
    return weight / weight.sum(dim=(1, 2, 3), keepdim=True)


def made_features(seed=0, batch=2):
    torch.manual_seed(seed)
    network = NoduleNet(TINY).eval().requires_grad_(False)
    features = network(torch.rand(batch, 1, 8, 32, 48))
    return features._replace(mask_logits=4 * torch.randn(batch, 1, 8, 32, 48))


def places():
    return list(np.ndindex(GRID))


def test_size_is_a_concept_that_is_measured():
    concepts = (
        Concept("spiculated", "spiculation", at_least=3),
        Concept("large", DIAMETER, at_least=8),
    )
    assert readers_shares(concepts, {"spiculation": (1, 5)}, 8.0) == [0.5, 1.0]
    assert readers_shares(concepts, {"spiculation": (1, 1)}, 7.9) == [0.0, 0.0]
    assert [c.criterion for c in concepts] == ["spiculation at least 3", "diameter at least 8 mm"]
    assert [c.measured for c in concepts] == [False, True]
    assert np.isnan(readers_shares(concepts, {}, 20.0)[0])


def test_a_cell_is_as_large_as_the_pyramids_last_level_makes_it():
    network = NoduleNet(TINY).eval()
    features = network(torch.zeros(1, 1, *DEFAULT_GEOMETRY.shape))
    grid = features.pyramid[CELL_LEVELS[-1]].shape[2:]
    assert tuple(np.array(DEFAULT_GEOMETRY.shape) // grid) == CELL_VOXELS
    assert cell_features(features).shape == (1, CHANNELS, *grid)


def test_features_of_a_cell_equal_the_slow_ones():
    features = made_features()
    cells = cell_features(features)
    assert cells.shape == (2, CHANNELS, 2, 4, 6)
    image, inside = features.pyramid[0], inside_of(features.mask_logits)
    level2, level3 = features.pyramid[2], features.pyramid[3]
    for b, (k, j, i) in [(0, (0, 0, 0)), (1, (1, 2, 5)), (0, (1, 3, 2))]:
        ours = cells[b, :, k, j, i]
        finer = level2[b, :, 2 * k : 2 * k + 2, 2 * j : 2 * j + 2, 2 * i : 2 * i + 2]
        assert_close(ours[:6], finer.mean(dim=(1, 2, 3)))
        assert_close(ours[6:14], level3[b, :, k, j, i])
        box = (b, 0, slice(4 * k, 4 * k + 4), slice(8 * j, 8 * j + 8), slice(8 * i, 8 * i + 8))
        values, share = image[box].double(), inside[box].double()
        slow = [values.mean(), values.std(correction=0), values.max(), values.min()]
        slow += [(1 + 100 * share.mean()).log(), share.max()]
        for n in range(10):
            near = (1 - 10 * (values - (0.05 + 0.1 * n)).abs()).clamp(min=0)
            slow.append((share * near).mean() / (share.mean() + INSIDE_FLOOR))
        for edge in (3, 5, 7):
            reach = edge // 2
            low, high = np.array([k, j, i]) - reach, np.array([k, j, i]) + reach + 1
            z, y, x = (
                slice(max(a, 0) * n, b * n) for a, b, n in zip(low, high, (4, 8, 8), strict=True)
            )
            around = inside[b, 0, z, y, x].double().sum() / (edge**3 * 4 * 8 * 8)
            slow.append((1 + 100 * around).log())
        slow += list(features.embedding[b].double() * share.max())
        assert_close(ours[14:], torch.stack(slow).float(), rtol=1e-4, atol=1e-5)


def test_only_cells_of_the_nodule_know_its_embedding():
    features = made_features(batch=1)
    logits = torch.full_like(features.mask_logits, -50.0)
    logits[0, 0, 5, 9, 17] = 50.0
    features = features._replace(mask_logits=logits)
    other = features._replace(embedding=features.embedding + 1)
    differs = (cell_features(features) != cell_features(other)).any(dim=1)
    assert torch.nonzero(differs).tolist() == [[0, 1, 1, 2]]


def test_cell_statistics_of_an_even_patch_without_a_nodule_are_finite():
    values = cell_statistics(
        torch.full((1, 1, 8, 16, 16), 0.3), torch.full((1, 1, 8, 16, 16), -50.0), (2, 2, 2)
    )
    assert values.shape == (1, CELL_STATISTICS, 2, 2, 2)
    assert values.isfinite().all()
    assert not values[:, 4:].any()
    assert_close(values[:, 1], torch.full((1, 2, 2, 2), 1e-3))


def test_standardised_cells_have_the_heads_mean_and_scale():
    head, features = made_head(), made_features()
    plain, cells = cell_features(features), head.cells(features)
    for c in (0, 7, CHANNELS - 1):
        assert_close(cells[:, c], (plain[:, c] - head.mean[c]) / head.scale[c])


def test_the_nodules_weight_is_its_share_and_nearly_even_without_one():
    logits = torch.full((1, 1, 8, 16, 16), -60.0)
    assert_close(nodule_weight(logits, (2, 2, 2)), torch.full((1, 2, 2, 2), 1 / 8))
    logits[0, 0, :4, :8, 8:] = 60
    logits[0, 0, 4:6, 8:, :8] = 60
    weight = nodule_weight(logits, (2, 2, 2))[0]
    expected = torch.zeros(2, 2, 2)
    expected[0, 0, 1], expected[1, 1, 0] = 2 / 3, 1 / 3
    assert_close(weight, expected, atol=1e-4, rtol=0)
    assert_close(weight.sum(), torch.tensor(1.0))


def test_pooled_logits_equal_the_loop():
    head, cells, weight = made_head(), made_cells(), made_weight()
    slow = head.concept_bias.repeat(2, 1)
    for b, (k, j, i) in [(b, place) for b in range(2) for place in places()]:
        one = head.concept.weight[:, :, 0, 0, 0] @ cells[b, :, k, j, i]
        slow[b] += weight[b, k, j, i] * one
        assert_close(head.concept_maps(cells)[b, :, k, j, i], one, rtol=1e-4, atol=1e-5)
    assert_close(head.concept_logits(cells, weight), slow, rtol=1e-4, atol=1e-5)


def test_f3_the_spatial_softmax_equals_the_loop_and_sums_to_one():
    head, cells, weight = made_head(), made_cells(), made_weight()
    slow = torch.zeros(2, 3, CHANNELS)
    for b in range(2):
        for c in range(3):
            kernel = head.concept.weight[c, :, 0, 0, 0]
            chance = {p: weight[b][p] * (kernel @ cells[b, :, *p]).exp() for p in places()}
            for p in places():
                slow[b, c] += chance[p] / sum(chance.values()) * cells[b, :, *p]
    assert_close(head.local_vectors(cells, weight[:, None]), slow, rtol=1e-4, atol=1e-5)
    ones = torch.ones_like(cells)
    assert_close(head.local_vectors(ones, weight[:, None]), torch.ones(2, 3, CHANNELS))


def test_f3_even_maps_give_the_mean_of_the_cells_or_that_of_the_prior():
    head, cells, weight = made_head(), made_cells(), made_weight()
    head.concept.weight.zero_()
    even = torch.full_like(weight, 1 / 24)
    mean = cells.mean(dim=(2, 3, 4))[:, None].expand(-1, 3, -1)
    assert_close(head.local_vectors(cells, even[:, None]), mean, rtol=1e-4, atol=1e-5)
    prior = (cells * weight[:, None]).sum(dim=(2, 3, 4))[:, None].expand(-1, 3, -1)
    assert_close(head.local_vectors(cells, weight[:, None]), prior, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(prior, mean, atol=1e-2)


def test_f3_cells_that_the_prior_excludes_do_not_count():
    head, cells = made_head(), made_cells(1)
    weight = torch.zeros(1, *GRID)
    weight[0, 1, 2, 3] = 1
    expected = cells[0, :, 1, 2, 3].expand(1, 3, -1)
    assert_close(head.local_vectors(cells, weight[:, None]), expected, atol=1e-4, rtol=1e-4)


def test_f7_vectors_and_prototypes_have_length_one():
    head = made_head()
    assert (head.prototype.norm(dim=-1) - 1).abs().max() > 0.1
    assert_close(head.unit_prototypes().norm(dim=-1), torch.ones(3, 4))
    vectors = head.projector(1e3 * torch.randn(5, 7, CHANNELS))
    assert_close(vectors.norm(dim=-1), torch.ones(5, 7))


def test_f7_similarities_are_the_cosines():
    head, cells = made_head(), made_cells()
    similarity = head.similarity(cells)
    assert similarity.shape == (2, 3, 4, *GRID)
    assert similarity.abs().max() <= 1
    for b, k, m, p in [(0, 0, 0, (0, 0, 0)), (1, 2, 3, (1, 2, 3)), (1, 1, 0, (0, 2, 1))]:
        a, c = head.projector(cells[b, :, *p]).double(), head.prototype[k, m].double()
        assert float(similarity[b, k, m, *p]) == pytest.approx(float(a @ c / c.norm()), abs=1e-5)
    head.prototype[0, 0] = 7 * head.projector(cells[1, :, 0, 1, 2])
    best = head.similarity(cells)[1, 0, 0]
    assert best.max() <= 1
    assert float(best[0, 1, 2]) == pytest.approx(1, abs=1e-5)


def test_f7_no_rounding_takes_a_similarity_beyond_one():
    head, cells = made_head(), made_cells(20)
    vectors = head.projector(cells.flatten(2).transpose(1, 2)).flatten(0, 1)
    raw = []
    for n in range(0, 240, 12):
        head.prototype.copy_(vectors[n : n + 12].unflatten(0, (3, 4)))
        unit = head.unit_prototypes().flatten(0, 1)
        raw.append(float(torch.einsum("nw,mw->nm", vectors, unit).max()))
        assert head.similarity(cells).abs().max() <= 1
    assert max(raw) > 1


def test_scores_are_the_highest_and_zero_where_a_prototype_was_removed():
    head = made_head()
    head.kept[1, 2] = 0
    similarity = head.similarity(made_cells())
    scores = head.scores(similarity)
    for b, k, m in np.ndindex(2, 3, 4):
        highest = max(float(similarity[b, k, m, *p]) for p in places())
        assert float(scores[b, k, m]) == (0 if (k, m) == (1, 2) else highest)


def test_presence_contributions_and_decision_equal_the_loops():
    head = made_head()
    scores = torch.randn(2, 3, 4)
    for b in range(2):
        logit = float(head.decision_bias)
        for k in range(3):
            presence, part = float(head.presence_bias[k]), 0.0
            for m in range(4):
                s, w = float(scores[b, k, m]), float(head.decision_weight[k, m])
                presence += s * float(head.presence_weight[k, m])
                part += (s - float(head.absent[k, m])) * w
                logit += s * w
            assert float(head.presence(scores)[b, k]) == pytest.approx(presence, abs=1e-5)
            assert float(head.contributions(scores)[b, k]) == pytest.approx(part, abs=1e-5)
        assert float(head.decide(scores)[b]) == pytest.approx(logit, abs=1e-5)


def test_stored_scores_of_removed_prototypes_change_nothing():
    """A bundle keeps the scores of all; what was removed of its head must not count."""
    head, scores = made_head(), torch.randn(2, 3, 4)
    head.kept[1, 2] = 0
    without = scores.clone()
    without[:, 1, 2] = 0
    for told in (head.presence, head.contributions, head.decide):
        assert torch.equal(told(scores), told(without))


def test_the_decision_is_baseline_and_contributions():
    head = made_head()
    head.kept[0, 1] = head.kept[2, 2] = 0
    scores = head.scores(head.similarity(made_cells()))
    total = head.baseline + head.contributions(scores).sum(dim=1)
    assert_close(total, head.decide(scores), atol=1e-5, rtol=1e-5)
    absent = head.absent * head.kept
    assert_close(head.decide(absent[None])[0], head.baseline, atol=1e-5, rtol=1e-5)
    assert not head.contributions(absent[None]).any()


def told(head, cells):
    similarity = head.similarity(cells)
    scores = head.scores(similarity)
    return (
        scores,
        head.presence(scores),
        head.contributions(scores),
        head.decide(scores),
        head.baseline,
    )


def test_f9_keeping_all_prototypes_is_as_if_none_could_be_removed():
    head, cells = made_head(), made_cells()
    assert head.kept.eq(1).all()
    highest = head.similarity(cells).flatten(3).amax(dim=-1)
    scores, presence, parts, logit, baseline = told(head, cells)
    assert_close(scores, highest)
    assert_close(presence, (highest * head.presence_weight).sum(dim=-1) + head.presence_bias)
    assert_close(parts, ((highest - head.absent) * head.decision_weight).sum(dim=-1))
    assert_close(logit, (highest * head.decision_weight).sum(dim=(1, 2)) + head.decision_bias)
    assert_close(baseline, head.decision_bias + (head.absent * head.decision_weight).sum())


@pytest.mark.parametrize("name", ["prototype", "absent", "presence_weight", "decision_weight"])
def test_f9_a_removed_prototype_has_no_effect_whatever_its_values(name):
    head, cells = made_head(), made_cells()
    head.kept[1, 3] = 0
    before = told(head, cells)
    getattr(head, name)[1, 3] = torch.tensor([1e3, -1e3] * 4) if name == "prototype" else -1e3
    for a, b in zip(before, told(head, cells), strict=True):
        assert torch.equal(a, b)
    head.kept[1, 3] = 1
    assert not torch.allclose(told(head, cells)[3], before[3])


def test_a_batch_gives_what_its_items_give_alone():
    head, cells, weight = made_head(), made_cells(5), made_weight(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    for function in (
        lambda c, w: head.similarity(c),
        lambda c, w: head.local_vectors(c, w[:, None]),
        head.concept_logits,
        lambda c, w: head.decide(head.scores(head.similarity(c))),
    ):
        together = function(cells, weight)
        alone = torch.cat([function(cells[n : n + 1], weight[n : n + 1]) for n in range(5)])
        assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert_close(together[order], function(cells[order], weight[order]), atol=1e-5, rtol=1e-5)


def test_gradients_are_finite_for_even_and_for_huge_cells():
    for scale in (0.0, 1e4):
        head = made_head().requires_grad_(True)
        cells = (scale * made_cells()).requires_grad_()
        local = head.projector(head.local_vectors(cells, made_weight()[:, None]))
        total = head.similarity(cells).sum() + local.sum()
        total.backward()
        assert cells.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
        assert head.prototype.grad.any()


def test_a_head_comes_back_from_its_file_as_it_was(tmp_path):
    head = made_head()
    head.kept[0, 0] = 0
    save_head(tmp_path / "h.safetensors", head)
    again = load_head(tmp_path / "h.safetensors", CONFIG)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert set(again.state_dict()) == set(head.state_dict())
    for name, value in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(again.similarity(made_cells()), head.similarity(made_cells()))


@pytest.mark.parametrize(
    "change",
    [
        {"concepts": 4},
        {"prototypes": 3},
        {"width": 9},
        {"blocks": 1},
        {"blocks": 3},
        {"channels": CHANNELS + 1},
    ],
)
def test_a_head_of_another_shape_is_refused(tmp_path, change):
    file = tmp_path / "h.safetensors"
    save_head(file, made_head())
    with pytest.raises(InputError, match="does not fit the head"):
        load_head(file, replace(CONFIG, **change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_refused(tmp_path, value):
    file = tmp_path / "h.safetensors"
    head = made_head()
    head.absent[0, 0] = value
    save_head(file, head)
    with pytest.raises(InputError, match="weights that are not finite: absent"):
        load_head(file, CONFIG)


def test_a_damaged_or_incomplete_file_is_refused(tmp_path):
    file = tmp_path / "h.safetensors"
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        load_head(file, CONFIG)
    file.write_bytes(b"no")
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        load_head(file, CONFIG)
    save_head(file, made_head())
    weights = load_file(file)
    weights.pop("kept")
    save_file(weights, file)
    with pytest.raises(InputError, match="(?s)does not fit the head .*kept"):
        load_head(file, CONFIG)


def test_the_share_of_readers():
    spiculated = Concept("spiculated", "spiculation", at_least=3)
    ill_defined = Concept("ill-defined", "margin", at_most=3)
    assert spiculated.share([1, 2, 3, 5]) == 0.5
    assert ill_defined.share([1, 2, 3, 5]) == 0.75
    assert spiculated.share((2.9,)) == 0 and ill_defined.share((3.0,)) == 1
    assert np.isnan(spiculated.share([])) and np.isnan(ill_defined.share(()))


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_concept_needs_one_bound(bounds):
    with pytest.raises(ValueError, match="x must have one of at_least and at_most"):
        Concept("x", "margin", **bounds)


def test_the_configuration_stands_in_the_file(tmp_path):
    file = tmp_path / "h.safetensors"
    save_head(file, made_head())
    assert read_config(file) == CONFIG
    for metadata in (None, {"config": "{"}, {"config": "[]"}, {"config": '{"colour": 1}'}):
        save_file(load_file(file), file, metadata)
        with pytest.raises(InputError, match="is no concept head with its configuration"):
            read_config(file)
    file.unlink()
    with pytest.raises(InputError, match="is no concept head with its configuration"):
        read_config(file)
