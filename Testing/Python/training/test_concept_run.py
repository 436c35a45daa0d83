"""From a cross-fit run to a bundle with concepts: concepts, concepts-eval, export, prune."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import (
    CONCEPTS_FILE,
    default_bundle_folder,
    load_bundle,
    sha256,
)
from contrastdiagnosis.bundle.pruning import prune_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.concepts.concept_prediction import predict_concepts, size_factor
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.concepts import Concepts
from contrastdiagnosis_training.commands.concepts_ablate import ConceptsAblate
from contrastdiagnosis_training.commands.export import Export
from contrastdiagnosis_training.concept_head.cell_views import encode_views
from contrastdiagnosis_training.concept_head.run_folder import (
    ALL,
    HEAD,
    TEST,
    TRAIN,
    WHOLE,
    head_of_run,
    read_head_settings,
    shown_to_head,
)
from contrastdiagnosis_training.concept_head.scores import ConceptScores, touched_cells
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.concept_list import concepts_of
from contrastdiagnosis_training.data.splits import patient_folds
from contrastdiagnosis_training.evaluation.concepts.metrics import calibrate_concepts
from contrastdiagnosis_training.evaluation.concepts.probe import CORRECTIONS
from contrastdiagnosis_training.evaluation.metrics import calibrated_folds
from contrastdiagnosis_training.evaluation.shipped_rule import with_size_factors
from contrastdiagnosis_training.evaluation.unseen import unseen_of_bundle
from contrastdiagnosis_training.network.recipe import Recipe
from contrastdiagnosis_training.runs.run_folder import augmentation_of_run, network_of_run

from training.conftest import TINY, write_case_folder

LIDC_CONCEPTS = concepts_of(LIDC)

SMALL = ("prototypes=3", "width=8", "blocks=1", "views=2", "concept_epochs=2", "prototype_epochs=2")

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def folder(made_run):
    return made_run.folders[0]


@pytest.fixture(scope="module")
def cache(made_run):
    return made_run.cache


@pytest.fixture(scope="module")
def runs(made_run, folder, cache, tmp_path_factory):
    """A cross-fit run of three folds, a run on all patients, and the heads of both."""
    out = tmp_path_factory.mktemp("runs")
    for name in ("cv", "all"):
        shutil.copytree(made_run.runs / name, out / name)
    heads(folder, out, cache).run()
    return out


def heads(folder, out, cache, **changes):
    options = {"weights": out / "all", "change": SMALL, "device": "cpu", "cache": cache}
    return Concepts((folder,), out / "cv", out / "concepts", **{**options, **changes})


@pytest.fixture(scope="module")
def measured(runs, folder):
    """What `concepts-eval` writes of the run, and what it prints."""
    file, printed = runs / "concepts.json", io.StringIO()
    with contextlib.redirect_stdout(printed):
        arguments = ["concepts-eval", "--crossfit", str(runs / "concepts"), "--cases", str(folder)]
        assert cli.main([*arguments, "--json", str(file), "--device", "cpu"]) == 0
    return json.loads(file.read_text()), printed.getvalue()


@pytest.fixture(scope="module")
def bundle_folder(runs, folder, measured):
    Export(
        (folder,), runs / "all", runs / "cv", runs / "bundle", runs / "concepts",
        runs / "concepts.json", name="made", device="cpu",
    ).run()  # fmt: skip
    return runs / "bundle"


def test_every_head_is_scored_on_patients_that_are_new_to_it(runs, folder):
    fold_of = patient_folds(read_case_folder(folder))
    for fold in range(3):
        test, train_ = (
            load_columns(ConceptScores, runs / "concepts" / f"fold{fold}" / name)
            for name in (TEST, TRAIN)
        )
        assert {fold_of[p] for p in test.patient_id} == {fold}
        assert not set(test.patient_id) & set(train_.patient_id)
        assert test.scores.shape == (len(test), len(LIDC_CONCEPTS), 3)
    everyone = load_columns(ConceptScores, runs / "concepts" / "all" / TRAIN)
    assert len(everyone) == len(read_case_folder(folder))
    assert not (runs / "concepts" / "all" / TEST).exists()


def test_what_is_there_is_not_made_again_and_another_recipe_is_refused(runs, folder, cache, capsys):
    before = (runs / "concepts" / "fold0" / TRAIN).stat().st_mtime_ns
    heads(folder, runs, cache).run()
    assert "is there already" in capsys.readouterr().out
    assert (runs / "concepts" / "fold0" / TRAIN).stat().st_mtime_ns == before
    with pytest.raises(InputError, match="belongs to another run"):
        heads(folder, runs, cache, change=(*SMALL, "margin_sign=1")).run()
    with pytest.raises(InputError, match=r"holds the folds \[0, 1, 2\], got \(7,\)"):
        heads(folder, runs, cache, folds=(7,)).run()
    with pytest.raises(InputError, match="no option is called prototype"):
        heads(folder, runs, cache, change=("prototype=3",)).run()


def test_a_folder_without_the_ratings_is_refused(runs, cache, tmp_path):
    bare = write_case_folder(tmp_path / "bare", patients=12, folds=3)
    with pytest.raises(InputError, match="with and without 'spiculated' .* got 0 with it of 0"):
        heads(bare, runs, cache, **{"weights": None}).__class__(
            (bare,), runs / "cv", tmp_path / "out", change=SMALL, device="cpu", cache=cache
        ).run()


def test_all_metrics_are_there(measured):
    metrics, printed = measured
    assert list(metrics["concepts"]) == [c.name for c in LIDC_CONCEPTS]
    for concept in metrics["concepts"].values():
        assert 0 <= concept["auroc"] <= 1
        assert concept["accuracy_majority_constant"] >= 0.5
        assert concept["kappa_readers"] is None or -1 <= concept["kappa_readers"] <= 1
    rated = [metrics["concepts"][c.name]["auroc"] for c in LIDC_CONCEPTS if not c.measured]
    assert len(rated) == 6
    assert metrics["mean_auroc"] == pytest.approx(np.mean(rated))
    assert set(metrics["corrections"]) == set(CORRECTIONS)
    # The defaults are two of the ways.
    users, ways = metrics["users"], metrics["corrections"]
    for way in ("rejected: median where absent", "elsewhere 0.2"):
        assert ways[way]["f1"] == users["both"]["f1"]
    for where in ("centred", "off centre", "off centre, refined"):
        row = metrics["pointing"][where]["nodule"]
        assert set(row) == {"n", "map", "centre", "random", "mask"}
        assert 0 < row["random"] < row["mask"] <= 1 or row["mask"] == row["random"]
    assert {"reject", "box", "both", "one action", "one action, noisy", "refined"} < set(
        metrics["users"]
    )
    assert metrics["users"]["one action"]["actions"] <= 1
    for name in ("vote", "presence_alone", "malignancy"):
        assert 0 <= metrics[name]["auc"] <= 1
    assert len(metrics["prototypes"]["alive"]) == 3
    for text in (
        "mean AUROC",
        "pointing game",
        "simulated user",
        "concepts less vote",
        "diameter",
        "perfect user, taken as",
    ):
        assert text in printed


def test_the_bundle_says_what_the_run_says(bundle_folder, runs, measured):
    bundle = load_bundle(bundle_folder)
    everyone = load_columns(ConceptScores, runs / "concepts" / "all" / TRAIN)
    # The bundle rounds the network's weights to half precision.
    np.testing.assert_allclose(bundle.concepts.scores, everyone.scores, atol=0.02)
    for mine, theirs in zip(
        bundle.head.state_dict().values(),
        head_of_run(runs / "concepts" / "all").state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    assert [c.name for c in bundle.info.concepts] == [c.name for c in LIDC_CONCEPTS]
    assert all(c.auroc is not None for c in bundle.info.concepts)
    # Nobody rates size: it is measured.
    assert [c.name for c in bundle.info.concepts if c.reader_kappa is None] == [
        "6 mm or more",
        "8 mm or more",
        "15 mm or more",
    ]
    assert bundle.info.metrics["concepts"]["mean_auroc"] == measured[0]["mean_auroc"]


def test_confidence_of_a_run_knows_the_concepts_of_size(runs, folder):
    """As shipped: each fold's own head says by what factor a measured size is contradicted."""
    _, parts = calibrated_folds(runs / "cv", "distance-weighted")
    column, volume_mm3 = FACT_NAMES.index("size_factor"), 180.0
    for _, predictions in parts:  # The tiny networks outline nothing.
        predictions.facts[:, FACT_NAMES.index("volume_mm3")] = volume_mm3
    told = with_size_factors(parts, runs / "concepts", (0, 1, 2))
    assert all(np.isnan(predictions.facts[:, column]).all() for _, predictions in parts)
    rows = {n.case_id: n for n in read_case_folder(folder)}
    heads = [
        (head_of_run(f), load_columns(ConceptScores, f / TEST))
        for f in (runs / "concepts" / f"fold{n}" for n in range(3))
    ]
    concepts, calibration = calibrate_concepts(LIDC_CONCEPTS, [heads[0], heads[2]])
    network = network_of_run(runs / "cv" / "fold1")
    predictions = told[1][1]
    for n in (0, len(predictions) - 1):
        scan = read_scan(rows[predictions.case_id[n]])
        patch = crop_patch(scan.volume, scan.center_ras_mm)
        encoding = encode(network, [patch], torch.device("cpu"), heads[1][0])[0]
        prediction = predict_concepts(
            heads[1][0], concepts, calibration, encoding.similarity, encoding.grid
        )
        assert predictions.facts[n, column] == pytest.approx(
            size_factor(prediction.concepts, prediction.presence, volume_mm3)
        )


