"""InfoNCE and its hardest negatives against the paper's equations in loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from contrastdiagnosis_training.objectives.info_nce import hardest, info_nce, similarities
from contrastdiagnosis_training.objectives.self_paced import negatives_kept
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

DRAWS = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def unit(count, q=6, seed=0):
    """(count, q) random directions."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, q, generator=generator), dim=1)


def sets(b=7, n=12, q=6, seed=0):
    """Anchors, positives and negatives."""
    return unit(b, q, 3 * seed), unit(b, q, 3 * seed + 1), unit(n, q, 3 * seed + 2)


def mask(b, n, seed=0, share=0.6):
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed)) < share


def slow(anchor, positive, negative, temperature, allowed):
    """Eq. 1 of arXiv:2404.04887, anchor by anchor, in double precision."""
    losses = []
    for i, a in enumerate(anchor.double()):
        own = math.exp(float(a @ positive[i].double()) / temperature)
        others = [
            math.exp(float(a @ e.double()) / temperature)
            for k, e in enumerate(negative)
            if allowed[i, k]
        ]
        losses.append(-math.log(own / (own + sum(others))))
    return torch.tensor(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("share", [0.2, 0.6, 1.1])
def test_d1_info_nce_equals_the_papers_equation(temperature, share):
    anchor, positive, negative = sets()
    allowed = mask(7, 12, share=share)
    found = info_nce(anchor, positive, negative, temperature, allowed)
    assert found.shape == (7,)
    assert_close(found, slow(anchor, positive, negative, temperature, allowed))
    if share > 1:
        assert_close(found, info_nce(anchor, positive, negative, temperature))


def test_d1_the_temperature_is_the_papers_unless_told():
    anchor, positive, negative = sets()
    everything = torch.ones(7, 12, dtype=torch.bool)
    assert_close(info_nce(anchor, positive, negative), slow(*sets(), 0.07, everything))


def test_d1_it_is_the_cross_entropy_with_label_zero():
    anchor, positive, negative = sets()
    rows = [torch.cat([p[None], negative]) @ a for a, p in zip(anchor, positive, strict=True)]
    logits = torch.stack(rows) / 0.07
    theirs = cross_entropy(logits, torch.zeros(7, dtype=torch.long), reduction="none")
    assert_close(info_nce(anchor, positive, negative), theirs)


@pytest.mark.parametrize("share", [0.6, 1.1])
def test_d1_it_is_pytorch_metric_learnings_with_explicit_pairs(share):
    anchor, positive, negative = sets()
    allowed = mask(7, 12, share=share)
    assert allowed.any(dim=1).all()
    first, other = allowed.nonzero(as_tuple=True)
    own = torch.arange(7)
    theirs = NTXentLoss(temperature=0.07)(
        torch.cat([anchor, positive, negative]), indices_tuple=(own, own + 7, first, other + 14)
    )
    assert_close(info_nce(anchor, positive, negative, allowed=allowed).mean(), theirs)


def test_the_gradient_is_the_loops():
    """It reaches anchor, positive and allowed negatives, and no other."""
    anchor, positive, negative = (x.requires_grad_() for x in sets())
    allowed = mask(7, 12)
    allowed[:, 4] = False
    ours = torch.autograd.grad(
        info_nce(anchor, positive, negative, allowed=allowed).sum(), (anchor, positive, negative)
    )
    total = torch.zeros(())
    for i in range(7):
        logits = torch.stack([anchor[i] @ positive[i], *(negative[allowed[i]] @ anchor[i])]) / 0.07
        total = total + logits.logsumexp(0) - logits[0]
    theirs = torch.autograd.grad(total, (anchor, positive, negative))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not ours[2][4].any()
    assert (ours[2].norm(dim=1) > 0).sum() == 11


@pytest.mark.parametrize("n", [0, 12])
def test_an_anchor_without_negatives_costs_nothing(n):
    anchor, positive, negative = (x.requires_grad_() for x in sets(n=n))
    loss = info_nce(anchor, positive, negative, allowed=torch.zeros(7, n, dtype=torch.bool))
    assert loss.equal(torch.zeros(7))
    for gradient in torch.autograd.grad(loss.sum(), (anchor, positive, negative)):
        assert not gradient.any()


def test_one_anchor_without_negatives_leaves_the_others_alone():
    anchor, positive, negative = (x.requires_grad_() for x in sets())
    allowed = torch.ones(7, 12, dtype=torch.bool)
    allowed[3] = False
    loss = info_nce(anchor, positive, negative, allowed=allowed)
    rest = torch.arange(7) != 3
    assert loss[3] == 0
    assert_close(loss[rest], info_nce(anchor[rest], positive[rest], negative))
    for gradient in torch.autograd.grad(loss.mean(), (anchor, positive, negative)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_computed_in_float32(dtype):
    """The worst case too: a positive that is the opposite, negatives that are the anchor."""
    anchor, positive, negative = (x.to(dtype) for x in sets(n=500, q=128))
    positive[0], negative[:50] = -anchor[0], anchor[0]
    leaves = [x.requires_grad_() for x in (anchor, positive, negative)]
    with torch.autocast("cpu", dtype=dtype):
        loss, cosine = info_nce(*leaves), similarities(anchor, negative)
    assert loss.dtype == cosine.dtype == torch.float32
    assert_close(loss, info_nce(*(x.detach().float() for x in leaves)))
    assert_close(cosine, anchor.detach().float() @ negative.detach().float().T)
    assert float(loss[0].detach()) > 25
    for gradient in torch.autograd.grad(loss.mean(), leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -0.07])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        info_nce(*sets(), temperature)


@DRAWS
@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_d5_the_order_of_the_negatives_does_not_matter(n, random):
    anchor, positive, negative = sets(n=n)
    allowed = mask(7, n)
    order = random.sample(range(n), n)
    assert_close(
        info_nce(anchor, positive, negative[order], allowed=allowed[:, order]),
        info_nce(anchor, positive, negative, allowed=allowed),
    )


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_d5_one_negative_that_is_the_positive_costs_ln_2(temperature):
    anchor, positive, _ = sets(b=1)
    (loss,) = info_nce(anchor, positive, positive, temperature)
    assert float(loss) == pytest.approx(math.log(2), abs=2e-6)


@DRAWS
@given(seed=st.integers(0, 1000), n=st.integers(1, 15))
def test_d5_more_negatives_never_cost_less(seed, n):
    anchor, positive, negative = sets(n=15, seed=seed)
    fewer = info_nce(anchor, positive, negative[:n])
    assert (info_nce(anchor, positive, negative) >= fewer - 1e-5).all()
    allowed = mask(7, 15, seed, 0.4)
    more = allowed | mask(7, 15, seed + 1, 0.4)
    fewer = info_nce(anchor, positive, negative, allowed=allowed)
    assert (info_nce(anchor, positive, negative, allowed=more) >= fewer - 1e-5).all()


def test_losses_are_per_anchor_and_order_free():
    anchor, positive, negative = sets()
    allowed = mask(7, 12)
    together = info_nce(anchor, positive, negative, allowed=allowed)
    order = torch.tensor([4, 2, 0, 6, 5, 1, 3])
    again = info_nce(anchor[order], positive[order], negative, allowed=allowed[order])
    assert_close(again, together[order])
    alone = info_nce(anchor[3:4], positive[3:4], negative, allowed=allowed[3:4])
    assert_close(alone, together[3:4])


@DRAWS
@given(
    rows=st.lists(
        st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), st.booleans()),
                 min_size=9, max_size=9),
        min_size=1, max_size=4,
    ),
    count=st.integers(1, 12),
)  # fmt: skip
def test_the_hardest_are_those_of_the_loop_and_of_equal_ones_the_first(rows, count):
    similarity = torch.tensor([[s for s, _ in row] for row in rows])
    allowed = torch.tensor([[a for _, a in row] for row in rows])
    found = hardest(similarity, count, allowed)
    for i, row in enumerate(rows):
        candidates = [k for k, (_, a) in enumerate(row) if a]
        best = sorted(candidates, key=lambda k, row=row: (-row[k][0], k))[:count]
        assert found[i].nonzero().flatten().tolist() == sorted(best)


