"""Bundle: what is saved comes back, what is damaged is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import (
    ATLAS_FILE,
    CARD_FILE,
    CASES_FILE,
    CHECKED_FILES,
    CONCEPT_FILES,
    CONCEPTS_FILE,
    EMBEDDINGS_FILE,
    INFO_FILE,
    MODEL_FILE,
    default_bundle_folder,
    load_bundle,
    save_bundle,
)
from contrastdiagnosis.cases.vote import Calibration, VoteRule
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.mask_statistics import STATISTICS
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig
from contrastdiagnosis.trust.poor_image import PoorVerdicts
from safetensors.torch import load_file, save_file

from engine.conftest import CONCEPTS, PROTOTYPES, TINY, write_tiny_bundle


def edit(folder, change):
    """Changes the `bundle` part of bundle.json in place."""
    document = json.loads((folder / INFO_FILE).read_text())
    change(document)
    (folder / INFO_FILE).write_text(json.dumps(document))


def test_a_bundle_comes_back_as_it_was_saved(tmp_path, bundle, bundle_folder):
    again = tmp_path / "again"
    save_bundle(
        again,
        bundle.info,
        bundle.network,
        bundle.library,
        bundle.indicator.matched,
        bundle.concepts,
    )
    other = load_bundle(again)
    assert other.info == bundle.info
    assert other.library.cases == bundle.library.cases
    np.testing.assert_array_equal(other.library.embedding, bundle.library.embedding)
    np.testing.assert_array_equal(other.indicator.matched, bundle.indicator.matched)
    for name, weight in bundle.network.state_dict().items():
        assert torch.equal(weight, other.network.state_dict()[name])
    assert (again / MODEL_FILE).read_bytes() == (bundle_folder / MODEL_FILE).read_bytes()


def test_the_network_is_ready_to_be_used(bundle):
    assert not bundle.network.training
    assert not any(p.requires_grad for p in bundle.network.parameters())
    assert all(p.dtype == torch.float32 for p in bundle.network.parameters())


def test_weights_are_stored_in_half_precision_and_nothing_is_pickled(bundle_folder):
    weights = load_file(bundle_folder / MODEL_FILE)
    kernels = [w for w in weights.values() if w.is_floating_point() and w.ndim > 1]
    assert {w.dtype for w in kernels} == {torch.float16}
    suffixes = {file.suffix for file in bundle_folder.iterdir()}
    assert suffixes == {".json", ".safetensors", ".csv", ".md"}


@pytest.mark.parametrize("name", [MODEL_FILE, CASES_FILE, EMBEDDINGS_FILE, CARD_FILE])
def test_a_changed_file_is_refused(own_bundle_folder, name):
    file = own_bundle_folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{name} is damaged or was changed: wanted SHA-256"):
        load_bundle(own_bundle_folder)


@pytest.mark.parametrize("name", [MODEL_FILE, CASES_FILE, EMBEDDINGS_FILE, INFO_FILE])
def test_a_truncated_file_is_refused(own_bundle_folder, name):
    file = own_bundle_folder / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        load_bundle(own_bundle_folder)


@pytest.mark.parametrize("name", [MODEL_FILE, CASES_FILE, INFO_FILE])
def test_a_missing_file_is_named(own_bundle_folder, name):
    (own_bundle_folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_bundle(own_bundle_folder)


def test_a_newer_schema_asks_for_an_update(own_bundle_folder):
    edit(own_bundle_folder, lambda d: d.update(schema=99))
    with pytest.raises(InputError, match="schema 99, this version reads schema 4; update"):
        load_bundle(own_bundle_folder)


def test_no_schema_is_refused(own_bundle_folder):
    (own_bundle_folder / INFO_FILE).write_text("[]")
    with pytest.raises(InputError, match="has schema None"):
        load_bundle(own_bundle_folder)


GATE = {"weights": [1] * 5, "intercept": 0, "threshold": 0, "typical": [0] * 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b["geometry"].update(spacing_mm=[1, 1, 1]),
            "needs patches .* this version cuts",
        ),
        (lambda b: b["network"].update(channels=[4, 6, 8, 12]), "does not fit the network"),
        (lambda b: b["network"].update(embedding=7), "does not fit the network"),
        (lambda b: b["vote"].update(k=4), "k must be odd"),
        (lambda b: b.pop("vote"), "does not describe a bundle"),
        (lambda b: b.update(surprise=1), "does not describe a bundle.*surprise"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(own_bundle_folder, change, message):
    edit(own_bundle_folder, lambda d: change(d["bundle"]))
    with pytest.raises(InputError, match=message) as refused:
        load_bundle(own_bundle_folder)
    assert str(own_bundle_folder) in str(refused.value)


def test_missing_checksums_are_refused(own_bundle_folder):
    edit(own_bundle_folder, lambda d: d["sha256"].pop(MODEL_FILE))
    with pytest.raises(InputError, match=f"no checksum of {MODEL_FILE}"):
        load_bundle(own_bundle_folder)
    edit(own_bundle_folder, lambda d: d.pop("sha256"))
    with pytest.raises(InputError, match="lacks sha256"):
        load_bundle(own_bundle_folder)


def reseal(folder, name):
    import hashlib

    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder, lambda d: d["sha256"].update({name: digest}))


def test_embeddings_of_another_length_are_refused(own_bundle_folder):
    tensors = load_file(own_bundle_folder / EMBEDDINGS_FILE)
    save_file(tensors | {"embedding": torch.zeros(40, 9)}, own_bundle_folder / EMBEDDINGS_FILE)
    reseal(own_bundle_folder, EMBEDDINGS_FILE)
    with pytest.raises(InputError, match="embeddings of length 5, the cases have 9"):
        load_bundle(own_bundle_folder)


def test_absent_embeddings_are_named(own_bundle_folder):
    save_file({"embedding": torch.zeros(40, 5)}, own_bundle_folder / EMBEDDINGS_FILE)
    reseal(own_bundle_folder, EMBEDDINGS_FILE)
    with pytest.raises(InputError, match="lacks matched_distance; it holds embedding"):
        load_bundle(own_bundle_folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"wanted a bundle folder with bundle\.json"):
        load_bundle(tmp_path)


def test_a_failed_save_leaves_the_old_bundle_whole(own_bundle_folder, bundle):
    before = {f.name: f.read_bytes() for f in own_bundle_folder.iterdir()}
    wrong = NoduleNet(NoduleNetConfig(channels=TINY.channels, embedding=6))
    with pytest.raises(InputError, match="embeddings of length 6"):
        save_bundle(
            own_bundle_folder,
            bundle.info,
            wrong,
            bundle.library,
            bundle.indicator.matched,
            bundle.concepts,
        )
    assert {f.name: f.read_bytes() for f in own_bundle_folder.iterdir()} == before
    assert [f.name for f in own_bundle_folder.parent.iterdir()] == [own_bundle_folder.name]


def test_saving_again_keeps_the_pixels(own_bundle_folder):
    (own_bundle_folder / "pixels").mkdir()
    (own_bundle_folder / "pixels" / "P0_0.safetensors").write_bytes(b"kept")
    write_tiny_bundle(own_bundle_folder)
    assert (own_bundle_folder / "pixels" / "P0_0.safetensors").read_bytes() == b"kept"


def test_the_model_card_tells_what_matters(bundle_folder):
    card = (bundle_folder / CARD_FILE).read_text()
    for part in ("Research use only", "40 nodules of 20 patients", "| AUC | 0.500 |", "Limits"):
        assert part in card


def test_the_default_bundle_is_sound_small_and_without_pixels():
    folder = default_bundle_folder()
    bundle = load_bundle(folder)
    assert sum((folder / name).stat().st_size for name in (*CHECKED_FILES, INFO_FILE)) <= 8e6
    assert len(bundle.library) > 700
    assert bundle.info.metrics["exclude3"]["auc"] > bundle.info.metrics["exclude3"]["auc_diameter"]
    patients = {case.patient_id for case in bundle.library.cases}
    assert all(patient.startswith("LIDC-IDRI-") for patient in patients)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity_quantile": 5}, "similarity_quantile must lie between 0 and 1, got 5"),
        ({"split_vote": [0.4]}, "does not describe a bundle"),
        ({"split_vote": [0.6, 0.7]}, r"split_vote\[0\] must lie between 0 and 0.5, got 0.6"),
        ({"limits": {"max_noise_hu": -1}}, r"max_noise_hu must lie between 0 and 1e\+06, got -1"),
        ({"limits": {"max_slice_mm": "thin"}}, "max_slice_mm must be a number, got 'thin'"),
        ({"limits": {"min_lung_share": "much"}}, "min_lung_share must be a number, got 'much'"),
        ({"limits": {"min_volume_mm3": None}}, "min_volume_mm3 must be a number, got None"),
        ({"limits": {"max_weight_kg": 3}}, "unexpected keyword argument 'max_weight_kg'"),
        (
            {"limits": {"gate": {**GATE, "weights": [1]}}},
            "wanted 5 weights",
        ),
        (
            {"limits": {"gate": {**GATE, "typical": [1]}}},
            "wanted 5 typical",
        ),
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "calibration.slope must lie"),
        ({"vote": {"k": 5.0, "temperature": 1.0}}, "vote.k must be a whole number, got 5.0"),
        ({"vote": {"k": 4, "temperature": 1.0}}, "k must be odd and positive, got 4"),
        ({"vote": {"k": 5}}, "temperature must be positive, got None"),
        (
            {"vote": {"k": 5, "temperature": 1.0, "form": "most"}},
            "the vote must be distance-weighted or majority, got 'most'",
        ),
        (
            {"similarity_interval": "gamma"},
            "similarity interval must be quantile or normal, got 'gamma'",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(own_bundle_folder, change, message):
    file = own_bundle_folder / INFO_FILE
    document = json.loads(file.read_text())
    document["bundle"] |= change
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load_bundle(own_bundle_folder)


def test_checksums_must_be_a_table(own_bundle_folder):
    file = own_bundle_folder / INFO_FILE
    document = json.loads(file.read_text())
    document["sha256"] = []
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="lacks sha256, or it is no table"):
        load_bundle(own_bundle_folder)


@pytest.fixture
def copied(bundle_folder, tmp_path):
    """A copy with concepts that a test may damage."""
    return shutil.copytree(bundle_folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("plain") / "tiny", with_concepts=False)


def test_concepts_come_back_as_they_were_saved(tmp_path, bundle):
    save_bundle(
        tmp_path / "again", bundle.info, bundle.network, bundle.library, bundle.indicator.matched,
        bundle.concepts,
    )  # fmt: skip
    other = load_bundle(tmp_path / "again")
    assert other.info.concepts == CONCEPTS
    assert other.info.concept_head == bundle.head.config
    assert other.info.concept_calibration == Calibration(0.9, 0.1)
    assert other.concepts.atlas == bundle.concepts.atlas
    np.testing.assert_array_equal(other.concepts.scores, bundle.concepts.scores)
    assert set(other.head.state_dict()) == set(bundle.head.state_dict())
    for name, weight in bundle.head.state_dict().items():
        assert torch.equal(weight, other.head.state_dict()[name])
    assert not other.head.training
    assert not any(p.requires_grad for p in other.head.parameters())


def test_statistics_of_the_cases_come_back_where_there_are_some(tmp_path, bundle):
    assert bundle.library.statistics is None
    drawn = np.random.default_rng(0).normal(size=(len(bundle.library), STATISTICS))
    for name, values in (("good", drawn), ("short", drawn[:, 1:])):
        library = replace(bundle.library, statistics=values.astype(np.float32))
        parts = (bundle.info, bundle.network, library, bundle.indicator.matched)
        if name == "short":
            with pytest.raises(InputError, match="wanted 19 statistics of each case, got shape"):
                save_bundle(tmp_path / name, *parts)
            continue
        save_bundle(tmp_path / name, *parts)
        again = load_bundle(tmp_path / name).library
        np.testing.assert_array_equal(again.statistics, library.statistics)
        ids = [again.cases[n].case_id for n in (5, 0)]
        np.testing.assert_array_equal(again.statistics_of(ids), again.statistics[[5, 0]])
    for odd in (drawn[1:], np.full_like(drawn, np.nan)):
        with pytest.raises(InputError, match="wanted finite statistics of each of 40 cases"):
            replace(bundle.library, statistics=odd.astype(np.float32))


def test_a_bundle_without_concepts_comes_back_without(tmp_path, plain_folder):
    bundle = load_bundle(plain_folder)
    assert bundle.concepts is None and bundle.head is None
    assert bundle.info.concepts == () and bundle.info.concept_head is None
    assert not any((plain_folder / name).exists() for name in CONCEPT_FILES)
    save_bundle(
        tmp_path / "again", bundle.info, bundle.network, bundle.library, bundle.indicator.matched
    )
    assert load_bundle(tmp_path / "again").info == bundle.info


def test_a_bundle_of_the_first_schema_is_still_read(plain_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "old")

    def older(document):
        document["schema"] = 1
        for name in ("concept_head", "concepts", "concept_calibration"):
            document["bundle"].pop(name)

    edit(folder, older)
    old, new = load_bundle(folder), load_bundle(plain_folder)
    assert old.concepts is None
    assert old.info == type(old.info)(
        **{n: v for n, v in vars(new.info).items() if n != "concept_calibration"}
    )


def test_what_verdicts_in_poor_images_are_worth_is_read_as_written_and_of_lidc_12_too(
    plain_folder, tmp_path
):
    """lidc 12 told two shares for all probabilities: nothing is said by them, the borders hold."""
    folder = shutil.copytree(plain_folder, tmp_path / "told")
    noise = {"kind": "noise", "low": 0.1, "high": 0.9, "missed": 0.03}
    of_lidc_12 = noise | {"wrong_between": 0.3, "wrong_beyond": 0.05}
    banded = noise | {"kind": "blur", "bands": [[0.5, 0.9, 0.4], [0.9, 1.0, 0.03]]}
    verdicts = [of_lidc_12, banded]
    edit(folder, lambda d: d["bundle"]["limits"].update(poor_verdicts=verdicts))
    old, new = load_bundle(folder).info.limits.poor_verdicts
    assert old == PoorVerdicts("noise", 0.1, 0.9, missed=0.03) and old.wrong_text(0.6) == ""
    assert "40% of the verdicts at 50 to 90%" in new.wrong_text(0.6)
    bundle = load_bundle(folder)
    save_bundle(
        tmp_path / "again", bundle.info, bundle.network, bundle.library, bundle.indicator.matched
    )
    assert load_bundle(tmp_path / "again").info.limits.poor_verdicts == (old, new)
    edit(folder, lambda d: d["bundle"]["limits"].update(poor_verdicts=[noise | {"bands": [[1]]}]))
    with pytest.raises(InputError, match="does not describe a bundle"):
        load_bundle(folder)


def test_a_bundle_without_a_form_of_vote_and_interval_has_what_there_was(plain_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "old")

    def older(document):
        document["schema"] = 3
        document["bundle"].pop("similarity_interval")
        document["bundle"]["vote"].pop("form")

    edit(folder, older)
    old = load_bundle(folder)
    assert old.info == load_bundle(plain_folder).info
    assert old.info.vote == VoteRule(5, 0.5, "distance-weighted")
    assert old.indicator.threshold == np.quantile(old.indicator.matched, 0.95)


def test_vote_and_interval_come_back_as_they_were_saved(bundle, tmp_path):
    info = replace(
        bundle.info, vote=replace(bundle.info.vote, form="majority"), similarity_interval="normal"
    )
    save_bundle(
        tmp_path / "b", info, bundle.network, bundle.library, bundle.indicator.matched,
        bundle.concepts,
    )  # fmt: skip
    again = load_bundle(tmp_path / "b")
    assert again.info.vote == VoteRule(5, form="majority")
    matched = bundle.indicator.matched
    assert again.indicator.threshold == pytest.approx(matched.mean() + 1.96 * matched.std(), 1e-3)
    card = (tmp_path / "b" / CARD_FILE).read_text()
    assert "Majority vote of the 5 nearest cases: each counts alike." in card
    assert "beyond mean + 1.96 standard deviations of" in card
    assert "weighted" not in card


def test_what_the_first_schema_had_of_concepts_is_not_looked_for(copied):
    """Files of concepts beside a bundle that names none."""

    def older(document):
        document["schema"] = 1
        for name in ("concept_head", "concepts", "concept_calibration"):
            document["bundle"].pop(name)

    edit(copied, older)
    (copied / ATLAS_FILE).write_text("anything")
    assert load_bundle(copied).concepts is None


@pytest.mark.parametrize("with_concepts", [True, False])
def test_an_older_bundle_is_replaced_with_all_its_concept_files(
    copied, plain_folder, bundle, with_concepts
):
    assert all((copied / name).is_file() for name in CONCEPT_FILES)
    part = bundle.concepts if with_concepts else None
    save_bundle(copied, bundle.info, bundle.network, bundle.library, bundle.indicator.matched, part)
    assert [(copied / name).exists() for name in CONCEPT_FILES] == [with_concepts] * 2
    again = load_bundle(copied)
    assert (again.concepts is not None) == with_concepts
    names = {file.name for file in copied.iterdir()}
    assert names == {*CHECKED_FILES, INFO_FILE, *(CONCEPT_FILES if with_concepts else ())}


@pytest.mark.parametrize("name", CONCEPT_FILES)
def test_damaged_or_missing_concepts_are_refused(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name} is damaged or was changed: wanted SHA-256"):
        load_bundle(copied)
    (copied / name).write_bytes(content[:50])
    with pytest.raises(InputError, match=f"{name} is damaged or was changed"):
        load_bundle(copied)
    (copied / name).unlink()
    with pytest.raises(InputError, match=f"copied lacks {name}"):
        load_bundle(copied)
    edit(copied, lambda d: d["sha256"].pop(name))
    with pytest.raises(InputError, match=f"has no checksum of {name}"):
        load_bundle(copied)


def resealed(folder, name, change):
    """Changes tensors of a file, and its checksum with them."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    reseal(folder, name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            EMBEDDINGS_FILE,
            lambda t: t.update(concept_score=torch.zeros(40, 3, 5)),
            r"wanted finite concept scores \(40, 3, 4\), got \(40, 3, 5\)",
        ),
        (
            EMBEDDINGS_FILE,
            lambda t: t.update(concept_score=torch.zeros(39, 3, 4)),
            r"wanted finite concept scores \(40, 3, 4\), got \(39, 3, 4\)",
        ),
        (
            EMBEDDINGS_FILE,
            lambda t: t["concept_score"].__setitem__((7, 1, 2), float("nan")),
            "wanted finite concept scores",
        ),
        (EMBEDDINGS_FILE, lambda t: t.pop("concept_score"), "lacks concept_score; it holds emb"),
        (CONCEPTS_FILE, lambda t: t.pop("kept"), "(?s)does not fit the head .*kept"),
        (CONCEPTS_FILE, lambda t: t.update(more=torch.zeros(1)), "(?s)does not fit .*more"),
        (CONCEPTS_FILE, lambda t: t.update(absent=torch.zeros(3, 5)), "does not fit the head"),
        (
            CONCEPTS_FILE,
            lambda t: t["decision_weight"].fill_(float("inf")),
            "weights that are not finite: decision_weight",
        ),
    ],
)
def test_concepts_that_do_not_fit_are_refused(copied, name, change, message):
    resealed(copied, name, change)
    with pytest.raises(InputError, match=message):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spiculated,0", "spiky,0", "must hold 4 prototypes of each of spiculated"),
        ("spiculated,1", "spiculated,0", "must hold 4 prototypes of each of spiculated"),
        ("0.900000", "nan", "needs a finite similarity"),
        ("hits", "beats", "lacks the columns hits"),
    ],
)
def test_an_atlas_that_does_not_fit_is_refused(copied, old, new, message):
    file = copied / ATLAS_FILE
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    reseal(copied, ATLAS_FILE)
    with pytest.raises(InputError, match=message):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["concepts"].pop(), "the head has 3 concepts, got the names"),
        (
            lambda b: b["concepts"][1].update(name="spiculated"),
            r"the head has 3 concepts, got the names \['spiculated', 'spiculated', 'calcified'\]",
        ),
        (lambda b: b["concepts"][1].update(name="spiky"), "must hold 4 prototypes of each of"),
        (lambda b: b["concepts"].reverse(), "must hold 4 prototypes of each of calcified"),
        (lambda b: b.pop("concepts"), "the head has 3 concepts, got the names"),
        (lambda b: b.update(concept_head=None), "the head has 0 concepts, got the names"),
        (lambda b: b["concepts"][0].update(at_most=2), "must have one of at_least and at_most"),
        (lambda b: b["concepts"][0].update(surprise=2), "does not describe a bundle.*surprise"),
        (lambda b: b["concepts"].__setitem__(0, "x"), "does not describe a bundle"),
        (lambda b: b["concepts"][0].pop("calibration"), "does not describe a bundle"),
        (
            lambda b: b["concepts"][0]["calibration"].update(slope=-1),
            "spiculated: calibration.slope must lie between 1e-06",
        ),
        (
            lambda b: b["concept_calibration"].update(intercept=float("nan")),
            "concept_calibration.intercept must lie between",
        ),
        (
            lambda b: b["concept_calibration"].update(slope="steep"),
            "concept_calibration.slope must be a number, got 'steep'",
        ),
        (lambda b: b["concept_head"].update(width=9), "does not fit the head"),
        (lambda b: b["concept_head"].update(prototypes=5), "does not fit the head"),
        (lambda b: b["concept_head"].update(channels=11), "reads 11 features of a cell, this eng"),
        (lambda b: b["concept_head"].update(width=0), "concept_head.width must lie between 1 and"),
        (
            lambda b: b["concept_head"].update(prototypes=4.0),
            "concept_head.prototypes must be a whole number, got 4.0",
        ),
        (lambda b: b["concept_head"].update(blocks=True), "concept_head.blocks must be a number"),
        (lambda b: b["concept_head"].update(more=1), "does not describe a bundle.*more"),
    ],
)
def test_a_description_of_concepts_that_does_not_fit_is_refused(copied, change, message):
    edit(copied, lambda d: change(d["bundle"]))
    with pytest.raises(InputError, match=message):
        load_bundle(copied)


def test_a_failed_save_of_concepts_leaves_the_old_bundle_whole(copied, bundle):
    before = {f.name: f.read_bytes() for f in copied.iterdir()}
    wrong = replace(bundle.concepts, scores=np.zeros((40, len(CONCEPTS), PROTOTYPES + 1)))
    with pytest.raises(InputError, match="wanted finite concept scores"):
        save_bundle(
            copied, bundle.info, bundle.network, bundle.library, bundle.indicator.matched, wrong
        )
    assert {f.name: f.read_bytes() for f in copied.iterdir()} == before
