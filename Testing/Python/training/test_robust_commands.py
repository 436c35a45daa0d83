"""`robust-eval` and `quality-fit` on a tiny cross-fit run: tables, files, a bundle that tells."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.protocol.map_variant import LocalCam
from contrastdiagnosis.trust.facts import facts_of_row
from contrastdiagnosis.trust.poor_image import KINDS, SEVERAL, PoorVerdicts
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands import quality_fit
from contrastdiagnosis_training.commands.export import Export
from contrastdiagnosis_training.commands.quality_fit import QualityFit, learnt_from
from contrastdiagnosis_training.commands.robust_eval import RobustEval
from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.evaluation import quality_rows
from contrastdiagnosis_training.evaluation.image_quality_trial import fit_detector
from contrastdiagnosis_training.evaluation.maps.probe import ProbedNetwork
from contrastdiagnosis_training.evaluation.quality_rows import (
    measured,
    measured_in_parts,
    nodule_places,
)
from contrastdiagnosis_training.evaluation.robustness.comparison import Comparison
from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer, poorer_scan
from contrastdiagnosis_training.evaluation.robustness.map_stability import (
    drawn_nodules,
    overlap_of_strongest,
)
from contrastdiagnosis_training.evaluation.robustness.poor_verdicts import (
    LEAST,
    WRONG,
    Verdicts,
    bands_of,
    fit_poor_verdicts,
    recalibration_table,
    sure_from,
    verdict_table,
)
from contrastdiagnosis_training.evaluation.robustness.report import (
    COLOURS,
    CURVES,
    overview_charts,
    robust_charts,
)
from contrastdiagnosis_training.runs.predictions import Predictions
from contrastdiagnosis_training.runs.run_folder import network_of_run

FOLDS = [0, 1, 2]

pytestmark = pytest.mark.usefixtures("few_draws", "one_thread")


@pytest.fixture(scope="module")
def cv(made_run, tmp_path_factory):
    """A copy: what is said of poorer scans is kept in the run."""
    return shutil.copytree(made_run.runs / "cv", tmp_path_factory.mktemp("robust") / "cv")


@pytest.fixture(scope="module")
def told(cv, tmp_path_factory):
    """Figures of the run, twice by two names, and its report."""
    out = tmp_path_factory.mktemp("out")
    RobustEval(
        (f"plain={cv}", f"other={cv}"), operations=("blur",), severities=(3,), shares=(0, 100),
        maps=2, json=out / "f.json", html=out / "f.html", device="cpu",
    ).run()  # fmt: skip
    return json.loads((out / "f.json").read_text()), (out / "f.html").read_text()


def test_runs_stand_side_by_side_with_the_diameter(told):
    metrics, page = told
    plain, other = metrics["runs"]["plain"], metrics["runs"]["other"]
    assert plain["clean"] == other["clean"] and other["gain"]["auc"] == 0
    assert plain["clean"]["auc_diameter"] is not None
    low, high = plain["fall_ci"]
    assert low <= plain["fall"] <= high and plain["fall_less_first_ci"] == [0.0, 0.0]
    assert plain["fall"] == pytest.approx(plain["clean"]["auc"] - plain["ways"]["blur 3"]["auc"])
    assert metrics["printed_by"] == "contrastdiagnosis-train robust-eval"
    assert "Research use only" in page
    # Six figures by operation, for each of two runs by what made the scans poorer; twelve maps.
    assert "<script" not in page and page.count("<svg") == 6 + 2 * 6 + 12


def test_every_run_and_operation_has_a_line_of_its_own(told):
    """Also where there are more of them than colours; a peer has no curve of what it lacks."""
    run = told[0]["runs"]["plain"]
    runs = {f"run {n}": run for n in range(len(COLOURS) + 1)}
    runs["peer"] = run | {"clean": run["clean"] | {"dice": None}}
    metrics = told[0] | {"runs": runs}
    for key, chart in zip(CURVES, robust_charts(metrics)["blur"], strict=True):
        if key == "confident_wrong":  # Of nothing confident nothing is wrong.
            continue
        assert len(chart.series) == len(runs) - (key == "dice")
        assert len({(s.kind, s.colour) for s in chart.series}) == len(chart.series)
        last = [s for s in chart.series if s.label.startswith(f"run {len(COLOURS)}")]
        assert [(s.kind, s.label.endswith("(dashed)")) for s in last] == [("dashed", True)]
    (auc, *_), (auc_of_run, *_) = (
        robust_charts(told[0])["blur"], overview_charts(told[0])["plain"],
    )  # fmt: skip
    points = [(0.0, run["clean"]["auc"]), (3.0, run["ways"]["blur 3"]["auc"])]
    assert list(auc.series[0].points) == list(auc_of_run.series[0].points) == points
    assert [s.label for s in auc.series] == ["plain", "other"]
    assert [s.label for s in auc_of_run.series] == ["blur"]


def test_maps_are_compared_with_those_of_poorer_scans(told, cv):
    """Of the drawn nodules, against the case that was the nearest in the scan as it is."""
    metrics, page = told
    plain, other = (run["maps"] for run in metrics["runs"].values())
    assert plain == other and list(plain) == ["blur", "all"] and plain["blur"] == plain["all"]
    assert page.count("as scanned</figcaption>") == page.count("blur 3, overlap") == 6
    compared = Comparison({"plain": cv}, {}, [0, 1, 2], [Poorer("blur", 3)], torch.device("cpu"))
    pairs = compared.map_pairs(2)["plain"]
    assert len({pair.case_id for pair in pairs}) == 2
    for key in ("overlap", "correlation"):
        assert plain["all"][key] == pytest.approx(np.mean([getattr(p, key) for p in pairs]))
    nodules = {n.case_id: n for n in compared.cases}
    for pair in pairs:
        nodule = nodules[pair.case_id]
        scan = read_scan(nodule)
        network = network_of_run(cv / f"fold{nodule.fold}")
        support, _ = compared.parts["plain"][nodule.fold]
        probed = ProbedNetwork(network, support, LocalCam())
        worse = poorer_scan("blur", 3)(nodule, scan.volume)
        clean, poor = (
            crop_patch(volume, scan.center_ras_mm).intensity for volume in (scan.volume, worse)
        )
        _, embedding = probed.infer(clean[None])
        case = probed.nearest(embedding[0], nodule.patient_id)
        assert support.patient_id[case] != nodule.patient_id
        maps = [probed.maps(x, case)["similar"] for x in (clean, poor)]
        np.testing.assert_allclose(pair.poorer.values, maps[1], atol=1e-5)
        assert pair.overlap == pytest.approx(overlap_of_strongest(*maps), abs=0.02)
        assert not np.array_equal(pair.clean.intensity, pair.poorer.intensity)


def test_the_strongest_tenth_is_compared():
    """Against a loop over the voxels in the order of their strength."""
    random = np.random.default_rng(0)
    maps = [random.random((3, 8, 8)).astype(np.float32) ** 3 for _ in range(2)]
    tops = []
    for values in maps:
        order, held = sorted(np.ndindex(values.shape), key=lambda v: -values[v]), 0.0
        top = set()
        for voxel in order:
            held += float(values[voxel])
            top.add(voxel)
            if held >= 0.1 * values.sum():
                break
        tops.append(top)
    wanted = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert overlap_of_strongest(*maps) == pytest.approx(wanted)
    assert overlap_of_strongest(maps[0], np.zeros_like(maps[0])) == 0


def test_the_same_nodules_are_drawn_of_every_run(cv):
    compared = Comparison({"plain": cv}, {}, [0, 1, 2], [Poorer("blur", 3)], torch.device("cpu"))
    parts, cases = compared.parts["plain"], compared.cases
    few, again = (drawn_nodules(parts, cases, 3) for _ in range(2))
    assert [n.case_id for n in few] == [n.case_id for n in again] and len(few) == 3
    backwards = drawn_nodules(parts[::-1], cases, 3)
    assert [n.case_id for n in backwards] == [n.case_id for n in few]
    assert len(drawn_nodules(parts, cases, 10_000)) == sum(len(rows) for _, rows in parts)


def test_none_and_all_of_the_images_poor_are_the_ends_of_the_shares(told):
    run = told[0]["runs"]["plain"]
    assert run["mixed"]["0"] == run["clean"]
    assert run["mixed"]["100"] == run["ways"]["blur 3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "wanted runs as NAME=FOLDER"),
        (["a={cv}", "a={cv}"], "each name once"),
        (["a={cv}", "--operations", "fog"], "no degradation is called fog"),
        (["a={cv}", "--severities", "7"], "severities are 1 to 5, got 7"),
        (["a={cv}", "--folds", "0"], "wanted at least two folds"),
        (["a={cv}", "--folds", "0", "9"], "holds no fold 9"),
        (["a={cv}", "--maps", "-1"], "--maps must not be negative, got -1"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_sentence(cv, options, message, capsys):
    arguments = [option.format(cv=cv) for option in options]
    assert cli.main(["robust-eval", "--crossfit", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in " ".join(told.split()) and "Traceback" not in told


def test_a_run_of_other_nodules_is_not_compared(cv, tmp_path):
    """As many of them, so that no array would tell."""
    other = shutil.copytree(cv, tmp_path / "other")
    rows = load_columns(Predictions, other / "fold0" / "test.npz")
    save_columns(rows[np.arange(len(rows))[::-1]], other / "fold0" / "test.npz")
    runs = {"plain": cv, "other": other}
    compared = Comparison(runs, {}, [0, 1, 2], [Poorer("blur", 3)], torch.device("cpu"))
    with pytest.raises(InputError, match="other is of other nodules than the first run"):
        compared.metrics((100,), None)


@pytest.fixture(scope="module")
def fitted(made_run, cv, told, tmp_path_factory):
    """A bundle without a detector, and the same with one."""
    out = tmp_path_factory.mktemp("bundles")
    (out / "robust.json").write_text(json.dumps(told[0]))
    Export(made_run.folders, made_run.runs / "all", cv, out / "before", device="cpu").run()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality_fit, "DEGRADATIONS", ("blur", "low_dose"))
        options = QualityFit(
            out / "before", made_run.folders[1:], cv, out / "after", rows=out / "rows",
            version="2", robust_json=out / "robust.json", json=out / "q.json", device="cpu",
        )  # fmt: skip
        options.run()
    return options


@pytest.fixture(scope="module")
def trial(fitted):
    """The rows that the detectors were fitted to, and their trial."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality_fit, "DEGRADATIONS", ("blur", "low_dose"))
        rows = fitted._rows()
        return rows, fitted._trial(load_bundle(fitted.bundle).info, rows, FOLDS, None)


