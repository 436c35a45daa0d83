"""`Trainer` and `fit`: schedule, checkpoints, interruption (docs/methods.md 7.7: B5)."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.model.weights import load_network
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.data.splits import split_by_patient
from contrastdiagnosis_training.data.views import paired_views
from contrastdiagnosis_training.network import trainer as trainer_module
from contrastdiagnosis_training.network.recipe import PAPER, RECIPES
from contrastdiagnosis_training.network.trainer import Trainer, split_features
from contrastdiagnosis_training.runs import loop
from contrastdiagnosis_training.runs.run_folder import CHECKPOINT, LOG, MODEL, SETTINGS
from engine.killing import kills
from lightning.fabric import Fabric
from torch.testing import assert_close

from training.conftest import TINY, TINY_PAPER

RECIPE = replace(TINY, epochs=3, validate_every=2)
JOINT = replace(TINY, concept_weight=1.0, mask_epochs=0)


@pytest.fixture
def make(store):
    """A trainer of fold 0."""

    def trainer(recipe=TINY, seed=0, fold=0):
        fabric = Fabric(accelerator="cpu", devices=1)
        return Trainer(store, split_by_patient(store.nodules, fold, seed), recipe, fabric, seed)

    return trainer


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def rates(trainer, epochs):
    """Learning rate at the start of every epoch."""
    found = []
    for _ in range(epochs):
        found.append(trainer.optimizer.param_groups[0]["lr"])
        for _ in range(trainer.steps):
            trainer.optimizer.step()
            trainer.schedule.step()
    return np.array(found)


def test_b5_the_paper_recipe_restarts_at_epochs_10_30_and_70(make):
    recipe = replace(PAPER, network=TINY_PAPER.network)
    rate = rates(make(recipe), 72)
    assert rate[0] == pytest.approx(1e-3)
    assert np.flatnonzero(np.diff(rate) > 0).tolist() == [9, 29, 69]
    assert rate[[10, 30, 70]] == pytest.approx(1e-3)
    # Half a cycle after a restart the cosine has come half down.
    assert rate[[5, 20, 50]] == pytest.approx(5e-4)


def test_b5_the_published_run_ends_with_a_cycle_and_keeps_weights_at_cycle_ends(make):
    trainer = make(replace(PAPER, network=TINY_PAPER.network))
    ends = []
    for epoch in range(1, trainer.recipe.epochs + 1):
        trainer.epoch = epoch
        ends += [epoch] * trainer.at_cycle_end
    assert ends == [10, 30, 70, 150]


def test_the_default_schedule_comes_down_once(make):
    trainer = make(replace(TINY, epochs=20))
    rate = rates(trainer, 20)
    assert rate.argmax() == 1
    assert (np.diff(rate[1:]) < 0).all()
    assert rate[-1] < 0.05 * TINY.learning_rate


@pytest.mark.parametrize("total", [1, 2, 5, 19, 20, 21, 40])
def test_runs_of_a_few_steps_have_a_schedule_too(make, total):
    """20 steps among them, where a warm-up of 5 % is a single step."""
    trainer = make(replace(TINY, epochs=total, batch=120))
    assert trainer.steps == 1
    rate = rates(trainer, total)
    assert np.isfinite(rate).all() and (rate > 0).all()


@pytest.mark.parametrize("recipe", [TINY, TINY_PAPER], ids=["default", "paper"])
def test_two_epochs_give_finite_losses_and_change_every_weight(make, recipe):
    trainer = make(recipe)
    before = weights(trainer.network.module)
    first, second = trainer.run_epoch(), trainer.run_epoch()
    terms = {"mask", "contrast", "vote", "ratings"} if recipe is TINY else {"mask", "contrast"}
    assert set(first) == ({"mask"} if recipe is TINY else terms)
    assert set(second) == terms
    assert np.isfinite([*first.values(), *second.values()]).all()
    after = weights(trainer.network.module)
    assert all(value.isfinite().all() for value in after.values())
    assert not [name for name in after if torch.equal(after[name], before[name])]
    assert trainer.epoch == 2


@pytest.mark.parametrize("recipe", [TINY, TINY_PAPER, JOINT], ids=["default", "paper", "joint"])
def test_a_restored_trainer_goes_on_bit_for_bit(make, recipe):
    first = make(recipe)
    first.run_epoch()
    second = make(recipe)
    second.restore(deepcopy(first.state()))
    assert second.epoch == 1
    assert_same(weights(first.trained), weights(second.trained))
    assert first.run_epoch() == second.run_epoch()
    assert_same(weights(first.trained), weights(second.trained))
    assert_same(weights(first.network.module), weights(second.network.module))


def test_the_seed_fixes_the_run(make):
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    losses = [t.run_epoch()["mask"] for t in (first, again, other)]
    assert losses[0] == losses[1] != losses[2]
    assert_same(weights(first.trained), weights(again.trained))


def test_epochs_differ(make):
    """Order and augmentation are drawn anew in every epoch."""
    trainer = make(replace(TINY, learning_rate=1e-12, weight_decay=0.0, mask_epochs=2))
    assert trainer.run_epoch() != trainer.run_epoch()


def test_kept_weights_are_the_moving_average(make):
    trainer = make(replace(TINY, average=0.5))
    trainer.run_epoch()
    last, kept = trainer.network.module.mask_head.weight, trainer.trained.mask_head.weight
    assert not torch.equal(last, kept)
    without = make(replace(TINY, average=0.0))
    without.run_epoch()
    assert_same(weights(without.trained), weights(trainer.network.module))


def test_validation_gives_vote_retrieval_and_overlap(make):
    trainer = make()
    metrics = trainer.validate()
    assert set(metrics) == {"val_auc", "val_p1", "val_map", "val_dice"}
    assert all(0 <= value <= 1 for value in metrics.values())
    assert make(fold=None).validate() == {}


def test_validation_leaves_training_as_it_was(make):
    plain, watched = make(), make()
    plain.run_epoch()
    watched.validate()
    watched.run_epoch()
    assert_same(weights(plain.trained), weights(watched.trained))


def test_embeddings_come_in_order_and_without_augmentation(make):
    trainer = make()
    positions = np.array([7, 3, 20, 11])
    embedding, overlap = trainer.embed(positions)
    turned, _ = trainer.embed(positions[::-1].copy())
    np.testing.assert_allclose(embedding, turned[::-1], atol=1e-5)
    assert embedding.shape == (4, 6)
    assert ((overlap >= 0) & (overlap <= 1)).all()


def test_rating_targets_are_standardised_by_the_training_nodules(make):
    trainer = make()
    target = trainer.rating_targets
    assert target.shape == (60, 10)
    known = target[:, [7, 8, 9]]  # texture, malignancy, log diameter
    train = known[torch.from_numpy(trainer.split.train)]
    assert_close(train.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(train.std(dim=0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    assert target[:, :7].isnan().all()


@pytest.fixture
def options(case_folder, cache, tmp_path):
    return Fit(cases=(case_folder,), out=tmp_path / "run", fold=0, device="cpu", cache=cache)


@pytest.fixture(scope="module")
def finished(case_folder, cache, tmp_path_factory):
    """A run of three epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(Fit(cases=(case_folder,), out=out, fold=0, device="cpu", cache=cache), RECIPE)
    return out


