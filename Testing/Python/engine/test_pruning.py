"""Pruning: what a clinician removes is gone, everything else stays."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import (
    CONCEPTS_FILE,
    default_bundle_folder,
    load_bundle,
    save_bundle,
    sha256,
)
from contrastdiagnosis.bundle.pruning import prune_bundle, read_pruning, refit
from contrastdiagnosis.concepts.concept_prediction import predict_concepts
from contrastdiagnosis.concepts.fit import fit_decision, fit_linear_parts, fit_presence
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text

from engine.asking import one_thread  # noqa: F401
from engine.conftest import CONCEPTS, NODULE, PROTOTYPES, write_tiny_bundle

REMOVED = (("spiculated", 1), ("calcified", 0), ("calcified", 3))
NOTES = {("spiculated", 1): "shows a vessel — „no“", ("ill-defined margin", 2): "good"}


@pytest.fixture(scope="module")
def head_sha256(bundle_folder):
    return sha256(bundle_folder / CONCEPTS_FILE)


@pytest.fixture
def file(tmp_path, head_sha256):
    (tmp_path / "p.json").write_text(pruning_text(Pruning(head_sha256, REMOVED, NOTES)))
    return tmp_path / "p.json"


@pytest.fixture(scope="module")
def pruned(bundle, bundle_folder, tmp_path_factory):
    """The bundle as it was returned, and as it was read."""
    place = tmp_path_factory.mktemp("pruned")
    file = place / "p.json"
    file.write_text(pruning_text(Pruning(sha256(bundle_folder / CONCEPTS_FILE), REMOVED, NOTES)))
    made = prune_bundle(bundle, file, place / "out")
    return made, load_bundle(place / "out")


def test_a_pruning_comes_back_as_it_was_written(file, head_sha256, bundle):
    again = read_pruning(file, head_sha256, bundle.concepts.atlas)
    assert again == Pruning(head_sha256, REMOVED, NOTES)
    rows = json.loads(file.read_text())["prototypes"]
    assert len(rows) == 4
    assert rows[3] == {
        "concept": "ill-defined margin", "prototype": 2, "remove": False, "note": "good",
    }  # fmt: skip


def edited(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("head_sha256"), "is no pruning file .*head_sha256"),
        (lambda d: d.pop("prototypes"), "is no pruning file .*prototypes"),
        (lambda d: d.update(prototypes=7), "is no pruning file"),
        (lambda d: d.update(prototypes=["x"]), "is no pruning file"),
        (lambda d: d["prototypes"][0].pop("remove"), "is no pruning file"),
        (lambda d: d["prototypes"][0].update(prototype="one"), "is no pruning file"),
        (lambda d: d["prototypes"][0].update(prototype=float("inf")), "is no pruning file"),
        (lambda d: d.update(head_sha256="0" * 64), "another bundle: wanted the concept head"),
        (lambda d: d.update(head_sha256=None), "head_sha256 must be a text, got .None"),
        (
            lambda d: d["prototypes"][0].update(prototype=4),
            r"names the prototype \('spiculated', 4\), which the bundle has not",
        ),
        (
            lambda d: d["prototypes"][3].update(concept="spiky"),
            r"names the prototype \('spiky', 2\), which the bundle has not",
        ),
    ],
)
def test_a_pruning_file_that_does_not_fit_is_refused(file, head_sha256, bundle, change, message):
    edited(file, change)
    with pytest.raises(InputError, match=message):
        read_pruning(file, head_sha256, bundle.concepts.atlas)


WRONG_ROWS = {
    "a text for false": {"remove": "false"},
    "a number for false": {"remove": 0},
    "nothing for false": {"remove": None},
    "part of a number": {"prototype": 1.9},
    "a number in a text": {"prototype": "1"},
    "true for a number": {"prototype": True},
    "an endless number": {"prototype": float("inf")},
    "a list for a name": {"concept": ["calcified"]},
    "a number for a note": {"note": 7},
}
"""What a row must not say; the panel refuses the same."""


@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_a_row_says_exactly_what_it_means(file, head_sha256, bundle, wrong):
    row = {"concept": "calcified", "prototype": 1, "remove": False, "note": ""} | WRONG_ROWS[wrong]
    file.write_text(json.dumps({"head_sha256": head_sha256, "prototypes": [row]}))
    (name,) = WRONG_ROWS[wrong]
    with pytest.raises(InputError, match=f"is no pruning file .*{name} must be"):
        read_pruning(file, head_sha256, bundle.concepts.atlas)


def test_two_rows_on_one_prototype_are_refused(file, head_sha256, bundle):
    row = {"concept": "calcified", "prototype": 1, "note": ""}
    rows = [row | {"remove": True}, row | {"remove": False}]
    file.write_text(json.dumps({"head_sha256": head_sha256, "prototypes": rows}))
    with pytest.raises(InputError, match="stands there twice"):
        read_pruning(file, head_sha256, bundle.concepts.atlas)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 60_000])
def test_a_damaged_pruning_file_is_refused(file, head_sha256, bundle, content):
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is no pruning file \(JSON with head_sha256"):
        read_pruning(file, head_sha256, bundle.concepts.atlas)


def test_a_missing_pruning_file_is_refused(tmp_path, head_sha256, bundle):
    with pytest.raises(InputError, match="is no pruning file"):
        read_pruning(tmp_path / "nowhere.json", head_sha256, bundle.concepts.atlas)


def test_a_concept_must_keep_a_prototype(file, head_sha256, bundle):
    every = tuple(("calcified", m) for m in range(PROTOTYPES))
    file.write_text(pruning_text(Pruning(head_sha256, every, {})))
    with pytest.raises(InputError, match="removes all prototypes of calcified; keep at least one"):
        read_pruning(file, head_sha256, bundle.concepts.atlas)
    file.write_text(pruning_text(Pruning(head_sha256, every[:2], {})))
    atlas = [replace(p, kept=(p.concept, p.number) not in every[2:]) for p in bundle.concepts.atlas]
    with pytest.raises(InputError, match="removes all prototypes of calcified"):
        read_pruning(file, head_sha256, atlas)
    read_pruning(file, head_sha256, bundle.concepts.atlas)


def test_the_removed_prototypes_are_marked_and_the_rest_stays(bundle, pruned):
    for new in pruned:
        part = new.concepts
        removed = {(p.concept, p.number) for p in part.atlas if not p.kept}
        assert removed == set(REMOVED)
        for old, now in zip(bundle.concepts.atlas, part.atlas, strict=True):
            assert replace(now, kept=old.kept) == old
        for k, m in np.ndindex(len(CONCEPTS), PROTOTYPES):
            assert part.head.kept[k, m] == ((CONCEPTS[k].name, m) not in REMOVED)
        for name in ("prototype", "mean", "scale", "absent", "concept.weight", "concept_bias"):
            assert torch.equal(part.head.state_dict()[name], bundle.head.state_dict()[name])
        np.testing.assert_array_equal(part.scores, bundle.concepts.scores)
        assert new.library.cases == bundle.library.cases
        np.testing.assert_array_equal(new.library.embedding, bundle.library.embedding)
        np.testing.assert_array_equal(new.indicator.matched, bundle.indicator.matched)
        for name, weight in bundle.network.state_dict().items():
            assert torch.equal(weight, new.network.state_dict()[name])


def test_what_is_returned_is_what_was_written(pruned):
    made, read = pruned
    assert made.info == read.info
    assert made.concepts.atlas == read.concepts.atlas
    assert made.folder == read.folder
    for name, weight in made.head.state_dict().items():
        assert torch.equal(weight, read.head.state_dict()[name])


def test_the_bundle_says_that_it_was_pruned(bundle, pruned):
    info = pruned[1].info
    assert info.version == "1-pruned"
    note = info.metrics.pop("concepts_note")
    assert note == "3 prototypes were removed by p.json; measured before that"
    assert info.metrics == bundle.info.metrics
    info.metrics["concepts_note"] = note
    assert replace(info, version="1", metrics=bundle.info.metrics) == bundle.info


def test_what_a_bundle_said_of_its_concepts_stays(bundle_folder, tmp_path):
    bundle = load_bundle(bundle_folder)
    bundle = replace(bundle, info=replace(bundle.info, metrics={"concepts_note": "Measured once."}))
    file = tmp_path / "p.json"
    digest = sha256(bundle_folder / CONCEPTS_FILE)
    prototype = bundle.concepts.atlas[0]
    file.write_text(pruning_text(Pruning(digest, ((prototype.concept, prototype.number),), {})))
    prune_bundle(bundle, file, tmp_path / "out")
    note = load_bundle(tmp_path / "out").info.metrics["concepts_note"]
    assert note == "Measured once. 1 prototype was removed by p.json; measured before that"


def test_the_original_stays_as_it_was(bundle, bundle_folder, pruned):
    again = load_bundle(bundle_folder)
    assert bundle.head.kept.all() and again.head.kept.all()
    assert bundle.info == again.info and "concepts_note" not in bundle.info.metrics
    assert all(p.kept for p in bundle.concepts.atlas)
    for name, weight in bundle.head.state_dict().items():
        assert torch.equal(weight, again.head.state_dict()[name])


def shares_of(bundle):
    """(N, K) of the mean ratings, as of a bundle that holds no shares."""
    cases = bundle.library.cases
    return np.stack([[c.share([x.ratings[c.rating]]) for c in CONCEPTS] for x in cases])


def test_what_is_left_is_fitted_anew_to_the_cases(bundle):
    """A head that is the fit with all prototypes becomes the fit without those that are removed."""
    head, random = copy.deepcopy(bundle.head), np.random.default_rng(0)
    cases = [
        replace(c, ratings={name: float(random.integers(1, 7)) for name in c.ratings})
        for c in bundle.library.cases
    ]
    malignancy = np.array([c.ratings["malignancy"] for c in cases])
    bundle = replace(bundle, library=replace(bundle.library, cases=cases))
    share = shares_of(bundle)
    rated = malignancy != 3
    assert 0 < rated.sum() < len(cases)
    scores = random.normal(size=bundle.concepts.scores.shape) + share[..., None]
    fit_linear_parts(head, scores, share, malignancy)
    atlas = tuple(
        replace(p, kept=(p.concept, p.number) not in REMOVED) for p in bundle.concepts.atlas
    )
    head = refit(bundle, replace(bundle.concepts, head=head, atlas=atlas, scores=scores)).head
    kept = head.kept.numpy()
    decision = fit_decision(
        scores[rated], malignancy[rated] > 3, share[rated], kept, head.absent.numpy()
    )
    presence = fit_presence(scores, share, kept)
    np.testing.assert_allclose(head.decision_weight, decision.weight, atol=1e-3)
    np.testing.assert_allclose(head.decision_bias, decision.bias, atol=1e-3)
    np.testing.assert_allclose(head.presence_weight, presence.weight, atol=1e-3)
    np.testing.assert_allclose(head.presence_bias, presence.bias, atol=1e-3)
    assert not head.decision_weight[kept == 0].any()
    assert not head.presence_weight[kept == 0].any()
    assert head.decision_weight[kept > 0].any()


def read_all(bundle, scores):
    """Presences and logits that a bundle's head gives scores (N, K, M)."""
    head, info = bundle.head, bundle.info
    scores = torch.from_numpy(scores).double()
    presence = torch.sigmoid(head.presence(scores)).numpy()
    told = [c.calibration.probability(presence[:, k]) for k, c in enumerate(info.concepts)]
    return np.stack(told, axis=1), head.decide(scores).numpy()