def test_explain_eval_judges_a_bundle_by_its_whole_rule(folder):
    """Its concepts of size too: else it would be surer than the product."""
    rows, bundle = read_case_folder(folder)[:3], default_bundle_folder()
    told = unseen_of_bundle(bundle, rows, torch.device("cpu")).predictions.facts
    assert np.isfinite(told[:, FACT_NAMES.index("size_factor")]).all()
    diagnoser, scans = Diagnoser(load_bundle(bundle), "cpu"), [read_scan(row) for row in rows]
    wanted = [diagnoser.diagnose(s.volume, s.center_ras_mm).facts.row for s in scans]
    np.testing.assert_allclose(told, wanted, rtol=1e-4, atol=1e-4)


def test_the_concepts_of_another_run_are_refused(runs):
    _, parts = calibrated_folds(runs / "cv", "distance-weighted")
    swapped = [parts[1], parts[0], parts[2]]
    with pytest.raises(InputError, match=r"concepts lacks \d+ nodules of the run"):
        with_size_factors(swapped, runs / "concepts", (0, 1, 2))
    with pytest.raises(InputError, match="calibrated on other folds, got one alone"):
        with_size_factors(parts[:1], runs / "concepts", (0,))


def test_the_model_card_names_the_concepts(bundle_folder):
    card = (bundle_folder / "MODEL_CARD.md").read_text()
    assert "| ill-defined margin | margin at most 3 |" in card
    assert re.search(r"Malignancy through the concepts: AUC [01]\.\d", card)
    assert re.search(r"between 6 and 12 mm (\d\.\d+|-) and (\d\.\d+|-)\.", card)
    assert re.search(r"would see adds or takes (\d\.\d+|-) logits on average", card)
    assert "| figure | paper | exclude3 | band |" in card


