"""From a case folder to a bundle and its figures: crossfit, evaluate, export, evaluate --bundle."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle import load_bundle
from contrastdiagnosis.case_folder import read_case_folder, read_scan
from contrastdiagnosis.charts import measured_charts
from contrastdiagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training import cli
from contrastdiagnosis_training.crossfit import CrossFit, crossfit, folds_of_run, load_fold
from contrastdiagnosis_training.evaluate import Evaluate, figures_of, fold_part, strict, table
from contrastdiagnosis_training.export import Export
from contrastdiagnosis_training.fit import Fit, train
from contrastdiagnosis_training.recipe import RECIPES

from training.conftest import TINY, write_case_folder

RECIPE = replace(TINY, epochs=2, mask_epochs=1)
FOLDS = (0, 1, 2)
RULE_KEYS = {
    "auc", "auc_ci", "auc_6_12mm", "auc_diameter", "accuracy", "f1", "ece", "precision_at_1", "map",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    stacks = write_case_folder(folder / "stacks", folds=3)
    context = write_case_folder(folder / "context", patients=8, context=True, seed=1, folds=3)
    return (stacks, context)


@pytest.fixture(scope="module")
def runs(folders, cache, tmp_path_factory):
    """A cross-fit run of two folds and a run on all patients."""
    out = tmp_path_factory.mktemp("runs")
    options = CrossFit(folders, out / "cv", device="cpu", cache=cache)
    crossfit(options, RECIPE)
    train(Fit(folders, out / "all", device="cpu", cache=cache), RECIPE)
    return out


@pytest.fixture(scope="module")
def evaluated(runs):
    """What `evaluate` writes of the cross-fit run, and what it prints."""
    file, printed = runs / "figures" / "cv.json", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["evaluate", "--crossfit", str(runs / "cv"), "--json", str(file)]) == 0
    return json.loads(file.read_text()), printed.getvalue()


@pytest.fixture(scope="module")
def figures(evaluated):
    return evaluated[0]


@pytest.fixture(scope="module")
def bundle(runs, folders):
    Export(
        folders, runs / "all", runs / "cv", runs / "bundle", name="made", training_data="Made up.",
        device="cpu",
    ).run()  # fmt: skip
    return runs / "bundle"


def assert_complete(figures, n):
    assert figures["n"] == n
    for rule in ("paper", "exclude3", "band"):
        assert figures[rule].keys() >= RULE_KEYS
        low, high = figures[rule]["auc_ci"]
        assert 0 <= low <= figures[rule]["auc"] <= high <= 1
        for key in RULE_KEYS - {"auc_ci", "auc_6_12mm"}:
            assert 0 <= figures[rule][key] <= 1, (rule, key)
    assert 0 <= figures["dice"] <= 1
    assert 0.8 < figures["dice_inter_reader"] < 1
    assert figures["protocol"]


def test_every_figure_of_the_cross_fit_run_is_there(figures):
    assert_complete(figures, n=60)
    assert figures["paper"]["n"] == 60 > figures["exclude3"]["n"]
    assert "3-fold" in figures["protocol"]
    # Malignant balls are larger: their diameter tells them.
    assert figures["exclude3"]["auc_diameter"] > 0.9


def test_the_table_is_printed(evaluated):
    figures, printed = evaluated
    for text in (
        "exclude3", "AUC", "95 % patient bootstrap", "diameter alone", "ECE", "retrieval P@1",
        "Dice to the consensus", "same without context", f"{figures['band']['auc']:.3f}",
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


def test_the_second_folder_shows_what_context_changes(runs, figures):
    """Its files go on above and below the nodule; those of the first do not."""
    other = load_fold(runs / "cv", 0)["other"]
    assert np.isfinite(other.trimmed_dice).all()
    assert np.isnan(load_fold(runs / "cv", 0)["test"].trimmed_dice).all()
    assert figures["context_n"] == sum(len(load_fold(runs / "cv", f)["other"]) for f in FOLDS)
    assert 0 <= figures["context_same_diagnosis"] <= 1


def test_cross_fitting_again_makes_nothing_anew(runs, folders, cache):
    files = {f: f.stat().st_mtime_ns for f in (runs / "cv").glob("fold*/*.npz")}
    assert len(files) == 12
    crossfit(CrossFit(folders, runs / "cv", device="cpu", cache=cache), RECIPE)
    assert {f: f.stat().st_mtime_ns for f in files} == files


def test_the_bundle_is_sound_and_tells_where_it_comes_from(bundle, figures):
    loaded = load_bundle(bundle)
    assert loaded.info.name == "made"
    assert len(loaded.library) == 60
    assert loaded.info.metrics["exclude3"]["auc"] == figures["exclude3"]["auc"]
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


def test_the_curves_of_the_report_come_with_the_bundle(bundle, figures):
    told = load_bundle(bundle).info.metrics["exclude3"]
    curves = told["curves"]
    assert set(curves) == {"reliability", "roc", "roc_diameter", "risk_coverage"}
    assert sum(n for *_, n in curves["reliability"]) == figures["exclude3"]["n"]
    assert len(measured_charts(told)) == 3


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
    figures = json.loads(file.read_text())
    assert_complete(figures, n=16)
    assert figures["of_patients_in_bundle"] == 16
    assert "no held-out figure" in figures["protocol"]
    assert f"wrote {file}" in capsys.readouterr().out


def test_a_bundle_of_weights_that_left_a_fold_out_is_refused(runs, folders):
    export = Export(folders, runs / "cv" / "fold0", runs / "cv", runs / "refused")
    with pytest.raises(InputError, match="left fold 0 out; fit without --fold"):
        export.run()
    assert not (runs / "refused").exists()


def test_runs_that_do_not_belong_together_are_refused(runs, folders, cache, tmp_path):
    other = replace(RECIPE, omega=2.0)
    train(Fit(folders, tmp_path / "all", device="cpu", cache=cache, epochs=1), other)
    with pytest.raises(InputError, match=r"differ in their recipe: .*'omega': 2.0.*'omega': 1.5"):
        Export(folders, tmp_path / "all", runs / "cv", tmp_path / "bundle").run()
    with pytest.raises(InputError, match="holds no finished run; make it by contrastdiagnosis-tr"):
        Export(folders, tmp_path / "nothing", runs / "cv", tmp_path / "bundle").run()
    shutil.copytree(runs / "cv" / "fold0", tmp_path / "half" / "fold0")
    with pytest.raises(InputError, match=r"half holds the folds \[0\], the cases have \[0, 1, 2\]"):
        Export(folders, runs / "all", tmp_path / "half", tmp_path / "bundle").run()
    assert not (tmp_path / "bundle").exists()


def test_figures_that_cannot_be_had_are_null(runs, folders, tmp_path):
    """A rule that leaves one class has no AUC; the file stays strict JSON with all its keys."""
    readings = load_fold(runs / "cv", 0)["test"]
    benign = readings[readings.malignancy < 3]
    judge, _ = fold_part(load_fold(runs / "cv", 0), (5, 0.1))
    figures = json.loads(json.dumps(strict(figures_of([(judge, benign)])), allow_nan=False))
    assert figures["exclude3"]["n"] == len(benign)
    assert all(figures["exclude3"][key] is None for key in RULE_KEYS)
    assert "-" in table(figures)


def test_confidence_parts_the_accurate_from_the_rest(figures):
    assert 0 <= figures["confident_share"] <= 1
    for name in ("confident_accuracy", "unsure_accuracy"):
        assert figures[name] is None or 0 <= figures[name] <= 1


def test_a_run_without_readings_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no readings; fill it by contrastdiagnosis-train"):
        Evaluate(crossfit=tmp_path).run()


@pytest.mark.parametrize("given", [(), ("crossfit", "bundle"), ("bundle",), ("cases",)])
def test_evaluate_wants_one_of_two_things(tmp_path, given):
    with pytest.raises(InputError, match="wanted either --crossfit RUN, or --bundle DIR"):
        Evaluate(**dict.fromkeys(given, tmp_path)).run()


def test_the_commands_take_the_epochs_of_the_user(monkeypatch, tmp_path, folders):
    """`--epochs` wins over the recipe; the rest of the recipe stays."""
    seen = []
    monkeypatch.setattr("contrastdiagnosis_training.fit.train", lambda o, r: seen.append(r))
    monkeypatch.setattr("contrastdiagnosis_training.crossfit.crossfit", lambda o, r: seen.append(r))
    for command in (Fit, CrossFit):
        command(folders, tmp_path, recipe="paper", epochs=7).run()
        command(folders, tmp_path).run()
    paper, default = RECIPES["paper"], RECIPES["default"]
    assert seen == 2 * [replace(paper, epochs=7), default]