@pytest.mark.parametrize("shipped", [False, True])
def test_pruning_nothing_changes_nothing(bundle_folder, tmp_path, shipped):
    folder = default_bundle_folder() if shipped else bundle_folder
    whole = load_bundle(folder)
    file = tmp_path / "nothing.json"
    notes = {(whole.concepts.atlas[0].concept, 0): "good"}
    file.write_text(pruning_text(Pruning(sha256(folder / CONCEPTS_FILE), (), notes)))
    made = prune_bundle(whole, file, tmp_path / "out")
    for old, new in zip(
        read_all(whole, whole.concepts.scores), read_all(made, whole.concepts.scores), strict=True
    ):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6)


def test_pruning_a_prototype_without_weight_changes_next_to_nothing(tmp_path):
    """On the bundle that is shipped: who removes what says nothing hears the same as before."""
    folder = default_bundle_folder()
    whole = load_bundle(folder)
    head = whole.head
    weight = head.presence_weight.abs() + head.decision_weight.abs()
    k, m = divmod(int(torch.where(head.kept > 0, weight, torch.inf).argmin()), weight.shape[1])
    removed = ((whole.info.concepts[k].name, m),)
    file = tmp_path / "one.json"
    file.write_text(pruning_text(Pruning(sha256(folder / CONCEPTS_FILE), removed, {})))
    made = prune_bundle(whole, file, tmp_path / "out")
    presence, logit = read_all(whole, whole.concepts.scores)
    presence_then, logit_then = read_all(made, whole.concepts.scores)
    assert np.abs(presence_then - presence).max() < 0.02
    assert np.abs(logit_then - logit).max() < 0.1