def test_the_atlas_names_the_nearest_case_and_its_cell(bundle_folder, folder):
    """F8: the stored case, encoded again, gives the stored cosine at the stored cell."""
    from contrastdiagnosis.cases.case_folder import read_scan

    bundle = load_bundle(bundle_folder)
    diagnoser = Diagnoser(bundle, "cpu")
    nodules = {n.case_id: n for n in read_case_folder(folder)}
    for number in (0, 4, 11):
        prototype = bundle.concepts.atlas[number]
        k = [c.name for c in bundle.info.concepts].index(prototype.concept)
        scan = read_scan(nodules[prototype.case_id])
        alike = diagnoser.encode(scan.volume, scan.center_ras_mm).similarity[k, prototype.number]
        assert alike.max() == pytest.approx(prototype.similarity, abs=1e-4)
        assert alike[prototype.cell_kji] == alike.max()
        scores = bundle.concepts.scores[:, k, prototype.number]
        assert prototype.similarity == pytest.approx(scores.max(), abs=1e-4)


def test_the_bundle_is_judged_on_any_folder(bundle_folder, folder, capsys):
    arguments = ["concepts-eval", "--bundle", str(bundle_folder), "--cases", str(folder)]
    assert cli.main([*arguments, "--nodules", "4", "--device", "cpu"]) == 0
    assert "4 are of patients it was made from: no held-out figure" in capsys.readouterr().out