def test_a_bundle_with_a_detector_says_what_is_poor_and_keeps_the_rest(fitted, trial):
    before, after = load_bundle(fitted.bundle), load_bundle(fitted.out)
    assert before.info.limits.detector is None and after.info.version == "2"
    assert [poor.kind for poor in after.info.limits.detector.kinds] == list(KINDS)
    assert after.info.limits.detector == fit_detector(learnt_from(trial[0]))
    plain = replace(after.info.limits, detector=None, poor_verdicts=())
    assert plain == before.info.limits
    np.testing.assert_array_equal(after.library.embedding, before.library.embedding)
    assert (
        after.info.metrics["image_quality"]["printed_by"] == "contrastdiagnosis-train quality-fit"
    )


def test_the_card_tells_what_is_told_and_what_poorer_scans_do(fitted, told):
    """Cells as they stand in the files; no column for what is no label rule."""
    after = load_bundle(fitted.out)
    card = (fitted.out / "MODEL_CARD.md").read_text()
    assert f"verdicts are those of the networks of {fitted.crossfit.name}" in card
    section = card[card.index("## Poor images") : card.index("## Limits")]
    auroc = after.info.metrics["image_quality"]["auroc"]
    (blur,) = [row for row in auroc if (row["operation"], row["severity"]) == ("blur", 0)]
    kinds = " | ".join(f"{blur[kind]:.3f}" for kind in KINDS)
    assert f"| blur | {blur['n']} | {kinds} |" in section
    for worth in after.info.limits.poor_verdicts:
        assert f"| {worth.kind} " in section and f"| {worth.missed:.3f} |" in section
    figures = told[0]["runs"]["plain"]["ways"]["blur 3"]
    assert f"| plain | blur 3 | {figures['auc']:.3f} | {figures['auc_diameter']:.3f} |" in section
    assert after.info.metrics["robustness"] == told[0]
    assert "| figure | paper | exclude3 | band |" in card
    assert "## Poor images" not in (fitted.bundle / "MODEL_CARD.md").read_text()


