"""Supervised classifiers to compare with: trained, asked, told beside ours."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.peer import Peer
from contrastdiagnosis_training.commands.robust_eval import RobustEval
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.splits import split_by_patient
from contrastdiagnosis_training.evaluation.robustness.degraded import poorer_scan
from contrastdiagnosis_training.evaluation.robustness.peer_figures import peer_figures
from contrastdiagnosis_training.peers import recipe as recipes
from contrastdiagnosis_training.peers.predictions import (
    PeerPredictions,
    peer_of_run,
    predict_peer,
)
from contrastdiagnosis_training.peers.recipe import ARCHITECTURES, PeerRecipe, peer_network
from contrastdiagnosis_training.peers.trainer import PeerTrainer
from contrastdiagnosis_training.runs.fabric import make_fabric
from contrastdiagnosis_training.runs.run_folder import MODEL, SETTINGS, network_of_run
from monai.networks.nets import DenseNet
from sklearn.metrics import cohen_kappa_score, roc_auc_score

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_peer_is_monais_and_reads_a_patch_of_any_batch(name):
    peer = peer_network(name)
    assert type(peer).__module__.startswith("monai.networks.nets")
    with torch.inference_mode():
        assert peer.eval()(torch.rand(2, 1, 32, 64, 64)).shape == (2, 1)


@pytest.fixture(scope="module", autouse=True)
def small():
    """MONAI's own DenseNet with few features, by the name of the large one."""
    with pytest.MonkeyPatch.context() as patched:
        few = partial(
            DenseNet, spatial_dims=3, in_channels=1, out_channels=1, init_features=8,
            growth_rate=4, block_config=(1, 1), bn_size=1,
        )  # fmt: skip
        patched.setitem(recipes.ARCHITECTURES, "resnet18", few)
        yield


def trainer(store, folder, **changes):
    recipe = replace(PeerRecipe("resnet18", epochs=3, batch=8), **changes)
    split = split_by_patient(store.nodules, 0, 0)
    return PeerTrainer(store, split, recipe, make_fabric("cpu", 1, folder), 0)


