"""What a step minimises: which loss reaches which weights (docs/methods.md 7.7: B4)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis_training.network.concept_task import concept_logits, concept_task
from contrastdiagnosis_training.network.objective import Targets, objective, vote_loss
from contrastdiagnosis_training.objectives.losses import (
    dice_ce,
    margin_contrastive,
    pairwise_distance,
)
from torch.testing import assert_close

from training.conftest import TINY, TINY_PAPER

SHAPE = (8, 1, 16, 32, 32)
CONCEPTS = 3


def inputs(ratings=10):
    generator = torch.Generator().manual_seed(0)
    share = (torch.rand(SHAPE, generator=generator) < 0.1).float()
    targets = Targets(
        torch.tensor([True, False] * 4),
        torch.tensor([1.0, 0.0, 0.75, 0.25, 0.5, 0.5, 1.0, float("nan")]),
        torch.randn(8, ratings, generator=generator),
        torch.rand(8, CONCEPTS, generator=generator),
    )
    return torch.rand(SHAPE, generator=generator), share, targets


def gradients(recipe, mask_only=False):
    torch.manual_seed(0)
    network = NoduleNet(recipe.network).train()
    x, share, targets = inputs()
    terms = objective(network(x), share, targets, recipe, mask_only)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {name: p.grad for name, p in network.named_parameters()}


def touched(grads, prefix):
    return any(g is not None and bool(g.any()) for n, g in grads.items() if n.startswith(prefix))


def test_the_paper_recipe_is_the_published_sum():
    torch.manual_seed(0)
    network = NoduleNet(TINY_PAPER.network).train()
    x, share, targets = inputs()
    features = network(x)
    terms = objective(features, share, targets, TINY_PAPER, mask_only=False)
    first, second = torch.triu_indices(8, 8, offset=1)
    same = targets.malignant[first] == targets.malignant[second]
    distance = pairwise_distance(features.embedding, features.embedding)[first, second]
    pair = margin_contrastive(distance, same, 1.0)
    assert set(terms) == {"mask", "contrast"}
    assert_close(terms["contrast"], pair[same].mean() + pair[~same].mean())
    assert_close(terms["mask"], 1.5 * 2 * dice_ce(features.mask_logits, share).mean())


@pytest.mark.parametrize("recipe", [TINY, TINY_PAPER], ids=["default", "paper"])
def test_b4_without_omega_the_decoder_learns_nothing(recipe):
    _, grads = gradients(replace(recipe, omega=0.0))
    assert not touched(grads, "decoder")
    assert not touched(grads, "mask_head")
    assert touched(grads, "align")
    assert touched(grads, "encoder")


@pytest.mark.parametrize("recipe", [TINY, TINY_PAPER], ids=["default", "paper"])
def test_b4_with_the_mask_alone_a_learns_nothing(recipe):
    terms, grads = gradients(recipe, mask_only=True)
    assert set(terms) == {"mask"}
    assert not touched(grads, "align")
    assert touched(grads, "decoder")
    assert touched(grads, "encoder")


def test_unsure_pairs_weigh_nothing():
    """A nodule whose readers are split, and one without ratings, pull at nobody."""
    torch.manual_seed(0)
    network = NoduleNet(TINY.network).eval()
    x, share, targets = inputs()
    embedding = network(x).embedding.detach().requires_grad_()
    features = network(x)._replace(embedding=embedding)
    recipe = replace(TINY, vote_weight=0.0, rating_weight=0.0)
    loss = objective(features, share, targets, recipe, mask_only=False)["contrast"]
    (gradient,) = torch.autograd.grad(loss, embedding)
    assert not gradient[[4, 5, 7]].any()
    assert gradient[[0, 1, 2, 3, 6]].abs().sum(dim=1).all()


def test_concepts_are_trained_along_where_their_logits_are_given():
    """The pyramid learns from them, and the mask's head does not."""
    torch.manual_seed(0)
    recipe = replace(
        TINY, concept_weight=0.7, omega=0.0, vote_weight=0.0, rating_weight=0.0,
        contrastive_weight=0.0,
    )  # fmt: skip
    network = NoduleNet(recipe.network).train()
    task = concept_task(recipe.network, CONCEPTS).train()
    x, share, targets = inputs()
    targets.concepts[0, 1] = torch.nan
    features = network(x)
    logits = concept_logits(task, features)
    assert logits.shape == (8, CONCEPTS)
    terms = objective(features, share, targets, recipe, False, logits)
    known = targets.concepts.isfinite()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.concepts.nan_to_num(), reduction="none"
    )
    mean = ((loss * known).sum(dim=1) / known.sum(dim=1)).mean()
    torch.testing.assert_close(terms["concepts"], 0.7 * mean)
    terms["concepts"].backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert touched(grads, "encoder") and touched(grads, "stem")
    assert not touched(grads, "mask_head") and not touched(grads, "align")
    assert task.maps.weight.grad.any()
    assert "concepts" not in objective(features, share, targets, recipe, mask_only=False)


def test_an_anchor_has_no_vote_of_its_own():
    """Two nodules of opposite classes can only mislead each other."""
    suspicion = torch.tensor([0.0, 1.0])
    targets = Targets(suspicion > 0.5, suspicion, torch.zeros(2, 1), torch.zeros(2, 1))
    distance = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    assert float(vote_loss(distance, targets)) == pytest.approx(-math.log(1e-4), rel=1e-3)