def test_confidence_is_told_by_the_rule_that_ships_now(fitted):
    """By detectors and verdicts of other patients; what was told before is by another rule."""
    told = load_bundle(fitted.out).info.metrics["confidence"]
    assert told["printed_by"] == "contrastdiagnosis-train quality-fit"
    assert "poor images as of detectors and verdicts of other folds" in told["rule"]
    assert "the gate and the concepts of size" in told["rule"]
    (clean,) = [
        row for row in json.loads(fitted.json.read_text())["confident"] if row["severity"] == 0
    ]
    assert told["confident"]["share"] == pytest.approx(clean["confident"])


def test_each_fold_is_judged_by_detectors_without_its_patients(trial):
    rows, tried = trial
    for (_, nodules), limits, fold in zip(tried.parts, tried.aware, FOLDS, strict=True):
        own = np.isin(rows.patient_id, nodules.patient_id)
        kept = rows[~own & (rows.fold >= 0)]
        assert own.any() and limits.detector == fit_detector(kept)
        assert limits.poor_verdicts == fit_poor_verdicts(tried.told, without=fold)


def test_images_with_several_faults_stand_apart(trial):
    """Each image under the kind that is told of it, or under several where more are."""
    _, tried = trial
    for n, fold in enumerate(FOLDS):
        counts: Counter[str] = Counter()
        for way, parts in tried.poorer.items():
            assert way.severity >= 3
            for row in parts[n][1].facts:
                kinds = tried.aware[n].detector.told(facts_of_row(row).quality)
                counts.update([SEVERAL] if len(kinds) > 1 else kinds)
        for kind, by_fold in tried.told.items():
            verdicts = np.concatenate([v.missed for f, v in by_fold if f == fold])
            assert len(verdicts) == counts[kind], kind
        assert counts[SEVERAL]


