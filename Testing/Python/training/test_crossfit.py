"""From a case folder to a bundle and its metrics: crossfit, evaluate, export, evaluate --bundle."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.cases.vote import VoteRule
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.report.charts import metric_charts
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.crossfit import CrossFit, crossfit
from contrastdiagnosis_training.commands.evaluate import Evaluate
from contrastdiagnosis_training.commands.export import Export, checked_settings
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.evaluation.metrics import (
    evaluate_crossfit,
    fold_part,
    metrics_of,
    rule_metrics,
    strict,
)
from contrastdiagnosis_training.evaluation.support_vote import K_CHOICES, support_of_predictions
from contrastdiagnosis_training.evaluation.table import table
from contrastdiagnosis_training.network.recipe import RECIPES
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold
from contrastdiagnosis_training.runs.run_folder import SETTINGS
from sklearn.metrics import roc_auc_score

FOLDS = (0, 1, 2)
RULE_KEYS = {
    "auc", "auc_ci", "auc_6_12mm", "auc_diameter", "auc_forest", "accuracy", "f1", "ece",
    "ece_expected", "precision_at_1", "map",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def folders(made_run):
    return made_run.folders


@pytest.fixture(scope="module")
def runs(made_run):
    """A cross-fit run of three folds and a run on all patients."""
    return made_run.runs


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def evaluated(runs, out):
    """What `evaluate` writes of the cross-fit run, and what it prints."""
    file, printed = out / "figures" / "cv.json", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["evaluate", "--crossfit", str(runs / "cv"), "--json", str(file)]) == 0
    return json.loads(file.read_text()), printed.getvalue()


@pytest.fixture(scope="module")
def metrics(evaluated):
    return evaluated[0]


@pytest.fixture(scope="module")
def bundle(runs, folders, out):
    Export(
        folders, runs / "all", runs / "cv", out / "bundle", name="made", training_data="Made up.",
        device="cpu",
    ).run()  # fmt: skip
    return out / "bundle"


def assert_complete(metrics, n):
    assert metrics["n"] == n
    for rule in ("paper", "exclude3", "band"):
        assert metrics[rule].keys() >= RULE_KEYS
        low, high = metrics[rule]["auc_ci"]
        assert 0 <= low <= metrics[rule]["auc"] <= high <= 1
        for key in RULE_KEYS - {"auc_ci", "auc_6_12mm"}:
            assert 0 <= metrics[rule][key] <= 1, (rule, key)
    assert 0 <= metrics["dice"] <= 1
    assert 0.7 < metrics["dice_inter_reader"] < 1  # The smallest balls have a radius of 1.5 mm.
    assert metrics["protocol"]


def test_every_figure_of_the_cross_fit_run_is_there(metrics):
    assert_complete(metrics, n=48)
    assert metrics["paper"]["n"] == 48 > metrics["exclude3"]["n"]
    assert "3-fold" in metrics["protocol"]
    # Malignant balls are larger: their diameter tells them.
    assert metrics["exclude3"]["auc_diameter"] > 0.9


def test_the_table_is_printed(evaluated):
    metrics, printed = evaluated
    for text in (
        "exclude3", "AUC", "95 % patient bootstrap", "diameter alone", "ECE", "retrieval P@1",
        "forest on readers' masks", f"{metrics['paper']['auc_forest']:.3f}",
        "if perfectly calibrated", f"{metrics['band']['ece_expected']:.3f}",
        "folds 0 and 2, which chose the recipe", "fold 1, which chose nothing",
        "confidence by: vote, limits of the other folds' nodules; not yet as shipped: without the"
        " gate and the concepts of size",
        "Dice to the consensus", "same without context", f"{metrics['band']['auc']:.3f}",
    ):  # fmt: skip
        assert text in printed


def test_g1_every_fold_is_read_by_a_network_that_never_saw_its_patients(runs, folders):
    nodules = {n.case_id: n for n in read_case_folder(folders[0])}
    assert folds_of_run(runs / "cv") == list(FOLDS)
    for fold in FOLDS:
        roles = load_fold(runs / "cv", fold)
        patients = {role: set(r.patient_id) for role, r in roles.items()}
        assert {nodules[i].fold for i in roles["test"].case_id} == {fold}
        assert not patients["test"] & (patients["train"] | patients["validation"])
        assert not patients["other"] & (patients["train"] | patients["validation"])
        count = sum(len(roles[r]) for r in ("train", "validation", "test"))
        assert count == len(nodules)


def test_the_second_folder_shows_what_context_changes(runs, metrics):
    """Its files go on above and below the nodule; those of the first do not."""
    other = load_fold(runs / "cv", 0)["other"]
    assert np.isfinite(other.trimmed_dice).all()
    assert np.isnan(load_fold(runs / "cv", 0)["test"].trimmed_dice).all()
    assert metrics["context_n"] == sum(len(load_fold(runs / "cv", f)["other"]) for f in FOLDS)
    assert 0 <= metrics["context_same_diagnosis"] <= 1


def test_cross_fitting_again_makes_nothing_anew(runs, made_run):
    files = {f: f.stat().st_mtime_ns for f in (runs / "cv").glob("fold*/*.npz")}
    assert len(files) == 12
    options = CrossFit(made_run.folders, runs / "cv", device="cpu", cache=made_run.cache)
    crossfit(options, made_run.recipe)
    assert {f: f.stat().st_mtime_ns for f in files} == files


def test_the_bundle_is_sound_and_tells_where_it_comes_from(bundle, metrics):
    loaded = load_bundle(bundle)
    assert loaded.info.name == "made"
    assert len(loaded.library) == 48
    assert loaded.info.metrics["exclude3"]["auc"] == metrics["exclude3"]["auc"]
    assert loaded.info.recipe["seed"] == 0
    assert loaded.info.recipe["cases"] == ["stacks", "context"]
    assert {c.source for c in loaded.library.cases} == {"stacks"}
    assert loaded.info.vote.k % 2 == 1
    assert loaded.indicator.threshold > 0
    assert "Made up." in (bundle / "MODEL_CARD.md").read_text()


def test_the_bundle_knows_how_its_cases_were_scanned(bundle, folders):
    """Balls in lung with 20 HU of noise, 1.25 mm slices; none of them is called unlike the rest."""
    limits = load_bundle(bundle).info.limits
    assert limits.gate is None  # `gate-fit` adds it.
    assert limits.min_volume_mm3 >= 0 and limits.max_diameter_mm >= 0
    assert limits.max_noise_hu == pytest.approx(20, rel=0.2)
    assert limits.max_slice_mm == 1.25
    assert 0 < limits.min_lung_share < 1


def test_the_curves_of_the_report_come_with_the_bundle(bundle, metrics):
    told = load_bundle(bundle).info.metrics["exclude3"]
    curves = told["curves"]
    assert set(curves) == {"reliability", "roc", "roc_diameter", "risk_coverage"}
    assert sum(n for *_, n in curves["reliability"]) == metrics["exclude3"]["n"]
    assert len(metric_charts(told)) == 3


def test_places_come_from_the_files_that_kept_them(bundle):
    """The first folder's files start at the origin, the second one's lie in their series."""
    for case in load_bundle(bundle).library.cases:
        known = int(case.patient_id[1:]) < 8
        assert (case.center_ras_mm is not None) == known
        if known:
            # Balls in the middle of 39 x 80 x 80 voxels whose first lies at (10, 20, 30).
            assert case.center_ras_mm == pytest.approx((-17.3, -7.3, 53.75), abs=1.0)


def test_the_exported_embeddings_are_what_the_engine_computes(bundle, folders):
    """Clicked in its own file, a nodule finds itself, through the same rounded weights."""
    loaded = load_bundle(bundle)
    scale = float(np.linalg.norm(loaded.library.embedding.std(axis=0)))
    diagnoser = Diagnoser(loaded)
    for nodule in read_case_folder(folders[0])[10:13]:
        scan = read_scan(nodule)
        nearest = diagnoser.diagnose(scan.volume, scan.center_ras_mm).cases[0]
        assert nearest.case.case_id == nodule.case_id
        assert nearest.distance < 0.01 * scale


def test_the_bundle_is_evaluated_on_another_folder(bundle, folders, tmp_path, capsys):
    file = tmp_path / "held-out.json"
    arguments = ["--bundle", str(bundle), "--cases", str(folders[1]), "--json", str(file)]
    assert cli.main(["evaluate", *arguments, "--device", "cpu"]) == 0
    metrics = json.loads(file.read_text())
    assert_complete(metrics, n=16)
    assert metrics["of_patients_in_bundle"] == 16
    assert "no held-out figure" in metrics["protocol"]
    assert f"wrote {file}" in capsys.readouterr().out


def test_a_bundle_of_weights_that_left_a_fold_out_is_refused(runs, folders, tmp_path):
    export = Export(folders, runs / "cv" / "fold0", runs / "cv", tmp_path / "refused")
    with pytest.raises(InputError, match="left fold 0 out; fit without --fold"):
        export.run()
    assert not (tmp_path / "refused").exists()


def test_runs_that_do_not_belong_together_are_refused(runs, folders, made_run, tmp_path):
    other = replace(made_run.recipe, omega=2.0)
    train(Fit(folders, tmp_path / "all", device="cpu", cache=made_run.cache, epochs=1), other)
    with pytest.raises(InputError, match=r"differ in their recipe: .*'omega': 2.0.*'omega': 1.5"):
        Export(folders, tmp_path / "all", runs / "cv", tmp_path / "bundle").run()
    with pytest.raises(InputError, match="holds no finished run; make it by contrastdiagnosis-tr"):
        Export(folders, tmp_path / "nothing", runs / "cv", tmp_path / "bundle").run()
    shutil.copytree(runs / "cv" / "fold0", tmp_path / "half" / "fold0")
    with pytest.raises(InputError, match=r"half holds the folds \[0\], the cases have \[0, 1, 2\]"):
        Export(folders, runs / "all", tmp_path / "half", tmp_path / "bundle").run()
    assert not (tmp_path / "bundle").exists()


def test_metrics_that_cannot_be_had_are_null(runs, folders, tmp_path):
    """A rule that leaves one class has no AUC; the file stays strict JSON with all its keys."""
    predictions = load_fold(runs / "cv", 0)["test"]
    benign = predictions[predictions.malignancy < 3]
    support, _ = fold_part(load_fold(runs / "cv", 0), VoteRule(5, 0.1))
    metrics = json.loads(json.dumps(strict(metrics_of([(support, benign)])), allow_nan=False))
    assert metrics["exclude3"]["n"] == len(benign)
    assert all(metrics["exclude3"][key] is None for key in RULE_KEYS)
    assert "-" in table(metrics)


def test_every_nodule_is_confident_or_doubtful_or_without_a_verdict(metrics):
    told = metrics["confidence"]
    groups = [told[name] for name in ("confident", "doubtful", "no_verdict")]
    assert sum(g["n"] for g in groups) == told["n"] == metrics["exclude3"]["n"]
    assert sum(g["share"] for g in groups) == pytest.approx(1)


def test_folds_that_chose_the_recipe_stand_apart(metrics, bundle):
    for rule in ("paper", "exclude3", "band"):
        groups = metrics[rule]["by_folds"]
        assert list(groups) == [
            "folds 0 and 2, which chose the recipe",
            "fold 1, which chose nothing",
        ]
        assert sum(g["n"] for g in groups.values()) == metrics[rule]["n"]
        for told in groups.values():
            assert {"auc", "auc_ci", "auc_diameter", "auc_forest"} < set(told)
    told = metrics["exclude3"]["by_folds"]["fold 1, which chose nothing"]
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "| AUC, folds 0 and 2, which chose the recipe |" in card
    assert f"diameter {told['auc_diameter']:.3f}; forest {told['auc_forest']:.3f}" in card


def test_no_fold_is_said_to_have_chosen_where_none_did(runs):
    parts = [fold_part(load_fold(runs / "cv", n)) for n in FOLDS]
    assert rule_metrics(parts, "band", folds=FOLDS, chose=())["by_folds"] == {}
    assert rule_metrics(parts, "band")["by_folds"] is None


def test_the_card_tells_the_controls_and_what_calibration_can_reach(metrics, bundle):
    card = (bundle / "MODEL_CARD.md").read_text()
    for title, key in (
        ("AUC of a random forest on size, shape and HU under the readers' masks", "auc_forest"),
        ("ECE to be expected if the calibration were perfect", "ece_expected"),
    ):
        row = " | ".join(f"{metrics[rule][key]:.3f}" for rule in ("paper", "exclude3", "band"))
        assert f"| {title} | {row} |" in card
    told = metrics["confidence"]["confident"]
    assert f"| confident | {told['n']} | {told['share']:.3f} |" in card


def test_without_the_readers_masks_the_control_is_missing_and_nothing_else(runs, tmp_path):
    """A run is measured where its case folder is not."""
    copied = tmp_path / "cv"
    for fold in FOLDS:
        shutil.copytree(runs / "cv" / f"fold{fold}", copied / f"fold{fold}")
        (copied / f"fold{fold}" / "settings.json").unlink()
    metrics = evaluate_crossfit(copied)
    assert metrics["exclude3"]["auc_forest"] is None
    assert metrics["exclude3"]["auc"] > 0
    assert "forest on readers' masks" in table(metrics)


def test_a_run_without_predictions_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="holds no predictions; fill it by contrastdiagnosis-train"
    ):
        Evaluate(crossfit=tmp_path).run()


@pytest.mark.parametrize("given", [(), ("crossfit", "bundle"), ("bundle",), ("cases",)])
def test_evaluate_wants_one_of_two_things(tmp_path, given):
    with pytest.raises(InputError, match="wanted either --crossfit RUN, or --bundle DIR"):
        Evaluate(**dict.fromkeys(given, tmp_path)).run()


@pytest.mark.parametrize("option", [{"vote": "majority"}, {"interval": "normal"}])
def test_a_bundle_is_evaluated_by_its_own_vote_and_interval(tmp_path, option):
    with pytest.raises(InputError, match="a bundle has its own vote and interval"):
        Evaluate(bundle=tmp_path, cases=tmp_path, **option).run()


@pytest.fixture(scope="module")
def by_majority(runs, folders, out):
    """A bundle with the published vote and the normal interval, and what exporting it printed."""
    made, printed = out / "majority", io.StringIO()
    arguments = ["--cases", *map(str, folders), "--weights", str(runs / "all"), "--crossfit",
                 str(runs / "cv"), "--out", str(made), "--vote", "majority",
                 "--interval", "normal", "--device", "cpu"]  # fmt: skip
    with contextlib.redirect_stdout(printed):
        assert cli.main(["export", *arguments]) == 0
    return made, printed.getvalue()


def test_a_majority_bundle_is_exported(by_majority, bundle):
    folder, printed = by_majority
    loaded, weighted = load_bundle(folder), load_bundle(bundle)
    rule = loaded.info.vote
    assert rule.majority and rule.temperature is None
    assert f"48 cases, majority vote of the {rule.k} nearest cases" in printed
    assert loaded.info.calibration.intercept == 0 != weighted.info.calibration.intercept
    matched = loaded.indicator.matched.astype(float)
    assert loaded.indicator.threshold == pytest.approx(matched.mean() + 1.96 * matched.std(), 1e-3)
    assert "majority vote, k chosen on each training fold" in loaded.info.metrics["protocol"]
    assert "mean + 1.96 SD" in loaded.info.metrics["protocol"]
    assert "temperature" not in (folder / "MODEL_CARD.md").read_text()


def test_the_vote_is_chosen_on_the_validation_parts_alone(by_majority, runs):
    """The exported k, from the files of the run."""
    areas = {}
    for k in K_CHOICES:
        found = []
        for fold in FOLDS:
            roles = load_fold(runs / "cv", fold)
            support = replace(
                support_of_predictions(roles["train"]), vote=VoteRule(k, form="majority")
            )
            kept = roles["validation"][roles["validation"].malignancy != 3]
            score = support.score(kept.embedding, kept.patient_id)
            found.append(roc_auc_score(kept.malignancy > 3, score))
        areas[k] = np.mean(found)
    assert areas[load_bundle(by_majority[0]).info.vote.k] == pytest.approx(max(areas.values()))


def test_a_cross_fit_run_is_evaluated_by_majority(runs, metrics, tmp_path, by_majority):
    file = tmp_path / "majority.json"
    options = ["--crossfit", str(runs / "cv"), "--vote", "majority", "--json", str(file)]
    assert cli.main(["evaluate", *options]) == 0
    told = json.loads(file.read_text())
    assert_complete(told, n=48)
    assert "majority vote, k chosen" in told["protocol"] and "1.96" not in told["protocol"]
    assert "k and temperature chosen" in metrics["protocol"]
    # Retrieval knows of no vote.
    assert told["exclude3"]["map"] == metrics["exclude3"]["map"]
    right = total = 0
    for fold, k in zip(FOLDS, told["k"], strict=True):
        roles = load_fold(runs / "cv", fold)
        support = support_of_predictions(roles["train"], roles["validation"])
        kept = roles["test"][roles["test"].malignancy != 3]
        distance = support.distance(kept.embedding, kept.patient_id)
        votes = (support.malignancy > 3)[distance.argsort(axis=1, kind="stable")[:, :k]]
        right += int(((votes.mean(axis=1) > 0.5) == (kept.malignancy > 3)).sum())
        total += len(kept)
    assert told["exclude3"]["accuracy"] == right / total


def test_a_majority_bundle_is_evaluated_as_it_votes(by_majority, folders, tmp_path):
    file = tmp_path / "held-out.json"
    options = ["--bundle", str(by_majority[0]), "--cases", str(folders[1]), "--json", str(file)]
    assert cli.main(["evaluate", *options, "--device", "cpu"]) == 0
    k = load_bundle(by_majority[0]).info.vote.k
    assert (
        f"context, majority vote of the {k} nearest cases"
        in json.loads(file.read_text())["protocol"]
    )


def test_runs_from_before_an_option_belong_together_still(runs, tmp_path):
    older = shutil.copytree(runs / "all", tmp_path / "all")
    settings = json.loads((older / SETTINGS).read_text())
    settings["recipe"]["augmentation"].pop("whole_chain")
    (older / SETTINGS).write_text(json.dumps(settings))
    assert checked_settings(older, runs / "cv") == checked_settings(runs / "all", runs / "cv")


def test_the_commands_take_the_epochs_of_the_user(monkeypatch, tmp_path, folders):
    """`--epochs` wins over the recipe; the rest of the recipe stays."""
    seen = []
    for place in ("fit.train", "crossfit.crossfit"):
        place = f"contrastdiagnosis_training.commands.{place}"
        monkeypatch.setattr(place, lambda o, r: seen.append(r))
    for command in (Fit, CrossFit):
        command(folders, tmp_path, recipe="paper", epochs=7).run()
        command(folders, tmp_path).run()
    paper, default = RECIPES["paper"], RECIPES["default"]
    assert seen == 2 * [replace(paper, epochs=7), default]