def test_a_pruned_bundle_decides_without_the_prototypes(bundle_folder, tmp_path):
    bundle = load_bundle(bundle_folder)
    removed = (("calcified", 1), ("spiculated", 0))
    file = tmp_path / "pruning.json"
    file.write_text(pruning_text(Pruning(sha256(bundle_folder / CONCEPTS_FILE), removed, {})))
    prune_bundle(bundle, file, tmp_path / "pruned")
    head = load_bundle(tmp_path / "pruned").head
    assert {
        (bundle.info.concepts[k].name, m) for k, m in (head.kept == 0).nonzero().tolist()
    } == set(removed)
    assert (head.decision_weight[head.kept == 0] == 0).all()


def test_a_runs_head_is_pruned_as_its_bundle_is(bundle_folder, runs, folder, cache, tmp_path):
    """The same prototypes gone, the rest fitted anew; a second file starts from the whole head."""
    run = tmp_path / "concepts"
    shutil.copytree(runs / "concepts", run)
    whole, digest = (run / ALL / HEAD).read_bytes(), sha256(bundle_folder / CONCEPTS_FILE)
    files = []
    for name, removed in (
        ("a", (("calcified", 1), ("8 mm or more", 0))),
        ("b", (("lobulated", 2),)),
    ):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(pruning_text(Pruning(digest, removed, {})))
    replace(heads(folder, runs, cache), out=run, prune=files[0]).run()
    head = head_of_run(run / ALL)
    names = [c.name for c in LIDC_CONCEPTS]
    gone = {(names[k], m) for k, m in (head.kept == 0).nonzero().tolist()}
    assert gone == {("calcified", 1), ("8 mm or more", 0)}
    assert (head.decision_weight[head.kept == 0] == 0).all()
    assert (run / ALL / WHOLE).read_bytes() == whole

    Export((folder,), runs / "all", runs / "cv", tmp_path / "b", run, device="cpu").run()
    bundle = load_bundle(tmp_path / "b")
    assert {(p.concept, p.number) for p in bundle.concepts.atlas if not p.kept} == gone
    assert "2 prototypes were removed" in (tmp_path / "b" / "MODEL_CARD.md").read_text()

    replace(heads(folder, runs, cache), out=run, prune=files[1]).run()
    assert int((head_of_run(run / ALL).kept == 0).sum()) == 1


def test_presence_and_decision_are_fitted_anew_without_the_prototypes(
    runs, folder, cache, tmp_path
):
    """By the same options it is the same head; by others the prototypes and scores stay."""
    start = runs / "concepts"
    again = heads(folder, runs, cache, start=start)
    replace(again, out=tmp_path / "same").run()
    replace(again, out=tmp_path / "other", change=(*again.change, "penalty=30")).run()
    replace(again, out=tmp_path / "other", change=(*again.change, "penalty=30")).run()
    for name in ("fold0", "fold2", ALL):
        same, other = (head_of_run(tmp_path / out / name) for out in ("same", "other"))
        whole = head_of_run(start / name)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(same.state_dict()[key], value, rtol=0, atol=0)
        assert torch.equal(other.prototype, whole.prototype)
        assert not torch.equal(other.decision_weight, whole.decision_weight)
        for file in (start / name).glob("*.npz"):
            assert (tmp_path / "other" / name / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change": ("prototypes=2",)}, "differ in dropout, penalty, absent_penalty alone"),
        ({"seed": 1}, "was trained otherwise"),
        ({"start": Path("nowhere")}, "nowhere.fold0 holds no concept head"),
        ({"out": None}, "name another --out"),
    ],
)
def test_a_fit_that_cannot_start_there_is_refused(runs, folder, cache, tmp_path, changes, message):
    wanted = replace(heads(folder, runs, cache, start=runs / "concepts"), out=tmp_path / "out")
    if "out" in changes:
        changes = {"out": wanted.start}
    with pytest.raises(InputError, match=message):
        replace(wanted, **changes).run()
    assert not (tmp_path / "out").exists()