@pytest.mark.parametrize("text", ['{"printed_by": "somebody"}', "[]"])
def test_only_what_robust_eval_wrote_goes_into_a_bundle(fitted, tmp_path, text):
    file = tmp_path / "robust.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"robust\.json: wanted what .* robust-eval --json wrote"):
        replace(fitted, robust_json=file, out=tmp_path / "no").run()
    assert not (tmp_path / "no").exists()


def test_its_tables_tell_before_and_now(fitted):
    tables = json.loads(fitted.json.read_text())
    ways = {(row["operation"], row["severity"]) for row in tables["confident"]}
    made = ("blur", "low_dose", "blur+low_dose")
    assert ways == {
        ("clean", 0),
        *((operation, severity) for operation in made for severity in (3, 5)),
    }
    for row in tables["confident"]:
        assert row["confident"] <= row["confident_before"]
    assert {row["operation"] for row in tables["auroc"]} >= {"blur", "low_dose"}


def test_what_was_measured_is_not_measured_again(fitted, monkeypatch):
    """Nor is it taken for what was measured of other images or in other ways."""
    rows = fitted._rows()
    calls = []

    def spy(places, *rest):
        calls.append(len(places))
        return measured(places, *rest)

    monkeypatch.setattr(quality_rows, "measured", spy)
    again = fitted._rows()
    assert calls == [] and again.clean.any()
    np.testing.assert_array_equal(again.measures, rows.measures)
    monkeypatch.setattr(quality_rows, "PART", 3)
    places = [p for f in fitted.cases for p in nodule_places(read_case_folder(f))][:4]
    measured_in_parts(places, ["blur"], [3], fitted.rows)
    assert calls == [3, 1]
    # Stopped after the first file: the second alone is missing.
    moved = replace(places[-1], point_ras_mm=places[-1].point_ras_mm + 1)
    both = measured_in_parts([*places[:-1], moved], ["blur"], [3], fitted.rows)
    assert calls == [3, 1, 1]
    whole = measured([*places[:-1], moved], ["blur"], [3])
    np.testing.assert_array_equal(both.measures, whole.measures)
    # Another image of the same name, made anew in its folder.
    volume = places[-1].volume
    other = replace(places[-1], volume=Volume(volume.hu[:, ::-1], volume.ijk_to_ras))
    measured_in_parts([*places[:-1], other], ["blur"], [3], fitted.rows)
    assert calls == [3, 1, 1, 1]