def test_readers_shares_are_fitted_to_where_the_bundle_holds_them(bundle):
    """Not the mean ratings: a nodule that two of four call spiculated is half spiculated."""
    random = np.random.default_rng(2)
    share = random.uniform(0, 1, bundle.concepts.scores.shape[:2]).astype(np.float32)
    share[0, 0] = np.nan
    removed = replace(bundle.concepts.atlas[0], kept=False)
    part = replace(bundle.concepts, atlas=(removed, *bundle.concepts.atlas[1:]))
    by_means, by_shares = (refit(bundle, replace(part, share=s)).head for s in (None, share))
    assert not torch.allclose(by_means.presence_weight, by_shares.presence_weight)
    same = refit(bundle, replace(part, share=shares_of(bundle).astype(np.float32))).head
    np.testing.assert_allclose(same.presence_weight, by_means.presence_weight, atol=1e-4)


def test_the_shipped_bundle_holds_the_readers_shares():
    share = load_bundle(default_bundle_folder()).concepts.share
    assert ((share > 0) & (share < 1)).any() and np.isfinite(share).all()


def test_readers_shares_come_back_from_a_bundle(bundle, tmp_path):
    share = np.random.default_rng(3).uniform(0, 1, bundle.concepts.scores.shape[:2])
    share = share.astype(np.float32)
    share[3, 1] = np.nan
    part = replace(bundle.concepts, share=share)
    rest = (bundle.network, bundle.library, np.asarray(bundle.indicator.matched))
    save_bundle(tmp_path / "b", bundle.info, *rest, part)
    np.testing.assert_array_equal(load_bundle(tmp_path / "b").concepts.share, share)


