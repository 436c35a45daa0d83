"""The losses against the papers' equations in plain loops (docs/methods.md 7.7: B)."""

from __future__ import annotations

import math

import pytest
import torch
from contrastdiagnosis_training.objectives.losses import (
    consensus,
    dice_ce,
    known_bce,
    margin_contrastive,
    pairwise_distance,
    rating_regression,
    soft_triple,
    soft_vote,
    vote_cross_entropy,
    weighted_mean,
)
from monai.losses import DiceCELoss
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, SoftTripleLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch.testing import assert_close


def batch(n=10, p=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, generator=generator), torch.rand(n, generator=generator) < 0.5


def pairs(z, label):
    first, second = torch.triu_indices(len(z), len(z), offset=1)
    return pairwise_distance(z, z)[first, second], label[first] == label[second]


@pytest.mark.parametrize("margin", [0.5, 1.0, 4.0])
def test_the_contrastive_loss_equals_the_published_sum(margin):
    z, label = batch()
    d, same = pairs(z, label)
    slow = [float(x) if s else max(0.0, margin - float(x)) for x, s in zip(d, same, strict=True)]
    assert_close(margin_contrastive(d, same, margin), torch.tensor(slow))


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_b1_it_equals_pytorch_metric_learning_configured_so_and_not_its_default(margin):
    z, label = batch()
    d, same = pairs(z, label)
    loss = margin_contrastive(d, same, margin)
    ours = loss[same].mean() + loss[~same].mean()
    theirs = ContrastiveLoss(
        pos_margin=0, neg_margin=margin,
        distance=LpDistance(normalize_embeddings=False, p=2, power=1), reducer=MeanReducer(),
    )  # fmt: skip
    assert_close(ours, theirs(z, label.long()))
    assert abs(float(ours - ContrastiveLoss(neg_margin=margin)(z, label.long()))) > 0.05


def test_b2_a_pair_of_two_classes_is_left_alone_beyond_the_margin():
    d = torch.tensor([0.4, 1.6], requires_grad=True)
    loss = margin_contrastive(d, torch.tensor([False, False]), 1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), d)
    assert_close(loss, torch.tensor([0.6, 0.0]))
    assert_close(gradient, torch.tensor([-1.0, 0.0]))


def test_an_impossible_margin_is_refused():
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        margin_contrastive(torch.ones(1), torch.ones(1, dtype=torch.bool), 0)


def test_distances_equal_the_loop_and_have_no_nan_gradient():
    z, _ = batch()
    z = z.requires_grad_()
    d = pairwise_distance(z, z)
    slow = torch.stack([torch.stack([((a - b) ** 2).sum().sqrt() for b in z]) for a in z])
    assert_close(d, slow)
    assert not d.diagonal().any()
    (gradient,) = torch.autograd.grad(d.sum(), z)
    assert gradient.isfinite().all()


def test_a5_equal_embeddings_far_from_the_origin_have_distance_zero():
    """`torch.cdist` by matrix product does not see that."""
    z = batch(30, 64)[0] + 300
    assert not pairwise_distance(z, z).diagonal().any()
    assert torch.cdist(z, z, compute_mode="use_mm_for_euclid_dist").diagonal().max() > 0.01
    exact = torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert_close(pairwise_distance(z, z), exact.float(), atol=1e-4, rtol=1e-4)


def test_dice_ce_equals_the_formula_on_binary_masks():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 1, 4, 5, 6, generator=generator)
    mask = (torch.rand(3, 1, 4, 5, 6, generator=generator) < 0.3).float()
    slow = []
    for x, y in zip(logits, mask, strict=True):
        p = torch.sigmoid(x)
        dice = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
        ce = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        slow.append(dice + ce)
    assert_close(dice_ce(logits, mask), torch.stack(slow))


def test_b3_perfect_logits_cost_nothing_and_an_empty_mask_costs_one():
    mask = torch.zeros(2, 1, 4, 4, 4)
    mask[0, 0, :2] = 1
    perfect = 60 * (2 * mask - 1)
    loss = dice_ce(perfect, mask)
    assert loss[0] < 1e-4
    empty = dice_ce(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4))
    assert float(empty) == pytest.approx(1 + math.log(2), abs=1e-3)


def test_b3_logits_are_taken_through_the_sigmoid():
    mask = (torch.arange(64).reshape(1, 1, 4, 4, 4) % 3 == 0).float()
    logits = torch.linspace(-2, 2, 64).reshape(1, 1, 4, 4, 4)
    ours = DiceCELoss(sigmoid=True)(logits, mask)
    assert_close(dice_ce(logits, mask), ours[None])
    assert abs(float(ours - DiceCELoss(sigmoid=False)(logits, mask))) > 0.05


