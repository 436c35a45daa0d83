"""The queue against a plain list, and whose negatives count."""

from __future__ import annotations

import io

import pytest
import torch
from contrastdiagnosis_training.objectives.info_nce import hardest, info_nce, similarities
from contrastdiagnosis_training.pretraining.negative_queue import NegativeQueue, allowed_negatives
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

DRAWS = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def entries(count, q=4, seed=0, patients=5):
    """Embeddings and the numbers of their patients."""
    generator = torch.Generator().manual_seed(seed)
    embedding = normalize(torch.randn(count, q, generator=generator), dim=1)
    return embedding, torch.randint(patients, (count,), generator=generator)


def filled(size, *batches):
    queue = NegativeQueue(size, 4)
    for embedding, patient in batches:
        queue.add(embedding, patient)
    return queue


@DRAWS
@given(size=st.integers(1, 12), counts=st.lists(st.integers(0, 15), max_size=6))
def test_it_keeps_the_last_entries_as_a_list_would(size, counts):
    queue, slow = NegativeQueue(size, 4), []
    for seed, count in enumerate(counts):
        embedding, patient = entries(count, seed=seed)
        queue.add(embedding, patient)
        slow = (slow + list(zip(embedding.tolist(), patient.tolist(), strict=True)))[-size:]
        assert queue.embedding.shape == (len(slow), 4)
        assert queue.embedding.tolist() == [e for e, _ in slow]
        assert queue.patient.tolist() == [p for _, p in slow]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("number", "kind"), [(2**30, torch.int32), (2**40, torch.int64)])
def test_what_is_kept_is_float32_without_gradient_and_an_int64_number(dtype, number, kind):
    embedding = torch.ones(2, 4, dtype=dtype, requires_grad=True)
    queue = filled(3, (embedding * 0.5, torch.tensor([7, number], dtype=kind)))
    assert queue.embedding.dtype == torch.float32
    assert not queue.embedding.requires_grad
    assert queue.patient.dtype == torch.int64
    assert queue.patient.tolist() == [7, number]


def test_what_is_kept_is_a_copy():
    source = torch.ones(2, 4)
    queue = filled(3, (source, torch.tensor([0, 1])))
    source.zero_()
    assert (queue.embedding == 1).all()


def test_entries_may_be_added_between_a_loss_and_its_gradient():
    """A store that is written in place would spoil the gradient of the anchors."""
    queue = filled(6, entries(6))
    anchor = entries(3, seed=1)[0].requires_grad_()
    positive = entries(3, seed=2)[0]
    (expected,) = torch.autograd.grad(info_nce(anchor, positive, queue.embedding).sum(), anchor)
    loss = info_nce(anchor, positive, queue.embedding).sum()
    queue.add(*entries(6, seed=3))
    (gradient,) = torch.autograd.grad(loss, anchor)
    assert gradient.equal(expected)


def test_a_checkpoint_goes_on_as_if_nothing_had_been():
    queue = filled(6, entries(4), entries(5, seed=1))
    stream = io.BytesIO()
    torch.save(queue.state_dict(), stream)
    stream.seek(0)
    resumed = filled(6, entries(6, seed=9))
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    for seed in (2, 3):
        assert resumed.embedding.equal(queue.embedding)
        assert resumed.patient.equal(queue.patient)
        queue.add(*entries(2, seed=seed))
        resumed.add(*entries(2, seed=seed))


def test_a_checkpoint_stays_as_it_was_and_holds_no_more_than_the_entries():
    queue = filled(6, entries(40))
    state = queue.state_dict()
    before = queue.embedding.clone()
    queue.add(*entries(3, seed=1))
    assert state["embedding"].equal(before)
    assert state["embedding"].untyped_storage().nbytes() == 6 * 4 * 4


def test_an_empty_queue_survives_a_checkpoint_and_costs_an_anchor_nothing():
    queue = filled(6, entries(2))
    queue.load_state_dict(NegativeQueue(6, 4).state_dict())
    assert queue.embedding.shape == (0, 4)
    anchor, patient = entries(3)
    allowed = allowed_negatives(patient, queue.patient)
    assert info_nce(anchor, anchor, queue.embedding, allowed=allowed).equal(torch.zeros(3))
    assert hardest(similarities(anchor, queue.embedding), 2, allowed).shape == (3, 0)