@pytest.fixture(autouse=True)
def interruptible():
    """Background processes of a shell are started deaf to Ctrl-C; users' terminals are not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_after(monkeypatch, method, epoch):
    """Ctrl-C comes while `method` of the given epoch runs."""
    whole = getattr(Trainer, method)

    def interrupted(self):
        result = whole(self)
        if self.epoch == epoch:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(Trainer, method, interrupted)


def steps(run):
    with (run / LOG).open(newline="") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream)]


def test_a_run_leaves_weights_settings_and_logs(finished):
    network = load_network(finished / MODEL, RECIPE.network)
    assert not network.training
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["fold"] == 0 and settings["seed"] == 0
    assert settings["recipe"]["epochs"] == 3
    assert {"commit", "engine", "cases"} <= settings.keys()
    assert steps(finished) == [1, 2, 3]
    with (finished / LOG).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [bool(row["val_auc"]) for row in rows] == [False, True, True]
    assert [bool(row["contrast"]) for row in rows] == [False, True, True]
    assert list((finished / "tensorboard").iterdir())
    assert not (finished / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("method", "epoch", "kept"),
    [("run_epoch", 2, 1), ("validate", 2, 1), ("run_epoch", 1, 0)],
    ids=["in training", "in validation", "before the first checkpoint"],
)
def test_ctrl_c_keeps_the_last_whole_epoch_and_the_same_command_goes_on(
    options, finished, monkeypatch, capsys, method, epoch, kept
):
    """Bit-equal to the run that nothing disturbed, its log without a gap."""
    with monkeypatch.context() as patched:
        stop_after(patched, method, epoch)
        with pytest.raises(KeyboardInterrupt):
            train(options, RECIPE)
    told = capsys.readouterr().out
    assert f"stopped; {kept} of 3 epochs are kept in {options.out / CHECKPOINT}" in told
    assert "The same command goes on from there." in told
    assert (options.out / CHECKPOINT).is_file() == bool(kept)
    assert not (options.out / MODEL).exists()

    train(options, RECIPE)
    told = capsys.readouterr().out
    assert (f"resuming after epoch {kept}" in told) == bool(kept)
    a, b = (load_network(run / MODEL, RECIPE.network) for run in (options.out, finished))
    assert_same(weights(a), weights(b))
    assert steps(options.out) == [1, 2, 3]


def test_ctrl_c_on_the_command_line_gives_the_shells_code(options, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "default", RECIPE)
    stop_after(monkeypatch, "run_epoch", 1)
    arguments = ["--cases", str(options.cases[0]), "--out", str(options.out), "--fold", "0",
                 "--cache", str(options.cache), "--device", "cpu"]  # fmt: skip
    assert cli.main(["fit", *arguments]) == 130
    assert "The same command goes on from there." in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(options, finished, monkeypatch, capsys):
    def never(*_):
        pytest.fail("trained again")

    monkeypatch.setattr(Trainer, "run_epoch", never)
    network = train(replace(options, out=finished), RECIPE)
    assert "is there already" in capsys.readouterr().out
    assert_same(weights(network), weights(load_network(finished / MODEL, RECIPE.network)))


def test_a_run_that_is_older_than_an_option_is_still_the_same_run(options, finished, capsys):
    """Its settings do not name the option: it was trained without what that stands for."""
    folder = shutil.copytree(finished, options.out)
    settings = json.loads((folder / SETTINGS).read_text())
    assert settings["recipe"]["augmentation"].pop("whole_chain") is False
    assert settings["recipe"].pop("consistency_weight") == 0
    (folder / SETTINGS).write_text(json.dumps(settings))
    train(replace(options, out=folder), RECIPE)
    assert "is there already" in capsys.readouterr().out
    chain = replace(RECIPE, augmentation=replace(RECIPE.augmentation, whole_chain=True))
    with pytest.raises(InputError, match="holds a run with another recipe"):
        train(replace(options, out=folder), chain)


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"fold": 1}, RECIPE, "holds a run with another fold: 0 instead of 1"),
        ({"seed": 5}, RECIPE, "holds a run with another seed: 0 instead of 5"),
        ({}, replace(RECIPE, margin=2.0), "holds a run with another recipe"),
    ],
)
def test_a_folder_that_holds_another_run_is_refused(options, finished, change, recipe, message):
    before = (finished / MODEL).read_bytes()
    with pytest.raises(InputError, match=f"{message}.*choose another --out"):
        train(replace(options, out=finished, **change), recipe)
    assert (finished / MODEL).read_bytes() == before


def test_another_run_is_refused_on_the_command_line(options, finished, capsys):
    arguments = ["--cases", str(options.cases[0]), "--out", str(finished), "--fold", "2"]
    assert cli.main(["fit", *arguments]) == 2
    assert "holds a run with another fold" in capsys.readouterr().err


def test_the_paper_recipe_may_end_before_its_first_restart(options):
    """`--recipe paper --epochs 1`: the last weights are kept although no cycle has ended."""
    train(options, replace(TINY_PAPER, epochs=1))
    assert (options.out / MODEL).is_file()


def test_without_validation_metrics_the_last_weights_are_kept(options, monkeypatch):
    """One class among the validation nodules: no AUC to choose by."""
    kept = []
    monkeypatch.setattr(Trainer, "validate", lambda self: {"val_auc": float("nan")})
    whole = Trainer.run_epoch
    monkeypatch.setattr(
        Trainer, "run_epoch", lambda self: (whole(self), kept.append(weights(self.trained)))[0]
    )
    network = train(options, replace(TINY, epochs=1))
    assert_same(weights(network), kept[-1])


def test_concepts_tune_the_pyramid_along_where_the_recipe_says_so(make):
    trainer = make(JOINT)
    before = weights(trainer.task)
    assert "concepts" in trainer.run_epoch()
    after = weights(trainer.task)
    assert not torch.equal(before["maps.weight"], after["maps.weight"])
    alone = make(replace(JOINT, concept_weight=0.0))
    assert alone.task is None and "concepts" not in alone.run_epoch()
    tuned, plain = (dict(t.network.module.encoder.named_parameters()) for t in (trainer, alone))
    assert not [name for name in tuned if torch.equal(tuned[name], plain[name])]


def test_a_run_may_start_from_the_weights_of_another_one(options, finished):
    """Without a step in between they are the same."""
    still = replace(RECIPE, epochs=1, learning_rate=1e-12, average=0.0, weight_decay=0.0)
    network = train(replace(options, start=finished), still)
    before = load_network(finished / MODEL, RECIPE.network)
    for (name, a), b in zip(
        network.named_parameters(), dict(before.named_parameters()).values(), strict=True
    ):
        assert_close(a, b, atol=1e-3, rtol=1e-2, msg=name)
    with pytest.raises(InputError, match="another start"):
        train(options, still)


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"fold": 1}, RECIPE, "wanted a run with fold 1 to start from, got 0"),
        ({"seed": 3}, RECIPE, "wanted a run with seed 3 to start from, got 0"),
        ({}, replace(RECIPE, network=replace(RECIPE.network, embedding=7)), "another shape"),
    ],
)
def test_weights_that_saw_other_patients_are_no_start(options, finished, change, recipe, message):
    with pytest.raises(InputError, match=message):
        train(replace(options, start=finished, **change), recipe)
    assert not options.out.exists()


def test_poorer_views_are_drawn_to_the_same_views_as_scanned(make, monkeypatch):
    """Weighted, of these alone, after the mask's own epochs; the scan as it is stays put."""
    recipe = replace(
        TINY, epochs=9, learning_rate=5e-3, consistency_weight=2.0, average=0.0,
        augmentation=replace(TINY.augmentation, degraded=0.5),
    )  # fmt: skip
    trainer, seen, told = make(recipe), [], []

    def paired(*given, **options):
        seen.append(paired_views(*given, **options))
        return seen[-1]

    def split(features, count):
        told.append(split_features(features, count))
        return told[-1]

    monkeypatch.setattr(trainer_module, "paired_views", paired)
    monkeypatch.setattr(trainer_module, "split_features", split)
    assert "consistency" not in trainer.run_epoch()
    assert not any(len(beside.embedding) for _, beside in told)
    seen.clear()
    told.clear()
    first = trainer.run_epoch()["consistency"]
    terms = []
    for (views, degraded, _), (features, beside) in zip(seen, told, strict=True):
        assert len(features.embedding) == len(views.intensity) == TINY.batch
        assert len(beside.embedding) == degraded.sum()
        gap = features.embedding[degraded] - beside.embedding
        terms += [2 * float(gap.detach().square().sum(dim=1).mean())] if degraded.any() else []
    assert first == pytest.approx(np.mean(terms), rel=1e-4)
    later = [trainer.run_epoch()["consistency"] for _ in range(7)]
    assert np.mean(later[-3:]) < 0.7 * first
    plain = make(replace(recipe, consistency_weight=0.0))
    plain.run_epoch()
    assert "consistency" not in plain.run_epoch()


