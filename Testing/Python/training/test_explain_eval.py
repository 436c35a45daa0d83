"""explain-eval: of a cross-fit run and of a bundle, on made nodules; what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from contrastdiagnosis.maps.distance_parts import patch_statistics
from contrastdiagnosis.maps.local_cam import pair_maps
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.protocol.map_variant import LocalCam
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.explain_eval import ExplainEval
from contrastdiagnosis_training.commands.export import Export
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.evaluation.maps.faithfulness import SHARES
from contrastdiagnosis_training.evaluation.maps.measure import Measure, of_records
from contrastdiagnosis_training.evaluation.maps.pair_parts import pair_parts, parts_lines
from contrastdiagnosis_training.evaluation.maps.probe import (
    ProbedNetwork,
    off_centre_mm,
    probe_nodule,
)
from contrastdiagnosis_training.evaluation.maps.report import table, target_rows
from contrastdiagnosis_training.evaluation.support_vote import SupportVote
from contrastdiagnosis_training.evaluation.unseen import unseen_of_bundle

from training.conftest import TINY

CONTROLS = ("map", "gaussian", "mask", "random")


pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def folder(made_run):
    return made_run.folders[0]


@pytest.fixture(scope="module")
def runs(made_run):
    return made_run.runs


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def bundle_folder(runs, made_run, out):
    Export(made_run.folders, runs / "all", runs / "cv", out / "bundle", device="cpu").run()
    return out / "bundle"


@pytest.fixture(scope="module")
def shuffled(made_run, out):
    """A fold whose labels were drawn anew."""
    options = Fit(made_run.folders, out / "shuffled", fold=0, device="cpu", cache=made_run.cache)
    train(options, replace(made_run.recipe, shuffle_labels=True))
    return options.out


@pytest.fixture(scope="module")
def evaluated(runs, folder, shuffled, out):
    files = out / "explain.json", out / "explain.html"
    arguments = ["--cases", folder, "--crossfit", runs / "cv", "--shuffled", shuffled]
    arguments += ["--nodules", 3, "--json", files[0], "--html", files[1], "--device", "cpu"]
    assert cli.main(["explain-eval", *map(str, arguments)]) == 0
    return json.loads(files[0].read_text()), files[1].read_text()


def assert_complete(metrics, maps, n):
    assert (metrics["n_maps"], metrics["n"]) == (maps, n)
    curves, told = of_records(metrics["curves"], "values"), of_records(metrics["maps"])
    for way in ("deletion", "insertion"):
        for score in ("distance", "vote", "raw distance"):
            for name in (*CONTROLS, "different"):
                for place in ("centred", "off-centre"):
                    assert len(curves[Measure(way, name, place, score)]) == len(SHARES)
    for kind in ("energy", "pointing"):
        for where in ("centred", "off-centre"):
            for name in CONTROLS:
                assert 0 <= told[Measure(kind, name, where)] <= 1
    compared = {(r["what"], r["score"], r["place"], r["over"]): r for r in metrics["against"]}
    row = compared["deletion", "vote", "centred", "gaussian"]
    assert row.keys() >= {"gain", "relative", "p"}
    assert 0 <= metrics["confidence"]["confident"]["share"] <= 1
    assert set(metrics["ratings"]) == {scale.name for scale in LIDC.scales[2:]}


def test_every_figure_of_the_cross_fit_run_is_there(evaluated):
    metrics, _ = evaluated
    assert_complete(metrics, maps=3, n=48)
    assert "fold 0, fold 1, fold 2 on stacks" in metrics["protocol"]
    for name in ("random weights", "random labels"):
        assert -1 <= of_records(metrics["maps"])[Measure("correlation", name)] <= 1
    for rating in metrics["ratings"].values():
        assert min(rating.values()) >= 0


def test_the_share_that_no_map_shows_is_that_of_the_explained_pairs(
    evaluated, bundle_folder, folder
):
    """Of two nodules the one pair there is, as the engine explains it."""
    for part in evaluated[0]["parts"].values():
        assert part["n"] > 0 and part["p5"] <= part["mean"] <= part["p95"]
        assert 0 <= part["below_0"] <= 1 and 0 <= part["above_1"] <= 1
    assert "size, density and outline" in evaluated[1]
    unseen = unseen_of_bundle(bundle_folder, read_case_folder(folder), torch.device("cpu"))
    other = next(
        n for n, p in enumerate(unseen.predictions.patient_id) if p != unseen.rows[0].patient_id
    )
    scans = [read_scan(unseen.rows[n]) for n in (0, other)]
    first, second = (
        torch.from_numpy(crop_patch(s.volume, s.center_ras_mm).intensity) for s in scans
    )
    z = torch.from_numpy(unseen.predictions.embedding[[other]])
    share = pair_maps(unseen.network, first, z, second[None], [0]).statistics_share.item()
    told = pair_parts([unseen], [[0, other]], torch.device("cpu"))
    assert told["all"]["n"] == 1 and told["all"]["sd"] == 0
    assert told["all"]["mean"] == pytest.approx(share, abs=1e-3)
    assert told["nearest"]["mean"] == pytest.approx(share, abs=1e-3)
    alone = pair_parts([unseen], [[0]], torch.device("cpu"))
    assert alone["all"]["n"] == alone["nearest"]["n"] == 0
    assert any(line.endswith(" -") for line in parts_lines(alone))


def test_an_exported_bundle_has_the_statistics_of_its_cases(bundle_folder, folder):
    bundle = load_bundle(bundle_folder)
    nodule = next(
        n for n in read_case_folder(folder) if n.case_id == bundle.library.cases[7].case_id
    )
    scan = read_scan(nodule)
    patch = crop_patch(scan.volume, scan.center_ras_mm).intensity
    ours = patch_statistics(bundle.network, patch[None], torch.device("cpu"))
    np.testing.assert_allclose(ours, bundle.library.statistics[[7]], atol=1e-3)


def test_curves_start_with_the_whole_patch_or_with_nothing(evaluated):
    curves = of_records(evaluated[0]["curves"], "values")
    for name in (*CONTROLS, "different"):
        deletion = Measure("deletion", name, score="distance")
        assert curves[deletion][0] == pytest.approx(1, abs=1e-6)
        assert curves[deletion._replace(what="insertion")][0] == pytest.approx(0, abs=1e-6)
        assert curves[deletion._replace(score="vote")][0] >= 0.5


def test_metrics_that_cannot_be_had_are_left_out_of_the_table(evaluated):
    """A folder of one reader a nodule tells no disagreement; one class tells no AUC."""
    metrics = json.loads(json.dumps(evaluated[0]))
    for rating in metrics["ratings"].values():
        rating["readers"] = None
    metrics["confidence"] |= {"auc_gap": None, "coverage": None}
    names = [row.name for row in target_rows(metrics)]
    assert not any("coverage" in n or "confident" in n for n in names)
    (ratings,) = (row for row in target_rows(metrics) if row.name.startswith("ratings"))
    assert "0 of 0 at the readers' own disagreement" in ratings.value
    assert not ratings.reached
    printed = table(metrics)
    assert not re.search(r"\bnan\b", printed)
    assert re.search(r"texture +\d\.\d+ +\d\.\d+ +-", printed)


def test_the_report_is_whole_and_self_contained(evaluated):
    metrics, html = evaluated
    parser = HTMLParser()
    tags = []
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    parser.feed(html)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe"}
    assert all(a["href"].startswith("data:image/png") for _, a in tags if "href" in a)
    assert html.count('class="chart"') == 6
    assert "Research use only" in html
    assert "Confidence by: vote, limits of the other folds" in unescape(html)
    for row in target_rows(metrics):
        assert row.value in unescape(html)


def test_the_bundle_is_judged_on_any_folder(bundle_folder, folder, tmp_path, capsys):
    file = tmp_path / "figures.json"
    arguments = ["--bundle", bundle_folder, "--cases", folder, "--nodules", 1, "--json", file]
    arguments += ["--map.levels", 4, 3, "--map.window-cells", 3, "--device", "cpu"]
    assert cli.main(["explain-eval", *map(str, arguments)]) == 0
    metrics = json.loads(file.read_text())
    assert_complete(metrics, maps=1, n=48)
    assert "48 are of patients it was made from: no held-out figure" in metrics["protocol"]
    assert metrics["variant"] == {
        "levels": [4, 3], "window_cells": 3, "rectified": True, "through_mask": False,
        "outside": 0.001,
    }  # fmt: skip
    printed = capsys.readouterr().out
    for text in ("deletion AUC on the distance", "pointing game, off-centre", "under shift"):
        assert text in printed


def test_the_same_seed_gives_the_same_metrics(runs, folder, tmp_path):
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        ExplainEval(
            folder, crossfit=runs / "cv", folds=(1,), nodules=1, json=file, device="cpu"
        ).run()
    assert files[0].read_text() == files[1].read_text()


class SeesBrightness(NoduleNet):
    """Its embedding is the brightness of the nodule: there is no evidence anywhere else."""

    def forward(self, intensity, pyramid=True):
        features = super().forward(intensity, pyramid)
        bright = torch.relu(intensity - 0.4).sum(dim=(2, 3, 4)) / 1000
        return features._replace(embedding=bright.expand(-1, self.config.embedding))


def test_a_map_of_the_evidence_beats_the_controls_where_the_truth_is_known(context_folder):
    """The probe's own maps are replaced by the truth, by a map that misses, and by nothing."""
    torch.manual_seed(0)
    network = SeesBrightness(TINY.network).eval().requires_grad_(False)
    nodule = read_case_folder(context_folder)[0]
    scan = read_scan(nodule)
    truth = np.maximum(crop_patch(scan.volume, scan.center_ras_mm).intensity - 0.4, 0)

    class Told(ProbedNetwork):
        def maps(self, intensity, case):
            found = np.maximum(intensity - 0.4, 0) if self.options.rectified else intensity * 0
            found[0, 0, 0] += not self.options.rectified
            return {"similar": found, "different": 1 - found}

    _, z = ProbedNetwork(network, None, LocalCam()).infer(truth[None] + 0.4)
    support = SupportVote(
        np.concatenate([z, 3 * z]), np.array(["A", "B"]), np.array([5.0, 1.0]), np.ones(2)
    )
    right, wrong = (
        probe_nodule(
            Told(network, support, LocalCam(rectified=r)), {}, scan, nodule.patient_id,
            np.random.default_rng(0),
        ).metrics
        for r in (True, False)
    )  # fmt: skip
    deletion = Measure("deletion", score="distance")
    assert right[deletion] < right[deletion._replace(of="gaussian")]
    assert right[deletion] < 0.5 * wrong[deletion]
    beside = deletion._replace(place="off-centre")
    assert right[beside] < 0.5 * right[beside._replace(of="gaussian")]
    insertion = deletion._replace(what="insertion")
    assert right[insertion] > wrong[insertion] + 0.3
    energy, pointing = (Measure(what, place="off-centre") for what in ("energy", "pointing"))
    assert right[energy] > 0.95 and right[pointing] == 1
    assert wrong[energy] < 0.05 and wrong[pointing] == 0
    assert right[energy._replace(of="gaussian")] < 0.3
    assert right[Measure("stability", "shift")] > 0.8


