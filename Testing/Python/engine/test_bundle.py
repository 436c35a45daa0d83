"""Bundle: what is saved comes back, what is damaged is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle import (
    CARD_FILE,
    CASES_FILE,
    CHECKED_FILES,
    EMBEDDINGS_FILE,
    INFO_FILE,
    MODEL_FILE,
    default_bundle_folder,
    load_bundle,
    save_bundle,
)
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.network import NoduleNet, NoduleNetConfig
from safetensors.torch import load_file, save_file

from engine.conftest import TINY, write_tiny_bundle


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
    with pytest.raises(InputError, match="schema 99, this version reads schema 2; update"):
        load_bundle(own_bundle_folder)


def test_no_schema_is_refused(own_bundle_folder):
    (own_bundle_folder / INFO_FILE).write_text("[]")
    with pytest.raises(InputError, match="has schema None"):
        load_bundle(own_bundle_folder)


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
    with pytest.raises(InputError, match=message):
        load_bundle(own_bundle_folder)


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
        ({"max_noise_hu": -1}, r"max_noise_hu must lie between 0 and 1e\+06, got -1"),
        ({"max_slice_mm": "thin"}, "max_slice_mm must be a number, got 'thin'"),
        ({"min_lung_share": "much"}, "min_lung_share must be a number, got 'much'"),
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "calibration.slope must lie"),
        ({"vote": {"k": 5.0, "temperature": 1.0}}, "vote.k must be a whole number, got 5.0"),
        ({"vote": {"k": 4, "temperature": 1.0}}, "k must be odd and positive, got 4"),
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