@pytest.mark.parametrize(
    ("share", "target"),
    [(0, 0), (1 / 4, 0), (1 / 3, 1 / 3), (3 / 8, 1 / 2), (1 / 2, 1), (2 / 3, 1), (1, 1)],
)
def test_half_of_the_readers_are_the_consensus_and_between_it_and_a_quarter_it_is_soft(
    share, target
):
    assert float(consensus(torch.tensor(share, dtype=torch.float64))) == pytest.approx(target)


def test_dice_ce_equals_the_formula_on_shares_of_readers():
    """The Dice term cuts the consensus at its half, the cross-entropy follows it."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 1, 4, 5, 6, generator=generator)
    share = torch.rand(2, 1, 4, 5, 6, generator=generator)
    slow = []
    for x, s in zip(logits, share, strict=True):
        p, y = torch.sigmoid(x), ((s - 0.25) / 0.25).clamp(0, 1)
        mask = (y >= 0.5).float()
        dice = 1 - (2 * (p * mask).sum() + 1e-5) / (p.sum() + mask.sum() + 1e-5)
        slow.append(dice - (y * p.log() + (1 - y) * (1 - p).log()).mean())
    assert_close(dice_ce(logits, share), torch.stack(slow))


def test_losses_are_per_item_and_order_free():
    logits, share = torch.randn(4, 1, 4, 4, 4), torch.rand(4, 1, 4, 4, 4)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(dice_ce(logits, share)[order], dice_ce(logits[order], share[order]))
    assert_close(dice_ce(logits, share)[1:2], dice_ce(logits[1:2], share[1:2]))


def test_unknown_ratings_are_left_out():
    predicted = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[0.5, 4.0, float("nan")], [float("nan")] * 3])
    loss = rating_regression(predicted, target)
    assert_close(loss, torch.tensor([(0.125 + 1.5) / 2, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    assert gradient.isfinite().all()
    assert not gradient[0, 2]


def test_the_soft_vote_equals_the_loop():
    z, _ = batch(6)
    share = torch.rand(6, generator=torch.Generator().manual_seed(3))
    d = pairwise_distance(z, z)
    slow = []
    for a in range(6):
        weights = {b: math.exp(-float(d[a, b])) for b in range(6) if b != a}
        slow.append(sum(w * float(share[b]) for b, w in weights.items()) / sum(weights.values()))
    assert_close(soft_vote(d, share, ~torch.eye(6, dtype=torch.bool)), torch.tensor(slow))


def test_vote_cross_entropy_is_least_at_the_share_and_finite_at_the_ends():
    share = torch.tensor([0.0, 0.3, 1.0])
    best = vote_cross_entropy(share, share)
    assert (best <= vote_cross_entropy(share + 0.1 * (1 - 2 * share), share)).all()
    assert vote_cross_entropy(1 - share, share).isfinite().all()


def test_weighted_mean_of_nothing_is_zero():
    assert weighted_mean(torch.tensor([3.0]), torch.tensor([0.0])) == 0
    assert weighted_mean(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 3.0])) == 4.5


def cosines(n=9, k=4, m=3, seed=0):
    """(n, k, m) of random unit vectors, the vectors, the prototypes, and own concepts."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    vectors = unit(torch.randn(n, 6, generator=generator), dim=-1)
    prototypes = unit(torch.randn(k, m, 6, generator=generator), dim=-1)
    concept = torch.randint(k, (n,), generator=generator)
    return torch.einsum("nw,kmw->nkm", vectors, prototypes), vectors, prototypes, concept


@pytest.mark.parametrize("gamma", [5.0, 10.0, 200.0])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4])
def test_f1_soft_triple_equals_pytorch_metric_learnings(gamma, margin):
    cosine, vectors, prototypes, concept = cosines()
    k, m, width = prototypes.shape
    theirs = SoftTripleLoss(
        num_classes=k, embedding_size=width, centers_per_class=m, la=20, gamma=1 / gamma,
        margin=margin,
    )  # fmt: skip
    with torch.no_grad():
        theirs.fc.copy_(prototypes.flatten(0, 1).T)
    ours = soft_triple(cosine, concept, -margin, 20.0, gamma)
    assert ours.shape == (9,)
    assert_close(ours.mean(), theirs(vectors, concept), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.1])