def test_off_centre_is_16_voxels_along_both_axes_of_the_plane():
    shifts = np.array([off_centre_mm(np.random.default_rng(n)) for n in range(40)])
    np.testing.assert_allclose(np.abs(shifts[:, :2]), 16 * DEFAULT_GEOMETRY.spacing_mm[2])
    assert not shifts[:, 2].any()
    assert len({tuple(s) for s in shifts.round(3).tolist()}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crossfit", "{cv}", "--bundle", "{bundle}"], "wanted --bundle or --crossfit, got both"),
        (["--crossfit", "{cv}", "--folds", "7"], r"holds the folds [0, 1, 2], got --folds [7]"),
        (["--crossfit", "{bundle}"], "holds no predictions"),
        (["--bundle", "{bundle}", "--nodules", "-1"], "must not be negative, got -1"),
        (["--bundle", "{bundle}", "--map.levels", "3", "5"], "levels must be of a1...a4"),
        (["--crossfit", "{cv}", "--shuffled", "{bundle}"], "holds no finished network"),
    ],
)
def test_mistakes_are_told_in_one_line(runs, bundle_folder, folder, capsys, arguments, message):
    places = {"cv": runs / "cv", "bundle": bundle_folder}
    given = [a.format(**places) for a in arguments]
    if "--map.levels" in given:
        with pytest.raises(SystemExit):
            cli.main(["explain-eval", "--cases", str(folder), *given])
    else:
        assert cli.main(["explain-eval", "--cases", str(folder), *given]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error


def test_a_folder_without_the_runs_nodules_is_refused(runs, context_folder, capsys):
    arguments = ["--cases", str(context_folder), "--crossfit", str(runs / "cv")]
    assert cli.main(["explain-eval", *arguments]) == 2
    assert "the case folder lacks" in capsys.readouterr().err