def test_ratings_that_are_unknown_are_left_out(bundle):
    """A case without ratings changes no fit."""
    random = np.random.default_rng(1)
    bare = [replace(c, case_id=f"bare {c.case_id}", ratings={}) for c in bundle.library.cases[:5]]
    library = replace(
        bundle.library,
        cases=[*bundle.library.cases, *bare],
        embedding=np.concatenate([bundle.library.embedding, bundle.library.embedding[:5]]),
    )
    scores = random.uniform(-1, 1, (5, len(CONCEPTS), PROTOTYPES)).astype(np.float32)
    part = replace(bundle.concepts, scores=np.concatenate([bundle.concepts.scores, scores]))
    plain = refit(bundle, bundle.concepts)
    more = refit(replace(bundle, library=library), part)
    for name in ("presence_weight", "presence_bias", "decision_weight", "decision_bias"):
        assert torch.equal(getattr(plain.head, name), getattr(more.head, name)), name


def test_removed_prototypes_have_no_effect_on_a_diagnosis(pruned, phantom):
    pruned = pruned[1]
    diagnoser = Diagnoser(pruned, "cpu")
    diagnosis = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)
    similarity = diagnosis.encoding.similarity.copy()
    gone = pruned.head.kept.numpy() == 0
    similarity[gone] = 1.0
    info = pruned.info
    other = predict_concepts(
        pruned.head, info.concepts, info.concept_calibration, similarity, diagnosis.encoding.grid
    )
    prediction = diagnosis.concepts
    assert prediction.logit == other.logit
    np.testing.assert_array_equal(prediction.presence, other.presence)
    np.testing.assert_array_equal(prediction.scores, other.scores)
    np.testing.assert_array_equal(prediction.maps, other.maps)
    assert not gone[np.arange(len(CONCEPTS)), other.shown].any()


def test_a_pruned_bundle_may_be_pruned_again(pruned, tmp_path):
    pruned = pruned[1]
    file = tmp_path / "more.json"
    digest = sha256(pruned.folder / CONCEPTS_FILE)
    file.write_text(pruning_text(Pruning(digest, (("spiculated", 0),), {})))
    twice = prune_bundle(pruned, file, tmp_path / "twice")
    removed = {(p.concept, p.number) for p in twice.concepts.atlas if not p.kept}
    assert removed == {*REMOVED, ("spiculated", 0)}


def test_the_first_bundles_file_is_not_for_the_pruned_one(file, pruned, tmp_path):
    with pytest.raises(InputError, match=r"p.json was made for another bundle"):
        prune_bundle(pruned[1], file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_concepts_cannot_be_pruned(file, tmp_path, bundle):
    plain = load_bundle(write_tiny_bundle(tmp_path / "plain", with_concepts=False))
    with pytest.raises(InputError, match="the bundle tiny has no concepts to prune"):
        prune_bundle(plain, file, tmp_path / "out")
    with pytest.raises(InputError, match="the bundle tiny has no concepts to prune"):
        prune_bundle(replace(bundle, folder=None), file, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_refused_before_any_work(bundle, file, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot write"):
        prune_bundle(bundle, file, tmp_path / "taken" / "out")


def test_a_bundle_may_be_pruned_in_place(bundle_folder, file, tmp_path):
    shutil.copytree(bundle_folder, tmp_path / "own")
    own = load_bundle(tmp_path / "own")
    prune_bundle(own, file, tmp_path / "own")
    assert not load_bundle(tmp_path / "own").head.kept.all()