def test_it_learns_the_readers_mean(store, tmp_path):
    """Balls: the malignant ones are larger; a few steps tell them apart."""
    peer = trainer(store, tmp_path, epochs=12, learning_rate=1e-2, average=0.5)
    losses = [peer.run_epoch()["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.05 and peer.at_cycle_end
    assert peer.validate()["val_auc"] > 0.8


def test_what_no_reader_rated_teaches_nothing(store, tmp_path):
    unknown = replace(store, malignancy=torch.full_like(store.malignancy, torch.nan))
    peer = trainer(store, tmp_path)
    peer.target = trainer_target(unknown)
    before = peer.network.module.state_dict()["features.conv0.weight"].clone()
    # Weight decay alone moves it.
    peer.optimizer.param_groups[0]["weight_decay"] = 0.0
    assert peer.run_epoch()["loss"] == 0
    torch.testing.assert_close(
        before, peer.network.module.state_dict()["features.conv0.weight"], rtol=0, atol=0
    )


def trainer_target(store):
    return (store.malignancy.float() - 1) / 4


def test_a_stopped_run_goes_on_to_the_same_weights(store, tmp_path):
    whole = trainer(store, tmp_path / "a")
    for _ in range(3):
        whole.run_epoch()
    first, second = trainer(store, tmp_path / "b"), trainer(store, tmp_path / "c")
    first.run_epoch()
    second.restore(first.state())
    second.run_epoch()
    second.run_epoch()
    assert second.epoch == 3 and second.at_cycle_end
    for a, b in zip(
        whole.trained.state_dict().values(), second.trained.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture(scope="module")
def peers(made_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("peers") / "resnet"
    Peer(
        made_run.folders, out, "resnet18", epochs=1, change=("batch=8",), device="cpu",
        cache=made_run.cache,
    ).run()  # fmt: skip
    return out


def test_each_fold_is_asked_of_its_unseen_nodules(made_run, peers):
    for fold in range(3):
        told = load_columns(PeerPredictions, peers / f"fold{fold}" / "test.npz")
        nodules = {n.case_id: n for n in read_case_folder(made_run.folders[0])}
        wanted = [n for n in nodules.values() if n.fold == fold]
        assert set(told.case_id.tolist()) == {n.case_id for n in wanted}
        assert ((told.probability > 0) & (told.probability < 1)).all()


def test_what_it_says_is_the_mean_over_patch_and_mirror(made_run, peers):
    nodule = read_case_folder(made_run.folders[0])[5]
    peer = peer_of_run(peers / "fold0")
    change = poorer_scan("blur", 5)
    scan = read_scan(nodule)
    patch = crop_patch(change(nodule, scan.volume), scan.center_ras_mm).intensity
    with torch.inference_mode():
        logits = [
            float(peer(torch.from_numpy(np.ascontiguousarray(x))[None, None]))
            for x in (patch, patch[..., ::-1])
        ]
    (said,) = predict_peer(peer, [nodule], CPU, change).probability
    assert said == pytest.approx(1 / (1 + np.exp(-np.mean(logits))), abs=1e-5)
    (plain,) = predict_peer(peer, [nodule], CPU).probability
    assert plain != said


def test_what_is_there_is_not_made_again(made_run, peers):
    before = {f: f.stat().st_mtime_ns for f in peers.rglob("*.npz")}
    weights = {f: f.stat().st_mtime_ns for f in peers.rglob(MODEL)}
    options = ("batch=8",)
    again = Peer(
        made_run.folders, peers, "resnet18", epochs=1, change=options, cache=made_run.cache
    )
    again.run()
    assert before == {f: f.stat().st_mtime_ns for f in before} and len(weights) == 3
    with pytest.raises(InputError, match="holds a run with another recipe"):
        replace(again, epochs=2).run()


def test_peers_stand_beside_our_runs(made_run, peers, tmp_path, few_draws):
    cv = shutil.copytree(made_run.runs / "cv", tmp_path / "cv")
    own = shutil.copytree(peers, tmp_path / "peers")
    RobustEval(
        (f"ours={cv}",), peers=(f"resnet={own}",), operations=("blur",), severities=(3,),
        shares=(0, 100), json=tmp_path / "f.json", html=tmp_path / "f.html", device="cpu",
    ).run()  # fmt: skip
    told = json.loads((tmp_path / "f.json").read_text())["runs"]
    ours, peer = told["ours"], told["resnet"]
    assert peer["clean"]["n"] == ours["clean"]["n"]
    assert peer["clean"]["auc_diameter"] == ours["clean"]["auc_diameter"]
    assert peer["clean"]["dice"] is None and peer["wrong_at_worst"] is None
    assert peer["mixed"]["0"] == peer["clean"]
    assert peer["mixed"]["100"] == peer["ways"]["blur 3"]
    gain = peer["clean"]["auc"] - ours["clean"]["auc"]
    assert peer["gain"]["auc"] == pytest.approx(gain)
    page = (tmp_path / "f.html").read_text()
    assert "resnet" in page and "nan" not in page.lower().replace("nance", "")


def made_up(seed, n=60):
    random = np.random.default_rng(seed)
    malignancy = random.choice([1, 2, 2.5, 3, 4, 5, np.nan], n)
    probability = random.random(n)
    text = np.array([f"c{i}" for i in range(n)])
    return PeerPredictions(text, text, malignancy, probability)


def test_the_figures_equal_the_loops():
    clean, poorer = made_up(0), replace(made_up(0), probability=made_up(1).probability)
    diameter = np.random.default_rng(2).random(60)
    told = peer_figures([clean], [poorer], diameter)
    rows = [
        (p, m > 3, d)
        for p, m, d in zip(poorer.probability, poorer.malignancy, diameter, strict=True)
        if np.isfinite(m) and m != 3
    ]
    score, truth, size = zip(*rows, strict=True)
    assert told.n == len(rows)
    assert told.auc == pytest.approx(roc_auc_score(truth, score))
    assert told.auc_diameter == pytest.approx(roc_auc_score(truth, size))
    assert told.accuracy == pytest.approx(np.mean([(p > 0.5) == t for p, t, _ in rows]))
    rated = np.isfinite(poorer.malignancy)
    levels = [
        np.rint(x[rated]).astype(int) for x in (1 + 4 * poorer.probability, poorer.malignancy)
    ]
    assert told.kappa == pytest.approx(cohen_kappa_score(*levels, weights="quadratic"))
    change = poorer.probability - clean.probability
    assert told.shift == pytest.approx(change.mean())
    assert told.change == pytest.approx(np.abs(change).mean())
    assert np.isnan([told.dice, told.overlap, told.confident, told.confident_wrong]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "a"], "wanted runs as NAME=FOLDER"),
        (["--peers", "ours={peers}"], "wanted each name once, got ours"),
        (["--peers", "a={cv}"], "fold0/test.npz is no table of PeerPredictions: it lacks prob"),
        (
            ["--peers", "a=/nowhere"],
            "/nowhere holds no fold 0; fill it by contrastdiagnosis-train p",
        ),
    ],
)
def test_peers_that_cannot_be_compared_are_told(made_run, peers, options, message, capsys):
    cv = made_run.runs / "cv"
    told = [option.format(cv=cv, peers=peers) for option in options]
    common = ["--operations", "blur", "--severities", "3", "--device", "cpu"]
    assert cli.main(["robust-eval", "--crossfit", f"ours={cv}", *common, *told]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Traceback" not in said


def test_a_peer_is_no_network_of_ours_and_ours_no_peer(made_run, peers, capsys):
    with pytest.raises(InputError, match="holds a peer, no network of ours; it goes with --peers"):
        network_of_run(peers / "fold0")
    with pytest.raises(InputError, match="holds no peer; contrastdiagnosis-train peer makes one"):
        peer_of_run(made_run.runs / "cv" / "fold0")
    with pytest.raises(InputError, match="holds no finished peer"):
        peer_of_run(made_run.runs)
    assert cli.main(["evaluate", "--crossfit", str(peers)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "fold0/train.npz is not there" in said and "Traceback" not in said


def test_what_cannot_be_trained_is_told(made_run, tmp_path):
    with pytest.raises(InputError, match="architecture must be of densenet121, resnet18, got vgg"):
        PeerRecipe("vgg")
    with pytest.raises(InputError, match="epochs must be at least 1, got 0"):
        PeerRecipe(epochs=0)
    assert not (tmp_path / SETTINGS).exists()