def test_a_moved_queue_takes_and_loads_entries_from_elsewhere():
    """Where they lie is asked of a device without storage; any machine has it."""
    queue = NegativeQueue(6, 4)
    assert queue.to("meta") is queue
    queue.add(*entries(2))
    assert {queue.embedding.device.type, queue.patient.device.type} == {"meta"}
    queue.load_state_dict(filled(6, entries(3)).state_dict())
    assert queue.embedding.shape == (3, 4)
    assert {queue.embedding.device.type, queue.patient.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("embedding", "patient", "told"),
    [
        ((2, 5), (2,), r"\(B, 4\) embeddings and \(B,\) patients, got \(2, 5\) and \(2,\)"),
        ((2, 4), (3,), r"got \(2, 4\) and \(3,\)"),
        ((2, 4), (2, 1), r"got \(2, 4\) and \(2, 1\)"),
    ],
)
def test_entries_of_another_shape_are_refused_and_nothing_is_added(embedding, patient, told):
    queue = filled(6, entries(2))
    with pytest.raises(ValueError, match=told):
        queue.add(torch.zeros(embedding), torch.zeros(patient, dtype=torch.int64))
    assert len(queue.embedding) == len(queue.patient) == 2


def test_a_checkpoint_of_another_queue_is_refused_and_nothing_is_lost():
    queue = filled(6, entries(2))
    with pytest.raises(ValueError, match="wanted at most 6 entries, got 7"):
        queue.load_state_dict(filled(7, entries(7)).state_dict())
    wider = NegativeQueue(6, 5)
    wider.add(*entries(3, q=5))
    with pytest.raises(ValueError, match=r"wanted \(B, 4\) embeddings .* got \(3, 5\)"):
        queue.load_state_dict(wider.state_dict())
    assert queue.embedding.equal(entries(2)[0])


@pytest.mark.parametrize(("size", "length"), [(0, 4), (6, 0)])
def test_an_impossible_queue_is_refused(size, length):
    with pytest.raises(ValueError, match=f"at least 1, got {size} and {length}"):
        NegativeQueue(size, length)


def test_d4_no_negative_is_of_the_anchors_patient():
    anchor, negative = torch.tensor([3, 1, 3, 8]), torch.tensor([1, 1, 3, 5, 2**40, 3])
    found = allowed_negatives(anchor, negative)
    assert found.shape == (4, 6)
    for i, a in enumerate(anchor.tolist()):
        for k, b in enumerate(negative.tolist()):
            assert bool(found[i, k]) == (a != b)


def test_d4_the_degraded_copy_of_the_own_nodule_changes_nothing():
    """Neither the loss nor which negatives are hardest, however near the copy is."""
    anchor, patient = entries(1)[0], torch.tensor([3])
    others = entries(8, seed=1)[0], torch.arange(10, 18)
    losses = []
    for queue in (filled(20, others), filled(20, (anchor, patient), others)):
        allowed = allowed_negatives(patient, queue.patient)
        mined = hardest(similarities(anchor, queue.embedding), 3, allowed)
        assert int(mined.sum()) == 3
        losses.append(info_nce(anchor, anchor, queue.embedding, allowed=mined))
    assert_close(losses[0], losses[1])
    assert float(info_nce(anchor, anchor, queue.embedding)) > 0.5 + float(losses[1])


def test_d6_three_identical_sets_make_three_equal_terms():
    """Low-quality lesions and both kinds of healthy tissue as negatives, whatever their order."""
    embedding, patient = entries(12, patients=4)
    anchor, own = entries(5, seed=1, patients=4)
    positive = entries(5, seed=2)[0]
    terms = []
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        queue = filled(12, entries(3, seed=7), (embedding[order], patient[order]))
        allowed = allowed_negatives(own, queue.patient)
        mined = hardest(similarities(anchor, queue.embedding), 4, allowed)
        terms.append(info_nce(anchor, positive, queue.embedding, allowed=mined))
    assert_close(terms[0], terms[1])
    assert_close(terms[0], terms[2])
    assert float(terms[0].min()) > 0