def test_shuffled_labels_stay_within_the_training_nodules_and_together(make):
    """Each training nodule is told all of another one, its mask apart; nobody else changes."""
    plain, shuffled = make(), make(replace(TINY, shuffle_labels=True))
    train_positions = plain.split.train
    others = np.setdiff1d(np.arange(len(plain.store)), train_positions)
    told = [
        torch.cat([t.malignant[:, None], t.suspicion[:, None], t.rating_targets], dim=1).nan_to_num(
            -9
        )
        for t in (plain, shuffled)
    ]
    assert torch.equal(told[0][others], told[1][others])
    assert (told[0][train_positions] != told[1][train_positions]).any(dim=1).float().mean() > 0.5
    before, after = (sorted(map(tuple, t[train_positions].tolist())) for t in told)
    assert before == after
    assert plain.store is shuffled.store
    assert torch.equal(plain.store.suspicion, shuffled.store.suspicion)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_kill_leaves_checkpoint_settings_and_log_whole(tmp_path):
    """At any step: what was written last, or what before it; nothing half."""
    checkpoint, settings, log = (tmp_path / name for name in (CHECKPOINT, SETTINGS, LOG))

    def write(epoch):
        loop.save_checkpoint(checkpoint, {"epoch": epoch, "weights": torch.full((1000,), epoch)})
        write_file(settings, json.dumps({"epoch": epoch}).encode())
        loop.append_epoch(log, {"step": epoch, "mask": 0.5})

    write(1)
    for _ in kills(lambda: write(2)):
        state = torch.load(checkpoint, weights_only=True)
        told = json.loads(settings.read_text())["epoch"]
        steps = [int(row["step"]) for row in csv.DictReader(log.read_text().splitlines())]
        assert (state["weights"] == state["epoch"]).all()
        assert state["epoch"] >= told >= steps[-1] >= 1
        assert steps == list(range(1, steps[-1] + 1))
    assert steps == [1, 2] and told == 2


def test_a_log_has_a_line_an_epoch_and_no_bar(options, capfd):
    train(options, RECIPE)
    told = capfd.readouterr()
    assert [line.split(":")[0] for line in told.out.splitlines() if line.startswith("epoch")] == [
        f"epoch {n} of 3" for n in (1, 2, 3)
    ]
    assert "\r" not in told.out + told.err and "it/s" not in told.err