def test_a_pruning_file_of_another_head_changes_nothing(runs, folder, cache, tmp_path):
    file = tmp_path / "pruning.json"
    file.write_text(pruning_text(Pruning("0" * 64, (("calcified", 1),), {})))
    before = (runs / "concepts" / ALL / HEAD).read_bytes()
    with pytest.raises(InputError, match="was made for another bundle"):
        heads(folder, runs, cache, prune=file).run()
    assert (runs / "concepts" / ALL / HEAD).read_bytes() == before
    assert not (runs / "concepts" / ALL / WHOLE).exists()


def test_a_head_is_shown_scans_as_they_are(runs, tmp_path):
    """Also that of a network that was shown poorer ones."""
    network = shutil.copytree(runs / "cv" / "fold1", tmp_path / "fold1")
    settings = json.loads((network / "settings.json").read_text())
    settings["recipe"]["augmentation"] |= {"degraded": 0.5, "far": 0.2}
    (network / "settings.json").write_text(json.dumps(settings))
    assert augmentation_of_run(network).degraded == 0.5
    assert shown_to_head(network) == replace(TINY.augmentation, far=0.2)


def test_heads_of_some_folds_alone_are_evaluated(runs, folder, tmp_path, capsys):
    """Which they are is read from their folders; they were taken for the first ones."""
    for name in ("fold1", "fold2"):
        shutil.copytree(runs / "concepts" / name, tmp_path / "heads" / name)
    arguments = ["--crossfit", tmp_path / "heads", "--cases", folder, "--json", tmp_path / "c.json"]
    assert cli.main(["concepts-eval", *map(str, arguments), "--device", "cpu"]) == 0
    told = json.loads((tmp_path / "c.json").read_text())
    assert "folds [1, 2]" in told["protocol"] and "vote" in told
    asked = [
        load_columns(ConceptScores, runs / "concepts" / f"fold{n}" / "test.npz") for n in (1, 2)
    ]
    assert told["n"] == sum(len(scores.case_id) for scores in asked)


def test_a_head_is_shown_what_its_network_was_shown(runs, folder, cache, tmp_path, monkeypatch):
    """The settings tell it; those of older heads do not, which saw the default recipe's views."""
    shown = []

    def spy(*arguments):
        shown.append(arguments[4])
        return encode_views(*arguments)

    monkeypatch.setattr("contrastdiagnosis_training.commands.concepts.encode_views", spy)
    Concepts(
        (folder,), runs / "cv", tmp_path / "c", folds=(1,), change=SMALL, device="cpu", cache=cache
    ).run()
    assert shown == [TINY.augmentation] != [Recipe().augmentation]
    file = tmp_path / "c" / "fold1" / "settings.json"
    settings = json.loads(file.read_text())
    told = settings.pop("augmentation")
    assert told == json.loads(json.dumps(asdict(TINY.augmentation)))
    file.write_text(json.dumps(settings))
    then = replace(Recipe().augmentation, degraded=0.0)
    assert read_head_settings(file)["augmentation"] == json.loads(json.dumps(asdict(then)))
    with pytest.raises(InputError, match="belongs to another run"):
        Concepts(
            (folder,), runs / "cv", tmp_path / "c", folds=(1,), change=SMALL, cache=cache
        ).run()


SHORT = "width=8 blocks=1 concept_epochs=1 prototype_epochs=1"


@pytest.fixture(scope="module")
def ablations(runs, folder, cache):
    """What `concepts-ablate` writes of fold 1, and what it prints."""
    file, printed = runs / "ablations.json", io.StringIO()
    arguments = ["concepts-ablate", "--cases", str(folder), "--crossfit", str(runs / "cv")]
    arguments += ["--fold", "1", "--variants", f"prototypes=3 {SHORT}", f"prototypes=2 {SHORT}"]
    arguments += ["--joint", str(runs / "cv" / "fold1"), "--json", str(file), "--device", "cpu"]
    with contextlib.redirect_stdout(printed):
        assert cli.main([*arguments, "--cache", str(cache)]) == 0
    return file, printed.getvalue()


