"""Self-paced learning against its equations, and where the published rule starts."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
from contrastdiagnosis_training.objectives.info_nce import hardest, info_nce, similarities
from contrastdiagnosis_training.objectives.losses import weighted_mean
from contrastdiagnosis_training.objectives.self_paced import negatives_kept, self_paced_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

DRAWS = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@DRAWS
@given(steps=st.integers(1, 200), count=st.integers(1, 1024))
def test_d2_the_negatives_fall_from_all_to_one(steps, count):
    kept = [negatives_kept(step, steps, count) for step in range(steps + 1)]
    assert kept[0] == count
    assert kept[-1] == 1
    assert all(a >= b >= 1 for a, b in pairwise(kept))


@DRAWS
@given(steps=st.integers(1, 300), count=st.integers(1, 1024), data=st.data())
def test_d2_the_negatives_equal_the_published_floor(steps, count, data):
    step = data.draw(st.integers(0, steps))
    exact = count * math.cos(math.pi * step / (2 * steps))
    kept = negatives_kept(step, steps, count)
    assert max(1.0, exact) - 1 < kept + 1e-9
    assert kept <= max(1.0, exact + 1e-9)


def test_d2_half_of_the_negatives_are_left_after_two_thirds_of_any_number_of_steps():
    """There alone the cosine is a whole share; rounded wrongly, one is lost at some lengths."""
    for third in range(1, 500):
        assert negatives_kept(2 * third, 3 * third, 256) == 128


@pytest.mark.parametrize(
    ("step", "steps", "count", "told"),
    [
        (-1, 5, 8, "got step -1 of 5"),
        (6, 5, 8, "got step 6 of 5"),
        (0, 0, 8, "got step 0 of 0"),
        (0, 5, 0, "wanted at least one negative, got 0"),
    ],
)
def test_a_step_outside_of_the_schedule_is_refused(step, steps, count, told):
    with pytest.raises(ValueError, match=told):
        negatives_kept(step, steps, count)


@DRAWS
@given(
    losses=st.lists(st.floats(0, 2, width=32), min_size=1, max_size=7),
    kept=st.integers(1, 40),
)
def test_the_published_rule_minimises_the_published_sum(losses, kept):
    """min over s of sum s l - sum s / K, by trying all s; at l = 1/K both are a minimum."""
    found = self_paced_weights(torch.tensor(losses), kept, "paper", 0.0)
    s = [0.0] * len(losses) if found.fallback else found.weights.tolist()

    def cost(s):
        return sum(a * (x - 1 / kept) for a, x in zip(s, losses, strict=True))

    choices = list(product((0.0, 1.0), repeat=len(losses)))
    assert cost(s) == pytest.approx(min(map(cost, choices)), abs=1e-6)
    if all(abs(x - 1 / kept) > 1e-4 for x in losses):
        assert tuple(s) == min(choices, key=cost)


def test_a_loss_at_the_threshold_is_not_selected():
    found = self_paced_weights(torch.tensor([0.25, 0.125, 0.5]), 4, "paper", 0.0)
    assert found.weights.tolist() == [0, 1, 0]
    assert found.selected_share == pytest.approx(1 / 3)
    assert not found.fallback


def test_the_dead_start_falls_back_to_all_and_says_so():
    found = self_paced_weights(torch.tensor([0.3, 0.25, 7.0]), 4, "paper", 1.0)
    assert found.weights.tolist() == [1, 1, 1]
    assert found.fallback
    assert found.selected_share == 0


def test_d3_the_published_rule_selects_nothing_at_random_initialisation():
    """256 negatives in 128 numbers: the mean loss is 6.4, the threshold 0.004."""
    generator = torch.Generator().manual_seed(0)
    anchor, positive, negative = (
        normalize(torch.randn(n, 128, generator=generator), dim=1) for n in (512, 512, 256)
    )
    kept = negatives_kept(0, 100, 256)
    mined = hardest(similarities(anchor, negative), kept)
    loss = info_nce(anchor, positive, negative, 0.07, mined)
    assert float(loss.mean()) == pytest.approx(6.4, abs=0.1)
    assert float(loss.min()) > 100 / kept
    found = self_paced_weights(loss, kept, "paper", 0.0)
    assert found.fallback
    assert found.selected_share == 0
    assert float(weighted_mean(loss, found.weights)) == pytest.approx(float(loss.mean()))


@pytest.mark.parametrize(("kept", "share"), [(256, 0.0), (64, 0.19), (8, 0.97)])
def test_d3_even_a_good_encoder_is_selected_only_late(kept, share):
    """Positives at a cosine of 0.9, 256 negatives around 0 with an sd of 0.2."""
    generator = torch.Generator().manual_seed(0)
    anchors = 500
    cosine = (0.2 * torch.randn(anchors, 256, generator=generator)).clamp(-1, 1)

    def at(cosine):
        return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=-1)

    anchor, positive = at(torch.ones(1)), at(torch.full((1,), 0.9))
    losses = []
    for negative in map(at, cosine):
        mined = hardest(similarities(anchor, negative), kept)
        losses.append(info_nce(anchor, positive, negative, allowed=mined))
    found = self_paced_weights(torch.cat(losses), kept, "paper", 0.0)
    assert found.selected_share == pytest.approx(share, abs=0.04)
    assert found.fallback == (share == 0)


@DRAWS
@given(
    losses=st.lists(st.sampled_from([0.0, 0.1, 0.5, 3.0]), min_size=1, max_size=40),
    step=st.integers(0, 100),
)
def test_the_easiest_share_grows_from_a_half_to_all_and_of_equal_ones_the_first(losses, step):
    found = self_paced_weights(torch.tensor(losses), 5, "quantile", step / 100)
    count = math.ceil((Fraction(1, 2) + Fraction(step, 200)) * len(losses))
    easiest = sorted(range(len(losses)), key=lambda i: (losses[i], i))[:count]
    assert found.weights.tolist() == [float(i in easiest) for i in range(len(losses))]
    assert not found.fallback


def test_the_easiest_share_is_not_one_more_by_rounding():
    """0.55 x 100 is 55.00000000000001."""
    for length in range(1, 129):
        loss = torch.arange(float(length)).flip(0)
        for step in range(11):
            count = int(self_paced_weights(loss, 5, "quantile", step / 10).weights.sum())
            assert count == math.ceil((Fraction(1, 2) + Fraction(step, 20)) * length)


def test_of_many_equal_losses_the_first_are_easiest():
    weights = self_paced_weights(torch.zeros(200), 5, "quantile", 0.0).weights
    assert weights.equal((torch.arange(200) < 100).float())


def test_without_self_pacing_all_count():
    found = self_paced_weights(torch.tensor([9.0, 0.0]), 5, "off", 0.5)
    assert found.weights.tolist() == [1, 1]
    assert not found.fallback
    assert found.selected_share == 1


@pytest.mark.parametrize("mode", ["paper", "quantile", "off"])
@pytest.mark.parametrize("kept", [1, 100])
def test_weights_carry_no_gradient_and_leave_the_losses_theirs(mode, kept):
    loss = torch.tensor([0.5, 0.1, 2.0, 0.9], requires_grad=True)
    weights = self_paced_weights(loss, kept, mode, 0.0).weights
    assert weights.shape == loss.shape
    assert not weights.requires_grad
    (gradient,) = torch.autograd.grad(weighted_mean(loss, weights), loss)
    assert_close(gradient, weights / weights.sum())


@pytest.mark.parametrize(
    ("kept", "mode", "progress", "told"),
    [
        (0, "paper", 0.0, "wanted at least one negative and .* got 0 and 0.0"),
        (1, "quantile", 1.01, "a progress from 0 to 1, got 1 and 1.01"),
        (1, "quantile", -0.1, "a progress from 0 to 1, got 1 and -0.1"),
        (1, "quantile", math.nan, "a progress from 0 to 1, got 1 and nan"),
        (1, "papers", 0.0, "wanted one of paper, quantile, off, got papers"),
    ],
)
def test_impossible_choices_are_refused(kept, mode, progress, told):
    with pytest.raises(ValueError, match=told):
        self_paced_weights(torch.ones(3), kept, mode, progress)