def test_one_fold_cannot_be_calibrated(fitted, cv, tmp_path):
    shutil.copytree(cv / "fold0", tmp_path / "cv" / "fold0")
    with pytest.raises(InputError, match="wanted at least two folds"):
        replace(fitted, crossfit=tmp_path / "cv", out=tmp_path / "no").run()
    assert not (tmp_path / "no").exists()


def slow_sure_from(probability, wrong):
    """Every probability tried, one after the other."""
    fits = [1.0]
    for cut in probability:
        beyond = probability >= cut
        if cut > 0.5 and beyond.sum() >= LEAST and wrong[beyond].mean() <= WRONG:
            fits.append(cut)
    return min(fits)


@pytest.mark.parametrize("seed", range(5))
def test_sure_verdicts_begin_where_few_are_wrong(seed):
    random = np.random.default_rng(seed)
    probability = random.uniform(0.3, 1, 400)
    wrong = random.random(400) < 0.4 * (1 - probability) ** (1 + seed)
    assert sure_from(probability, wrong) == pytest.approx(slow_sure_from(probability, wrong))
    assert sure_from(probability[: LEAST - 1], wrong[: LEAST - 1] & False) == 1.0


def test_both_signs_have_their_own_border_and_a_fold_can_be_left_out():
    probability = np.r_[np.linspace(0.01, 0.49, 200), np.linspace(0.51, 0.99, 200)]
    malignant = np.r_[np.zeros(200, bool), np.linspace(0.51, 0.99, 200) > 0.8]
    told = {
        "noise": [(0, Verdicts(probability, malignant)), (2, Verdicts(probability, ~malignant))]
    }
    (worth,) = fit_poor_verdicts(told, without=2)
    assert worth.kind == "noise" and worth.low == pytest.approx(0.49, abs=0.01)
    assert 0.7 < worth.high <= 0.8
    assert worth.bands[-1] == (0.8, 1.0, 0.0) and [b.wrong for b in worth.bands[-3:-1]] == [1, 1]
    assert worth.bands[0] == (0.0, 0.2, 0.0) and worth.bands[-3].low == 0.5
    (odd,) = fit_poor_verdicts(told, without=0)
    assert odd.low < 0.1
    assert (
        fit_poor_verdicts({"noise": [], "blur": [(0, Verdicts(probability[:0], malignant[:0]))]})
        == ()
    )
    assert isinstance(worth, PoorVerdicts)


