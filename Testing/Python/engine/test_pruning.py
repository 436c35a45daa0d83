"""Pruning: what a clinician removes is gone, everything else stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle import CONCEPTS_FILE, load_bundle, sha256
from contrastdiagnosis.concept_fit import fit_decision, fit_presence
from contrastdiagnosis.concept_reading import read_concepts
from contrastdiagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.pruning import Pruning, prune_bundle, pruning_text, read_pruning, refit

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
        (lambda d: d.update(head_sha256=None), "was made for another bundle: .* got None"),
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


def test_the_original_stays_as_it_was(bundle, bundle_folder, pruned):
    again = load_bundle(bundle_folder)
    assert bundle.head.kept.all() and again.head.kept.all()
    assert bundle.info == again.info and "concepts_note" not in bundle.info.metrics
    assert all(p.kept for p in bundle.concepts.atlas)
    for name, weight in bundle.head.state_dict().items():
        assert torch.equal(weight, again.head.state_dict()[name])


def test_presence_and_decision_are_fitted_anew_to_the_cases(bundle, pruned):
    head, cases = pruned[1].head, bundle.library.cases
    scores = bundle.concepts.scores.astype(np.float64)
    malignancy = np.array([c.ratings["malignancy"] for c in cases])
    rated = malignancy != 3
    assert 0 < rated.sum() < len(cases)
    kept = head.kept.numpy()
    share = np.stack([[c.share([x.ratings[c.rating]]) for c in CONCEPTS] for x in cases])
    decision = fit_decision(
        scores[rated], malignancy[rated] > 3, share[rated], kept, head.absent.numpy()
    )
    presence = fit_presence(scores, share, kept)
    np.testing.assert_allclose(head.decision_weight, decision.weight, atol=1e-5)
    np.testing.assert_allclose(head.decision_bias, decision.bias, atol=1e-5)
    np.testing.assert_allclose(head.presence_weight, presence.weight, atol=1e-5)
    np.testing.assert_allclose(head.presence_bias, presence.bias, atol=1e-5)
    assert not head.decision_weight[kept == 0].any()
    assert not head.presence_weight[kept == 0].any()
    assert head.decision_weight[kept > 0].any()


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
    other = read_concepts(
        pruned.head, info.concepts, info.concept_calibration, similarity, diagnosis.encoding.grid
    )
    reading = diagnosis.concepts
    assert reading.logit == other.logit
    np.testing.assert_array_equal(reading.presence, other.presence)
    np.testing.assert_array_equal(reading.scores, other.scores)
    np.testing.assert_array_equal(reading.maps, other.maps)
    assert not gone[np.arange(len(CONCEPTS)), other.fired].any()


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