def test_recipes_are_measured_side_by_side(ablations):
    file, printed = ablations
    rows = json.loads(file.read_text())["rows"]
    assert [row["recipe"][:12] for row in rows] == ["prototypes=3", "prototypes=2", "prototypes=3"]
    for row in rows:
        for where in ("centred", "off_centre"):
            each = row[where].pop("concepts")
            assert set(each) == {concept.name for concept in LIDC_CONCEPTS}
            assert all(0 <= value <= 1 for value in row[where].values())
        assert len(row["alive"]) == len(LIDC_CONCEPTS)
        assert max(row["alive"]) <= int(row["recipe"][11])
    # The same network, recipe and seed: the same metrics.
    assert rows[0]["centred"] == rows[2]["centred"] and rows[0]["alive"] == rows[2]["alive"]
    assert printed.count("prototypes=") == 3


def test_the_model_card_tells_what_other_recipes_gave(runs, folder, cache, ablations, tmp_path):
    """Means over folds where several were tried, concept by concept; the recipe's folds named."""
    tried = f"prototypes=3 {SHORT}"
    files = [tmp_path / "0.json", ablations[0]]
    ConceptsAblate(
        (folder,), runs / "cv", 0, (tried, f"whole=False {SHORT}"), json=files[0], device="cpu",
        cache=cache,
    ).run()  # fmt: skip
    told = [json.loads(file.read_text())["rows"] for file in files]
    out = tmp_path / "b"
    Export(
        (folder,), runs / "all", runs / "cv", out, runs / "concepts",
        concepts_ablations=tuple(files), device="cpu",
    ).run()  # fmt: skip
    card = (out / "MODEL_CARD.md").read_text()
    head, *rows = (line.split(" | ") for line in card.splitlines() if line.startswith("| recipe |"))
    assert not rows
    default, other = (
        dict(zip(head, line.split(" | "), strict=True))
        for line in card.splitlines()
        if line.startswith((f"| `{tried}` |", f"| `whole=False {SHORT}` |"))
    )
    assert (default["folds"], other["folds"]) == ("0, 1", "0")
    mean = np.mean([rows[0]["off_centre"]["malignancy"] for rows in told])
    local = told[0][1]["off_centre"]["malignancy"]
    assert default["malignancy, off centre"] == f"{mean:.3f}"
    assert other["malignancy, off centre"] == f"{local:.3f}"
    # Fold 0 has no calcified nodule among its test patients: nothing can be told of it there.
    assert [rows[0]["centred"]["concepts"]["calcified"] is None for rows in told] == [True, False]
    calcified = told[1][0]["centred"]["concepts"]["calcified"]
    assert (default["calcified"], other["calcified"]) == (f"{calcified:.3f}", "-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ()}, "wanted at least one recipe"),
        ({"variants": ("prototype=3",)}, "no option is called prototype"),
        ({"fold": 2, "joint": ("fold1",)}, "left fold 2 out, got 1"),
    ],
)
def test_mistakes_about_recipes_are_told_before_any_training(
    runs, folder, cache, tmp_path, changes, message
):
    changes = {**changes, "joint": tuple(runs / "cv" / f for f in changes.get("joint", ()))}
    with pytest.raises(InputError, match=message):
        ConceptsAblate(
            (folder,), runs / "cv", json=tmp_path / "a.json", device="cpu", cache=cache, **changes
        ).run()
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wanted one of --crossfit RUN and --bundle DIR"),
        (["--crossfit", "nowhere"], "holds 0 heads"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, capsys, arguments, message):
    assert cli.main(["concepts-eval", "--cases", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_heads_of_other_networks_are_not_exported(runs, folder):
    with pytest.raises(InputError, match="holds no finished run"):
        Export((folder,), runs / "all", runs / "cv", runs / "no", runs / "cv").run()
    with pytest.raises(InputError, match="was trained on .*all, not on"):
        Export(
            (folder,), runs / "cv" / ".." / "all", runs / "cv", runs / "no", runs / "concepts"
        ).run()


def test_touched_cells_are_those_that_hold_a_voxel():
    region = np.zeros((32, 64, 64), bool)
    region[4, 7, 63] = True
    cells = touched_cells(region, (8, 8, 8))
    assert np.argwhere(cells).tolist() == [[1, 0, 7]]
