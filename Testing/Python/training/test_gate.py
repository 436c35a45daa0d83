"""The gate: fitted so that few nodules are lost, judged without the patient that is asked about."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis.imaging.volume import sitk_from_array
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.cues import CUE_NAMES
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.commands import gate as commands_gate
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.gate import GateFit, _still_true
from contrastdiagnosis_training.data.columns import save_columns
from contrastdiagnosis_training.data.healthy_points import KINDS, lungs_of
from contrastdiagnosis_training.evaluation import gate
from contrastdiagnosis_training.evaluation.confidences import LEAST_COVERED_SHARE, limits_of
from contrastdiagnosis_training.evaluation.gate import (
    LOST,
    Answers,
    before_the_gate,
    confidences,
    fit_gate,
    fitted_limits,
    gate_table,
    joined,
    left_out_confidences,
    nodule_answers,
    read_answers,
)
from contrastdiagnosis_training.evaluation.metrics import crossfit_confidence, strict
from engine.conftest import write_tiny_bundle

from training.conftest import SOUND_FACTS, sound_facts, write_case_folder
from training.test_protocol import fold

RULE = (1.0, (0.35, 0.65))
"""Threshold and split vote."""


def answers(kind, count, source="made", first_patient=0, seed=0, through=0.2, certainty=2.5):
    """Rows that differ in their cues alone."""
    random = np.random.default_rng(seed)
    facts = sound_facts(count)
    facts[:, FACT_NAMES.index("through")] = random.normal(through, 0.15, count)
    facts[:, FACT_NAMES.index("certainty")] = random.normal(certainty, 0.3, count)
    return Answers(
        source=np.array([source] * count), kind=np.array([kind] * count),
        patient_id=np.array([f"{source}{first_patient + n // 4}" for n in range(count)]),
        whole=np.ones(count, bool), facts=facts, nearest=np.full(count, 0.5),
        probability=np.full(count, 0.9),
    )  # fmt: skip


@pytest.fixture
def nodules():
    return joined([answers("nodule", 200), answers("nodule", 120, "other", seed=1, through=0.4)])


@pytest.fixture
def tissue():
    vessels = [answers("vessel", 40, f"ct{n}", seed=10 + n, through=1.0) for n in range(4)]
    return joined([*vessels, answers("outside", 20, "ct0", seed=20, certainty=-3.0)])


def test_no_source_loses_more_than_the_share(nodules, tissue):
    fitted = fit_gate(nodules, tissue)
    cues = nodules.cues @ np.array(fitted.weights) + fitted.intercept
    for source in ("made", "other"):
        lost = (cues < fitted.threshold)[nodules.source == source].mean()
        assert lost <= LOST + 0.01
    vessels = tissue[tissue.kind == "vessel"]
    scores = vessels.cues @ np.array(fitted.weights) + fitted.intercept
    assert (scores < fitted.threshold).mean() > 0.8
    assert fitted.weights[CUE_NAMES.index("through")] < 0


def test_what_was_not_outlined_does_not_fit_and_far_tissue_neither(nodules, tissue):
    fitted = fit_gate(nodules, tissue)
    empty = answers("vessel", 5, "ct9")
    empty.facts[:, [FACT_NAMES.index(n) for n in CUE_NAMES]] = np.nan
    assert fit_gate(nodules, joined([tissue, empty])) == fitted
    far = answers("outside", 50, "ct8", through=0.0)
    assert fit_gate(nodules, joined([tissue, far])) == fitted
    with pytest.raises(InputError, match="outlined nodules and outlined normal tissue"):
        fit_gate(nodules, empty)


def test_no_point_is_judged_by_a_gate_of_its_own_patient(nodules, tissue, monkeypatch):
    everything = joined([nodules, tissue])
    seen = []
    whole = gate.fit_gate

    def spying(some_nodules, some_tissue):
        seen.append({*some_nodules.patient_id, *some_tissue.patient_id})
        return whole(some_nodules, some_tissue)

    asked = []
    support = gate.confidences

    def watching(some, *rest):
        asked.append(set(some.patient_id))
        return support(some, *rest)

    monkeypatch.setattr(gate, "fit_gate", spying)
    monkeypatch.setattr(gate, "confidences", watching)
    told = left_out_confidences(everything, CaseLimits(), *RULE)
    assert len(told) == len(everything) and len(seen) == len(asked) > 5
    for fitted_to, about in zip(seen, asked, strict=True):
        assert not fitted_to & about
    assert set.union(*asked) == set(everything.patient_id)


def test_the_table_counts(nodules, tissue):
    everything = joined([nodules, tissue])
    limits = CaseLimits(max_slice_mm=2.5, gate=fit_gate(nodules, tissue))
    after = confidences(everything, limits, *RULE)
    before = before_the_gate(everything, limits, *RULE)
    assert all(c.confident for c in before)
    rows = {row["points"]: row for row in gate_table(everything, before, after)}
    assert set(rows) == {"nodules of made", "nodules of other", "vessel", "outside"}
    mine = [c.judged for c, kind in zip(after, everything.kind, strict=True) if kind == "vessel"]
    assert rows["vessel"]["n"] == 160 and rows["vessel"]["verdict"] == pytest.approx(np.mean(mine))
    assert rows["vessel"]["confident_before"] == 1
    assert rows["vessel"]["no_nodule"] == pytest.approx(1 - np.mean(mine))
    assert rows["nodules of made"]["confident"] > 0.95
    thick = replace(everything, facts=everything.facts.copy())
    thick.facts[:200, FACT_NAMES.index("slice_mm")] = 5.0
    after = confidences(thick, limits, *RULE)
    rows = {row["points"]: row for row in gate_table(thick, before, after)}
    assert rows["nodules of made"]["confident"] == 0
    assert rows["nodules of made"]["confident_but_for_slices"] > 0.95
    assert "nodules of other, thin slices" not in rows


def test_limits_are_the_widest_of_the_sources():
    facts = np.tile(SOUND_FACTS.row, (1000, 1))
    column = FACT_NAMES.index
    facts[:, column("volume_mm3")] = np.linspace(10, 5000, 1000)
    facts[:, column("long_mm")] = np.linspace(3, 33, 1000)
    facts[:, column("lung_share")] = np.linspace(0.2, 1, 1000)
    facts[:, column("noise_hu")] = np.nan
    other = facts.copy()
    other[:, column("volume_mm3")] += 50
    other[:, column("long_mm")] += 2
    limits = limits_of(facts, other)
    smallest = np.quantile(facts[:, column("volume_mm3")], 0.005)
    longest = np.quantile(other[:, column("long_mm")], 0.995)
    assert limits.min_volume_mm3 == pytest.approx(smallest, abs=0.1)
    assert limits.max_diameter_mm == pytest.approx(longest, abs=0.1)
    # Files cut to a nodule's slices say nothing of how much of a scan is needed.
    assert limits.min_covered_share == LEAST_COVERED_SHARE
    assert limits.min_lung_share == pytest.approx(0.204, abs=1e-3)
    assert limits.max_noise_hu is None and limits.gate is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A bundle, nodules with and without surroundings, and a phantom for a CT."""
    root = tmp_path_factory.mktemp("gate")
    write_tiny_bundle(root / "bundle")
    write_case_folder(root / "stacks", patients=8)
    write_case_folder(root / "context", patients=4, context=True, seed=1)
    for n in range(2):
        volume = make_phantom(shape=(40, 150, 180), spacing_mm=(2.0, 1.9, 1.9), seed=n).volume
        for part, array in (("image", volume.hu), ("lungs", lungs_of(volume).astype(np.uint8))):
            (root / "cts" / part).mkdir(parents=True, exist_ok=True)
            image = sitk_from_array(array, volume.ijk_to_ras)
            sitk.WriteImage(image, str(root / "cts" / part / f"ct{n}.nii.gz"))
    (root / "cts" / "cts.csv").write_text(
        "file,source,lesion_boxes_lps_mm,healthy_crops\nct0.nii.gz,A,,yes\nct1.nii.gz,B,,yes\n"
    )
    return root


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def fitted(folders):
    options = ["--nodules", folders / "stacks", folders / "context", "--cts", folders / "cts"]
    options += ["--points", 4, "--device", "cpu", "--version", "2"]
    for number in range(3):
        (folders / "cv" / f"fold{number}").mkdir(parents=True)
        for role, told in fold(number).items():
            save_columns(told, folders / "cv" / f"fold{number}" / f"{role}.npz")
    options += ["--crossfit", folders / "cv", "--answers", folders / "answers.npz"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gate, "LIKE_NODULES", KINDS)  # The tiny network outlines whatever is dense.
        code = run("gate-fit", "--bundle", folders / "bundle", "--out", folders / "gated", *options)
    assert code == 0
    return load_bundle(folders / "gated")