def test_of_many_equal_ones_exactly_as_many_are_kept():
    """Beyond 16 entries an unstable sort takes others than the first."""
    similarity = torch.zeros(2, 300)
    allowed = torch.ones(2, 300, dtype=torch.bool)
    allowed[1, :10] = False
    expected = torch.zeros(2, 300, dtype=torch.bool)
    expected[0, :40], expected[1, 10:50] = True, True
    assert hardest(similarity, 40, allowed).equal(expected)
    assert hardest(similarity, 40)[0].equal(expected[0])


def test_keeping_no_negative_is_refused():
    with pytest.raises(ValueError, match="at least one negative must be kept, got 0"):
        hardest(torch.zeros(1, 3), 0)


def test_what_is_hardest_has_no_gradient():
    anchor, _, negative = sets()
    similarity = similarities(anchor.requires_grad_(), negative)
    assert not hardest(similarity, 3).requires_grad


@pytest.mark.parametrize("share", [0.5, 1.1])
def test_d2_with_all_negatives_kept_it_is_the_plain_loss_and_with_fewer_it_is_less(share):
    anchor, positive, negative = sets()
    allowed, similarity = mask(7, 12, share=share), similarities(anchor, negative)
    losses = [
        info_nce(anchor, positive, negative, allowed=hardest(similarity, count, allowed))
        for count in range(1, 14)
    ]
    assert losses[negatives_kept(0, 10, 12) - 1].equal(
        info_nce(anchor, positive, negative, allowed=allowed)
    )
    for fewer, more in pairwise(losses):
        assert (more >= fewer - 1e-6).all()
    assert losses[0].sum() < losses[-1].sum()


def test_d2_the_loss_on_the_hardest_equals_the_loop():
    anchor, positive, negative = sets()
    kept = hardest(similarities(anchor, negative), 3)
    losses = []
    for a, p in zip(anchor.tolist(), positive.tolist(), strict=True):
        others = [sum(x * y for x, y in zip(a, e, strict=True)) for e in negative.tolist()]
        own = math.exp(sum(x * y for x, y in zip(a, p, strict=True)) / 0.07)
        top = sum(math.exp(s / 0.07) for s in sorted(others)[-3:])
        losses.append(-math.log(own / (own + top)))
    assert_close(info_nce(anchor, positive, negative, allowed=kept), torch.tensor(losses))