@pytest.mark.parametrize(("scale", "gamma"), [(20.0, 10.0), (20.0, 1000.0), (3.0, 2.0)])
def test_f1_soft_triple_equals_the_papers_equation(margin, scale, gamma):
    """Eqs. 6-9 of arXiv:2503.06873; the margin also stands in the denominator."""
    cosine, _, _, concept = cosines()
    slow = []
    for n, own in enumerate(concept.tolist()):
        similarity = []
        for k in range(4):
            p = [float(x) for x in cosine[n, k]]
            q = [math.exp(gamma * (x - max(p))) for x in p]
            similarity.append(sum(a * b for a, b in zip(q, p, strict=True)) / sum(q))
        top = math.exp(scale * (similarity[own] + margin))
        rest = sum(math.exp(scale * s) for k, s in enumerate(similarity) if k != own)
        slow.append(-math.log(top / (top + rest)))
    assert_close(
        soft_triple(cosine, concept, margin, scale, gamma), torch.tensor(slow), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("margin", [-0.4, -0.1, 0.1, 0.4])
def test_f1_soft_triple_is_never_negative(margin):
    """With the margin in the numerator alone it would be."""
    for seed in range(20):
        cosine, _, _, concept = cosines(seed=seed)
        assert (soft_triple(cosine, concept, margin) >= 0).all()
    perfect = torch.full((1, 3, 2), -1.0)
    perfect[0, 1] = 1
    assert 0 <= float(soft_triple(perfect, torch.tensor([1]), margin)) < 1e-5


def test_f1_the_true_margin_costs_most_and_the_printed_sign_least():
    cosine, _, _, concept = cosines(50)
    strict, plain, relaxed = (soft_triple(cosine, concept, margin) for margin in (-0.1, 0.0, 0.1))
    assert (strict > plain).all() and (plain > relaxed).all()


def test_f2_a_sharp_choice_among_prototypes_is_the_highest():
    cosine, _, _, concept = cosines(50)
    highest = cosine.amax(dim=-1, keepdim=True)
    one = soft_triple(highest, concept, gamma=1.0)
    assert_close(soft_triple(cosine, concept, gamma=1e5), one, atol=1e-3, rtol=1e-3)
    assert (soft_triple(cosine, concept, gamma=1.0) - one).abs().max() > 0.1


def test_soft_triple_is_per_item_and_its_gradient_reaches_the_own_concept():
    cosine, _, _, concept = cosines()
    order = torch.tensor([4, 2, 0, 8, 7, 6, 5, 1, 3])
    together = soft_triple(cosine, concept)
    assert_close(together[order], soft_triple(cosine[order], concept[order]))
    assert_close(together[3:4], soft_triple(cosine[3:4], concept[3:4]))
    leaf = cosine.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_triple(leaf, concept, gamma=1000.0).sum(), leaf)
    assert gradient.isfinite().all()
    best = leaf.argmax(dim=-1)
    for n, own in enumerate(concept.tolist()):
        assert gradient[n, own, best[n, own]] < 0


def test_soft_triple_is_not_told_from_what_is_left_out():
    """As if the concepts that are left out did not exist; the own one always counts."""
    cosine, _, _, concept = cosines()
    left_out = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    slow = []
    for n, own in enumerate(concept.tolist()):
        told = [own, *(k for k in range(4) if k != own and not left_out[n, k])]
        slow.append(soft_triple(cosine[n : n + 1, told], torch.tensor([0])))
    found = soft_triple(cosine, concept, left_out=left_out)
    assert_close(found, torch.cat(slow))
    assert (found <= soft_triple(cosine, concept)).all()
    everything = torch.ones(9, 4, dtype=torch.bool)
    leaf = cosine.clone().requires_grad_()
    nothing = soft_triple(leaf, concept, left_out=everything)
    assert_close(nothing, torch.zeros(9))
    (gradient,) = torch.autograd.grad(nothing.sum(), leaf)
    assert gradient.isfinite().all()


def test_known_bce_equals_the_loop():
    logit = torch.tensor([[0.5, -2.0, 3.0], [1.0, 0.0, -1.0], [4.0, 4.0, 4.0]])
    nan = float("nan")
    target = torch.tensor([[1.0, 0.25, nan], [nan, 0.0, 0.75], [nan, nan, nan]])
    weight = torch.tensor([3.0, 2.0, 0.5])
    slow = []
    for x, y in zip(logit.tolist(), target.tolist(), strict=True):
        parts = []
        for k in range(3):
            if y[k] == y[k]:
                p = 1 / (1 + math.exp(-x[k]))
                parts.append(
                    -(float(weight[k]) * y[k] * math.log(p) + (1 - y[k]) * math.log(1 - p))
                )
        slow.append(sum(parts) / len(parts) if parts else 0.0)
    assert_close(known_bce(logit, target, weight), torch.tensor(slow))
    assert_close(known_bce(logit, target), known_bce(logit, target, torch.ones(3)))
    leaf = logit.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(known_bce(leaf, target).sum(), leaf)
    assert gradient.isfinite().all()
    assert (gradient == 0).equal(target.isnan())