def test_a_fit_that_was_stopped_goes_on(folders, fitted, tmp_path, monkeypatch):
    """What was asked is not asked again; of another bundle it is."""
    asked = []

    def spied(name, stop=False):
        ask = getattr(commands_gate, f"{name}_answers")

        def spy(diagnoser, told, *rest):
            asked.append(name)
            if stop:
                raise KeyboardInterrupt
            return ask(diagnoser, told, *rest)

        return spy

    for name in ("nodule", "tissue"):
        monkeypatch.setattr(commands_gate, f"{name}_answers", spied(name, stop=name == "tissue"))
    monkeypatch.setattr(gate, "LIKE_NODULES", KINDS)
    options = GateFit(
        folders / "bundle", (folders / "stacks", folders / "context"), (folders / "cts",),
        tmp_path / "gated", answers=tmp_path / "answers.npz", points=4, device="cpu",
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        options.run()
    assert asked == ["nodule", "nodule", "tissue"] and not options.out.exists()
    assert len(list((tmp_path / "answers.npz.parts").iterdir())) == 2
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        replace(options, bundle=folders / "gated").run()
    assert asked == ["nodule", "nodule", "tissue"]
    asked.clear()
    monkeypatch.undo()
    monkeypatch.setattr(gate, "LIKE_NODULES", KINDS)
    monkeypatch.setattr(commands_gate, "nodule_answers", spied("nodule"))
    options.run()
    assert asked == [] and sorted(os.listdir(tmp_path)) == ["answers.npz", "gated"]
    kept, whole = (read_answers(f / "answers.npz") for f in (tmp_path, folders))
    for column in fields(kept):
        np.testing.assert_array_equal(getattr(kept, column.name), getattr(whole, column.name))
    assert load_bundle(options.out).info.limits == fitted.info.limits


def test_the_bundle_is_the_same_but_for_its_limits(folders, fitted):
    plain = load_bundle(folders / "bundle")
    assert fitted.info.version == "2" and fitted.info.limits.gate is not None
    assert fitted.info.limits.max_slice_mm == pytest.approx(1.25)
    for name in ("vote", "calibration", "concepts", "network", "split_vote"):
        assert getattr(fitted.info, name) == getattr(plain.info, name)
    np.testing.assert_array_equal(fitted.library.embedding, plain.library.embedding)
    for name in ("model.safetensors", "concepts.safetensors", "cases.csv", "atlas.csv"):
        before, after = (folders / f / name for f in ("bundle", "gated"))
        assert before.read_bytes() == after.read_bytes()
    table = fitted.info.metrics["gate"]["table"]
    assert {row["points"] for row in table} >= {"nodules of stacks", "nodules of context", "vessel"}
    card = (folders / "gated" / "MODEL_CARD.md").read_text()
    assert "## What is not judged" in card and "nodules of context" in card
    assert "cues of vessels and other normal tissue (gate)" in card


def test_metrics_of_confidence_do_not_outlive_their_rule():
    old = {"n": 3, "confidence": {"n": 3}, "confident_share": 0.8, "unsure_accuracy": 0.7}
    assert _still_true(old) == {"n": 3}


def test_the_card_tells_what_confidence_is_worth_by_the_new_rule(folders, fitted, monkeypatch):
    monkeypatch.setattr(gate, "LIKE_NODULES", KINDS)  # As in `fitted`.
    told = fitted.info.metrics["confidence"]
    kept = read_answers(folders / "answers.npz")
    assert fitted_limits(kept) == fitted.info.limits
    vote, interval = fitted.info.vote.form, fitted.info.similarity_interval
    again = strict(crossfit_confidence(folders / "cv", vote, interval, kept))
    source = "contrastdiagnosis-train gate-fit --crossfit"
    assert told == json.loads(json.dumps(again)) | {"printed_by": source}
    card = (folders / "gated" / "MODEL_CARD.md").read_text()
    for name in ("confident", "doubtful", "no verdict"):
        row = told[name.replace(" ", "_")]
        assert f"| {name} | {row['n']} | {row['share']:.3f} |" in card
    assert f"Printed by `{source}`." in card


def test_concepts_without_a_run_are_refused(folders, capsys):
    options = ["--nodules", folders / "stacks", "--cts", folders / "cts", "--out", folders / "x"]
    assert run("gate-fit", "--bundle", folders / "bundle", *options, "--concepts", folders) == 2
    assert "--concepts goes with --crossfit" in capsys.readouterr().err


def test_absent_answers_are_told(tmp_path):
    with pytest.raises(InputError, match="is missing; contrastdiagnosis-train gate-fit --answers"):
        read_answers(tmp_path / "answers.npz")
    assert read_answers(None) is None


def test_any_bundle_can_be_put_on_trial(folders, fitted, capsys, tmp_path):
    file = tmp_path / "gate.json"
    options = ["--nodules", folders / "context", "--cts", folders / "cts", "--points", 2]
    options += ["--json", file, "--device", "cpu"]
    assert run("gate-eval", "--bundle", folders / "gated", *options) == 0
    rows = json.loads(file.read_text())["table"]
    assert rows[0]["points"] == "nodules of context" and rows[0]["n"] == 16
    assert "nodules of context" in capsys.readouterr().out
    assert {row["points"] for row in rows} <= {"nodules of context", *KINDS}


def test_nodules_of_few_readers_or_of_known_patients_can_be_left_out(folders, capsys):
    options = ["--bundle", folders / "bundle", "--nodules", folders / "context", "--device", "cpu"]
    assert run("gate-eval", *options, "--readers", 5) == 2
    assert "there is no point to ask about" in capsys.readouterr().err
    assert run("gate-eval", *options, "--readers", 4, "--unseen") == 0
    assert "nodules of context" in capsys.readouterr().out


def test_nothing_to_ask_is_told(folders, capsys):
    assert run("gate-eval", "--bundle", folders / "bundle", "--device", "cpu") == 2
    assert "there is no point to ask about" in capsys.readouterr().err


def test_clicks_beside_a_nodule_are_asked_where_surroundings_are_shown(folders):
    diagnoser = Diagnoser(load_bundle(folders / "bundle"), "cpu")
    for name, whole, clicks in (("stacks", False, 1), ("context", True, 2)):
        rows = read_case_folder(folders / name)[:3]
        told = nodule_answers(diagnoser, rows)
        assert len(told) == 3 * clicks and (told.whole == whole).all()
        assert set(told.kind) == {"nodule"} and set(told.source) == {name}
    assert [f.name for f in fields(told)][-1] == "probability"