def test_how_many_nodules_are_missed_is_told_by_kind_and_without_a_fold():
    probability, malignant = np.linspace(0, 1, 10), np.arange(10) > 4
    missed = np.arange(20) < 5
    told = {
        "noise": [
            (0, Verdicts(probability, malignant, missed)),
            (2, Verdicts(probability, malignant, ~missed)),
        ],
        "blur": [(0, Verdicts(probability, malignant))],
    }
    both, unknown = fit_poor_verdicts(told)
    assert (both.missed, unknown.missed) == (0.5, None)
    assert fit_poor_verdicts(told, without=2)[0].missed == 0.25


def test_how_many_sure_verdicts_are_wrong_is_told_by_the_borders_of_other_folds():
    """A fold whose verdicts are all wrong is not what its own border is chosen by."""
    probability = np.r_[np.linspace(0.01, 0.49, 200), np.linspace(0.51, 0.99, 200)]
    right = Verdicts(probability, probability > 0.5)
    told = {"noise": [(0, right), (2, turned(right))], "blur": [(0, right)]}
    noise, blur = verdict_table(told, fit_poor_verdicts(told))
    assert noise["n_sure"] == noise["n_unsure"] == 400  # Fold 2 by fold 0's, and the other way.
    assert (noise["wrong_sure"], noise["wrong_unsure"]) == (1.0, 0.0)
    assert blur["n_sure"] == blur["n_unsure"] == 0 and blur["wrong_sure"] is None


def test_bands_are_of_enough_verdicts_and_leave_none_out():
    random = np.random.default_rng(1)
    probability = np.r_[random.uniform(0, 0.3, 500), random.uniform(0.3, 1, 90)]
    malignant = random.random(590) < probability
    bands = bands_of(probability, malignant)
    assert bands[0].low == 0 and bands[-1].high == 1
    assert all(a.high == b.low for a, b in pairwise(bands))
    for low, high, wrong in bands:
        at_half = 1e-9 if low == 0.5 else 0.0  # One half itself is benign.
        mine = (probability >= low + at_half) & (probability <= high)
        assert mine.sum() >= LEAST or len(bands) == 2
        verdict = malignant if high <= 0.5 else ~malignant
        assert wrong == pytest.approx(verdict[mine].mean(), abs=1e-4)
    assert bands_of(probability[:0], malignant[:0]) == ()


def test_a_calibration_of_their_own_is_tried_on_other_folds():
    """Probabilities that are too sure gain by it, and those that are right do not."""
    random = np.random.default_rng(0)
    told = {"noise": [], "blur": [], "motion": [], "thick slices": [(0, verdicts_of(random, 1, 9))]}
    for fold in range(4):
        told["noise"].append((fold, verdicts_of(random, 3, 300)))
        told["blur"].append((fold, verdicts_of(random, 1, 300)))
    noise, blur = recalibration_table(told)
    assert (noise["kind"], noise["n"], blur["kind"]) == ("noise", 1200, "blur")
    assert noise["brier_own"] < noise["brier"] - 0.02
    assert noise["ece"] > 3 * noise["ece_expected"] > noise["ece_own"]
    assert blur["brier_own"] == pytest.approx(blur["brier"], abs=0.003)
    # The fold that is asked does not tell how.
    odd = {"noise": [(0, verdicts_of(random, 1, 300)), (1, turned(verdicts_of(random, 1, 300)))]}
    (row,) = recalibration_table(odd)
    assert row["brier_own"] > row["brier"] + 0.1


def verdicts_of(random, too_sure, n):
    """Labels by true probabilities, told with log odds that are too large."""
    true = random.uniform(0.05, 0.95, n)
    odds = too_sure * np.log(true / (1 - true))
    return Verdicts(1 / (1 + np.exp(-odds)), random.random(n) < true)


def turned(verdicts):
    return verdicts._replace(malignant=~verdicts.malignant)
