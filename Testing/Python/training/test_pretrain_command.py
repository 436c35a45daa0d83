"""`pretrain`, `fit --init` and `crossfit --init`: who is seen, what is kept, what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import sitk_from_array
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import load_network
from contrastdiagnosis_training.commands import crossfit as crossfit_module
from contrastdiagnosis_training.commands import fit as fit_module
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands import pretrain as pretrain_module
from contrastdiagnosis_training.commands.crossfit import CrossFit, crossfit
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.commands.pretrain import Pretrain, pretrain
from contrastdiagnosis_training.data import healthy_patches
from contrastdiagnosis_training.data.splits import split_by_patient
from contrastdiagnosis_training.pretraining import sets as sets_module
from contrastdiagnosis_training.pretraining import sources
from contrastdiagnosis_training.pretraining.encoder import encoder_weights
from contrastdiagnosis_training.pretraining.recipe import RECIPES, PretrainingRecipe
from contrastdiagnosis_training.pretraining.trainer import PreTrainer
from contrastdiagnosis_training.runs.run_folder import CHECKPOINT, LOG, MODEL, SETTINGS

from training.conftest import TINY, write_case_folder
from training.test_healthy_patches import made_ct, paint_wall

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = PretrainingRecipe(
    network=TINY.network, epochs=3, batch=6, queue=12, small=(8, 16, 16), projection=5,
    validate_every=2,
)  # fmt: skip
STILL = replace(TINY, epochs=1, learning_rate=1e-12, weight_decay=0.0, average=0.0)
"""A fit that leaves its weights as they began."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Two kinds of healthy tissue, and a brightness in place of the real degradations."""

    def brighter(hu, least, generator):
        return hu + 100 * torch.rand(len(hu), 1, 1, 1, generator=generator)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(healthy_patches, "KINDS", ("vessel", "parenchyma"))
        patched.setattr(sets_module, "degraded_at_random", brighter)
        patched.setitem(RECIPES, "default", RECIPE)
        yield


@pytest.fixture(autouse=True)
def interruptible():
    """Background processes of a shell are started deaf to Ctrl-C; users' terminals are not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Twenty nodules of ten patients in five folds."""
    folder = tmp_path_factory.mktemp("cases") / "stacks"
    return write_case_folder(folder, patients=10, radii_mm=(1.5, 3, 5))


@pytest.fixture(scope="module")
def split(cases):
    return split_by_patient(read_case_folder(cases), 0)


def patients_of(cases, positions):
    nodules = read_case_folder(cases)
    return {nodules[n].patient_id for n in positions.tolist()}


@pytest.fixture(scope="module")
def cts(cases, split, tmp_path_factory):
    """One CT of nobody, one of a patient who is tested, one of a patient who validates."""
    folder = tmp_path_factory.mktemp("cts")
    tested, validating = (min(patients_of(cases, part)) for part in (split.test, split.validation))
    rows = ["file,source,lesion_boxes_lps_mm,healthy_crops"]
    for n, source in enumerate(("Nobody", tested, validating)):
        ct = made_ct(n)
        for part, array in (("image", ct.volume.hu), ("lungs", ct.lungs.astype(np.uint8))):
            (folder / part).mkdir(exist_ok=True)
            image = sitk_from_array(array, ct.volume.ijk_to_ras)
            sitk.WriteImage(image, str(folder / part / f"{n}.nii.gz"))
        rows.append(f"{n}.nii.gz,{source},,yes")
    (folder / "cts.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def shared(cases, cts, tmp_path_factory):
    """Options that all runs share."""
    return Pretrain(
        cases=(cases,), out=tmp_path_factory.mktemp("nowhere"), cts=(cts,), fold=0, phantom=False,
        beside=False, per_kind=2, device="cpu", cache=tmp_path_factory.mktemp("cache"),
    )  # fmt: skip


@pytest.fixture
def options(shared, tmp_path):
    return replace(shared, out=tmp_path / "run")


def arguments(options, *more):
    """The same as a command line."""
    return [
        "pretrain", "--cases", *map(str, options.cases), "--out", str(options.out),
        "--cts", *map(str, options.cts), "--fold", "0", "--no-phantom", "--no-beside",
        "--per-kind", "2", "--device", "cpu", "--cache", str(options.cache), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(shared, tmp_path_factory):
    """A run that nothing disturbed, by the command line, and what it printed."""
    out, printed = tmp_path_factory.mktemp("runs") / "whole", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(arguments(replace(shared, out=out))) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def encoder(finished):
    return finished[0]


def rows(run):
    with (run / LOG).open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def loaded(run, network=RECIPE.network):
    return load_network(run / MODEL, network)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_leaves_weights_settings_and_logs(encoder):
    settings = json.loads((encoder / SETTINGS).read_text())
    assert settings["kind"] == "pretraining"
    assert (settings["fold"], settings["seed"], settings["acquisition"]) == (0, 0, None)
    assert settings["healthy"] == [2, False, False]
    assert settings["recipe"]["terms"] == ["L/L~", "L/H", "L~/H~"]
    assert settings["recipe"]["network"]["ratings"] == 10
    assert {"commit", "engine", "cases", "more", "cts"} <= settings.keys()
    told = rows(encoder)
    assert [int(row["step"]) for row in told] == [1, 2, 3]
    assert [bool(row["val_auc"]) for row in told] == [False, True, True]
    for row in told:
        assert all(np.isfinite(float(row[term])) for term in ("L/L~", "L/H", "L~/H~"))
    assert all(0 <= float(told[-1][name]) <= 1 for name in ("val_auc", "val_poor_auc"))
    assert list((encoder / "tensorboard").iterdir())
    assert not (encoder / CHECKPOINT).exists()


def test_what_is_left_is_a_network_whose_encoder_is_trained(encoder):
    torch.manual_seed(0)
    drawn = NoduleNet(RECIPE.network).state_dict()
    for name, value in loaded(encoder).state_dict().items():
        trained = name.startswith(("stem.", "encoder."))
        assert torch.equal(value, drawn[name]) != trained, name


def test_what_is_seen_is_printed(finished, split):
    told = finished[1]
    count = len(split.train)
    for text in (
        f"L: {count} patches of {count // 2} patients, 0 poor as scanned",
        f"L~: {count} patches of {count // 2} patients, 0 poor as scanned",
        "H: 4 patches of 1 patients, 0 poor as scanned",
        "healthy tissue: 12 of a ct, 0 of a stack, 0 of a phantom",
        "without --acquisition, quality is told by slices and noise as measured",
        "epoch 3 of 3",
    ):
        assert text in told


def stop_after(monkeypatch, method, epoch):
    """Ctrl-C comes while `method` of the given epoch runs."""
    whole = getattr(PreTrainer, method)

    def interrupted(self):
        result = whole(self)
        if self.epoch == epoch:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(PreTrainer, method, interrupted)


def test_ctrl_c_keeps_the_last_whole_epoch_and_the_same_command_goes_on(
    options, encoder, monkeypatch, capsys
):
    """In either phase; bit-equal to the run that nothing disturbed, its log without a gap."""
    for method, epoch, kept in (("run_epoch", 2, 1), ("run_epoch", 3, 2)):
        with monkeypatch.context() as patched:
            stop_after(patched, method, epoch)
            assert cli.main(arguments(options)) == 130
        told = capsys.readouterr()
        assert f"stopped; {kept} of 3 epochs are kept in {options.out / CHECKPOINT}" in told.out
        assert (options.out / CHECKPOINT).is_file() and not (options.out / MODEL).exists()
    pretrain(options, RECIPE)
    assert "resuming after epoch 2" in capsys.readouterr().out
    assert_same(weights(loaded(options.out)), weights(loaded(encoder)))
    assert rows(options.out) == rows(encoder)


def test_a_finished_run_is_not_trained_again(options, encoder, monkeypatch, capsys):
    def never(*_):
        pytest.fail("trained again")

    monkeypatch.setattr(pretrain_module, "_trainer", never)
    pretrain(replace(options, out=encoder), RECIPE)
    assert f"{encoder / MODEL} is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"fold": 1}, RECIPE, "another fold: 0 instead of 1"),
        ({"seed": 5}, RECIPE, "another seed: 0 instead of 5"),
        ({"per_kind": 9}, RECIPE, r"another healthy: \[2, False, False\] instead of \[9,"),
        ({"cts": ()}, RECIPE, r"another cts: \['.*'\] instead of \[\]"),
        ({}, replace(RECIPE, invariant=True), "another recipe"),
    ],
)
def test_a_folder_that_holds_another_run_is_refused(options, encoder, change, recipe, message):
    before = (encoder / MODEL).read_bytes()
    with pytest.raises(InputError, match=f"holds a run with {message}.*choose another --out"):
        pretrain(replace(options, out=encoder, **change), recipe)
    assert (encoder / MODEL).read_bytes() == before


class StopError(Exception):
    """Everything is read, and nothing trained."""


@pytest.fixture
def given(monkeypatch):
    """What the trainer would be given: names of patients by set, and the recipe."""
    told = {}
    whole = sources.four_sets

    def seen_sets(store, positions, healthy, acquisitions, least, seen):
        sets = whole(store, positions, healthy, acquisitions, least, seen)
        told.setdefault("sets", []).append(sets)
        told.setdefault("patients", []).append(
            (
                [store.nodules[n].patient_id for n in positions.tolist()],
                [p for p in healthy.patient_id if seen(p)],
            )
        )
        return sets

    def stop(sets, recipe, fabric, seed, validation):
        told.update(recipe=recipe, seed=seed, trained=sets, validation=validation)
        raise StopError

    monkeypatch.setattr(sources, "four_sets", seen_sets)
    monkeypatch.setattr(pretrain_module, "PreTrainer", stop)
    return told


def read_only(options, recipe=RECIPE):
    with pytest.raises(StopError):
        pretrain(options, recipe)


@pytest.fixture(scope="module")
def more(cases, tmp_path_factory):
    """A folder of 13 patients: those of `cases`, one more of the fold, one more, one without."""
    folder = write_case_folder(
        tmp_path_factory.mktemp("more") / "context", patients=13, seed=1, radii_mm=(1.5, 3, 5)
    )
    table = folder / "nodules.csv"
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join(line[: line.rindex(",") + 1] if ",P012," in line else line for line in lines)
        + "\n"
    )
    return folder


def test_nobody_who_tests_or_validates_is_seen(options, cases, cts, more, split, given):
    """Neither in lesions, nor in those of further folders, nor in healthy tissue."""
    read_only(replace(options, more=(more,)))
    tested, validating = (patients_of(cases, part) for part in (split.test, split.validation))
    trained = patients_of(cases, split.train)
    (lesions, healthy), (validated, validated_healthy) = given["patients"]
    assert len(trained) + len(tested) + len(validating) == 10
    assert not set(lesions) & (tested | validating)
    # Of the further folder: those who train, and P011; P010 is of the fold, P012 of none.
    assert set(lesions) == trained | {"P011"}
    assert len(lesions) == 4 * len(trained) + 2
    assert set(healthy) == {"Nobody"}
    assert set(validated) == validating and set(validated_healthy) == {min(validating)}
    assert given["trained"] is given["sets"][0] and given["validation"] is given["sets"][1]
    assert given["seed"] == 0


def test_tissue_beside_the_nodules_of_who_may_not_be_seen_is_left_out(
    options, split, given, tmp_path
):
    """A patient without a fold may be held back elsewhere."""
    folder = write_case_folder(tmp_path / "stacks", patients=11, radii_mm=(1.0, 1.2, 1.4))
    paint_wall(folder)
    table = folder / "nodules.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(x[: x.rindex(",") + 1] if ",P010," in x else x for x in lines))
    read_only(replace(options, cases=(folder,), cts=(), beside=True))
    again = split_by_patient(read_case_folder(folder), 0)
    (lesions, healthy), (_, validated) = given["patients"]
    assert set(healthy) == set(lesions) == patients_of(folder, again.train)
    assert set(validated) == patients_of(folder, again.validation)
    assert "P010" not in {*healthy, *validated}


def test_without_a_fold_everybody_is_seen_and_nobody_validates(options, given):
    read_only(replace(options, fold=None))
    ((lesions, healthy),) = given["patients"]
    assert len(set(lesions)) == 10 and len(set(healthy)) == 3
    assert given["validation"] is None


def test_what_is_told_of_series_decides_quality(options, given, split, tmp_path, capsys):
    table = tmp_path / "acquisition.csv"
    header = "series_uid,slice_thickness_mm,tube_current_ma,kernel\n"
    first, second, third = (f"1.2.{n}" for n in split.train[:3])
    table.write_text(f"{header}{first},5,400,STANDARD\n{second},1,30,B\n{third},1,300,C\n")
    read_only(replace(options, acquisition=table))
    poor = given["trained"].lesions.poor
    assert poor.tolist() == [True, True] + [False] * (len(split.train) - 2)
    told = capsys.readouterr().out
    assert f"L: {len(poor) - 2} patches" in told
    assert f"L~: {len(poor)} patches" in told and "2 poor as scanned" in told
    assert "without --acquisition" not in told


def test_a_network_without_ratings_stays_so(options, given):
    """As in `fit`: the published recipe predicts none, and its encoder must fit."""
    without = replace(RECIPE, network=replace(RECIPE.network, ratings=0))
    read_only(options, without)
    assert given["recipe"].network.ratings == 0
    read_only(options, replace(RECIPE, network=replace(RECIPE.network, ratings=3)))
    assert given["recipe"].network.ratings == 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cases", "nowhere"], "wanted a case folder with nodules.csv, image/ and votes/ or mas"),
        (["--change", "queue=many"], "option queue is 12; it cannot become 'many'"),
        (["--change", "terms=H/L"], "option terms is .* it cannot become 'H/L'"),
        (["--batch", "-1"], "batch must be at least 1, got -1"),
        (["--fold", "7"], "no nodule has fold 7; the folds are"),
        (["--cts", "nowhere"], "no table of CTs at nowhere"),
        (["--acquisition", "none.csv"], "cannot read none.csv: No such file"),
        (["--cts"], "wanted CTs with healthy lung, or nodules whose files show lung beside them"),
    ],
)
def test_bad_input_ends_the_command_with_a_sentence(options, more, message, capsys, monkeypatch):
    monkeypatch.chdir(options.cache)
    assert cli.main(arguments(options, *more)) == 2
    told = capsys.readouterr().err
    assert told.startswith("contrastdiagnosis-train: ") and told.count("\n") == 1
    assert re.search(message, told), told
    assert not (options.out / SETTINGS).exists() and not (options.out / MODEL).exists()


def test_sets_without_a_good_image_end_the_command_with_a_sentence(options, cases, capsys):
    table = options.out.with_name("acquisition.csv")
    lines = [f"1.2.{n},5,400,STANDARD" for n in range(20)]
    header = "series_uid,slice_thickness_mm,tube_current_ma,kernel"
    table.write_text("\n".join([header, *lines]) + "\n")
    assert cli.main(arguments(options, "--acquisition", str(table))) == 2
    told = "contrastdiagnosis-train: pre-training needs lesions in good images; there is none"
    assert capsys.readouterr().err.startswith(told)


def test_cases_without_folds_end_with_a_sentence(options, cases, tmp_path):
    folder = shutil.copytree(cases, tmp_path / "stacks")
    table = folder / "nodules.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line[: line.rindex(",")] for line in lines) + "\n")
    with pytest.raises(InputError, match="wanted lesions, to cut healthy tissue as their files"):
        pretrain(replace(options, cases=(folder,), fold=None), RECIPE)


def test_a_dead_start_ends_the_command_with_a_sentence(options, capsys):
    changes = ["--change", "pacing=paper", "first_phase=0", "dead_epochs=0"]
    assert cli.main(arguments(options, *changes)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("contrastdiagnosis-train: self-pacing selected no anchor in 1 epochs")
    assert not (options.out / MODEL).exists()


# What starts from it.


@pytest.fixture
def fit(cases, shared, encoder, tmp_path):
    return Fit(
        cases=(cases,), out=tmp_path / "fit", fold=0, device="cpu", cache=shared.cache, init=encoder
    )


@pytest.fixture(scope="module")
def tuned(cases, shared, encoder, tmp_path_factory):
    """A fit that started from the encoder, and the weights that it began with."""
    began = []
    whole = fit_module.run_epochs

    def seen(trainer, folder):
        began.append(weights(trainer.network.module))
        whole(trainer, folder)

    out = tmp_path_factory.mktemp("fits") / "tuned"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit_module, "run_epochs", seen)
        train(Fit((cases,), out, fold=0, device="cpu", cache=shared.cache, init=encoder), STILL)
    return out, began[0]


def test_a_fit_takes_exactly_stem_and_encoder(tuned, encoder):
    """With their statistics; all else is drawn as without."""
    out, began = tuned
    given = loaded(encoder).state_dict()
    torch.manual_seed(0)
    drawn = NoduleNet(TINY.network).state_dict()
    assert began.keys() == drawn.keys()
    for name, value in began.items():
        taken = name.startswith(("stem.", "encoder."))
        assert torch.equal(value, given[name] if taken else drawn[name]), name
    assert not torch.equal(given["stem.conv.weight"], drawn["stem.conv.weight"])
    # And an epoch at hardly any learning rate leaves them so.
    for name, value in loaded(out).named_parameters():
        assert torch.allclose(value, began[name], atol=1e-6), name
    assert json.loads((out / SETTINGS).read_text())["init"] == str(encoder)


def test_what_is_not_taken_over_may_differ(fit, encoder):
    """Stem and encoder are the same in a network with another embedding."""
    recipe = replace(STILL, network=replace(TINY.network, embedding=4, statistics=False))
    network = train(fit, recipe)
    given = encoder_weights(loaded(encoder))
    for name, value in network.named_parameters():
        if name in given:
            torch.testing.assert_close(value, given[name], atol=1e-6, rtol=0)


def test_the_same_fit_from_another_start_is_another_run(tuned, fit):
    with pytest.raises(InputError, match="holds a run with another init: .* instead of None"):
        train(replace(fit, out=tuned[0], init=None), STILL)


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"fold": 1}, STILL, "wanted a run with fold 1 to start from, got 0"),
        ({"seed": 3}, STILL, "wanted a run with seed 3 to start from, got 0"),
        ({"cases": None}, STILL, r"wanted a run with cases \['.*more.*'\] to start from, got"),
        (
            {},
            replace(STILL, network=replace(TINY.network, channels=(4, 6, 8, 12))),
            r"holds an encoder with \[4, 6, 8, 10\] channels, wanted \[4, 6, 8, 12\]; it cannot be",
        ),
        ({"start": "itself"}, STILL, "wanted either --start or --init, got both"),
        ({"init": None, "start": "itself"}, STILL, "not a whole network: it goes with --init"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(fit, encoder, more, change, recipe, message):
    given = {"cases": (more,), "start": encoder}
    change = {n: given.get(n) if n != "init" and v in (None, "itself") else v
              for n, v in change.items()}  # fmt: skip
    with pytest.raises(InputError, match=message):
        train(replace(fit, **change), recipe)
    assert not fit.out.exists()


def test_lesions_that_a_detector_misses_are_left_out(
    options, cases, split, tuned, given, monkeypatch, capsys
):
    """The others lie where it finds them."""
    asked = {}

    def found(network, nodules, confidence, device):
        asked.update(names=[n.case_id for n in nodules], confidence=confidence)
        missed = {nodules[n].case_id for n in split.train[:2]}
        centers = {n.case_id: read_scan(n).center_ras_mm + np.array([2.1, 0, 0]) for n in nodules}
        return {name: center for name, center in centers.items() if name not in missed}

    monkeypatch.setattr(pretrain_module, "detected_centers", found)
    read_only(replace(options, detector=tuned[0], confidence=0.3))
    count = len(split.train)
    assert f"the detector found {count - 2} of {count} lesions" in capsys.readouterr().out
    assert asked == {"names": [n.case_id for n in read_case_folder(cases)], "confidence": 0.3}
    read_only(options)
    (lesions, _), _, (all_lesions, _), _ = given["patients"]
    assert lesions == all_lesions[2:]
    moved, marked = (given["sets"][n].lesions for n in (0, 2))
    # To the right by 2.1 mm is three voxels towards the first column.
    assert torch.equal(moved.hu[:, :, :, 3:], marked.hu[2:, :, :, :-3])


def test_an_encoder_is_no_detector(options, encoder):
    with pytest.raises(InputError, match="a pre-trained encoder, not a whole network"):
        pretrain(replace(options, detector=encoder), RECIPE)


def test_a_whole_network_is_no_encoder(fit, tuned):
    with pytest.raises(InputError, match="a whole network, not a pre-trained encoder: it goes wit"):
        train(replace(fit, init=tuned[0]), STILL)
    assert not fit.out.exists()


def test_a_run_that_is_not_finished_is_no_encoder(fit, tmp_path):
    with pytest.raises(InputError, match="holds no finished network"):
        train(replace(fit, init=tmp_path), STILL)


def test_folders_of_the_two_kinds_are_not_mixed_up(fit, options, encoder, tuned):
    with pytest.raises(InputError, match="holds a run with another recipe"):
        train(replace(fit, out=encoder, init=None), STILL)
    with pytest.raises(InputError, match="holds a run with another kind: None instead of pretrain"):
        pretrain(replace(options, out=tuned[0]), RECIPE)


def test_an_encoder_that_does_not_fit_ends_the_command_with_a_sentence(fit, encoder, capsys):
    given = ["fit", "--cases", str(fit.cases[0]), "--out", str(fit.out), "--fold", "2",
             "--init", str(encoder)]  # fmt: skip
    assert cli.main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("contrastdiagnosis-train: wanted a run with fold 2 to start from, got 0")
    assert told.count("\n") == 1


def test_cross_fitting_takes_the_encoder_of_each_fold(cases, shared, tmp_path, monkeypatch):
    """That of fold 1 has never seen who is tested in fold 1."""
    fits = []

    def seen(options, recipe):
        fits.append(options)
        return NoduleNet(TINY.network)

    monkeypatch.setattr(crossfit_module, "train", seen)
    monkeypatch.setattr(crossfit_module, "store_predictions", lambda *_: None)
    given = CrossFit((cases,), tmp_path / "cv", device="cpu", cache=shared.cache, folds=(1, 3))
    crossfit(replace(given, init=tmp_path / "pre"), STILL)
    crossfit(given, STILL)
    told = [(f.fold, f.init, f.out.name) for f in fits]
    assert told == [
        (1, tmp_path / "pre" / "fold1", "fold1"), (3, tmp_path / "pre" / "fold3", "fold3"),
        (1, None, "fold1"), (3, None, "fold3"),
    ]  # fmt: skip


def test_cross_fitting_from_encoders_that_are_not_there_ends_with_a_sentence(
    cases, shared, tmp_path, capsys
):
    given = ["crossfit", "--cases", str(cases), "--out", str(tmp_path / "cv"), "--init",
             str(tmp_path / "pre"), "--cache", str(shared.cache)]  # fmt: skip
    assert cli.main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"contrastdiagnosis-train: {tmp_path / 'pre' / 'fold0'} holds no finish")


def test_a_detector_tells_where_lesions_are_and_is_of_the_same_patients(
    options, cases, encoder, given, tmp_path, capsys
):
    run = tmp_path / "detector"
    train(Fit((cases,), run, fold=0, device="cpu", cache=options.cache), STILL)
    sure = replace(options, detector=run, confidence=0.999)
    with pytest.raises(InputError, match="pre-training needs lesions in good images and lesions"):
        pretrain(sure, RECIPE)  # An untrained network is sure of nothing.
    count = len(split_by_patient(read_case_folder(cases), 0).train)
    assert f"the detector found 0 of {count} lesions" in capsys.readouterr().out
    read_only(replace(sure, confidence=0.0))
    assert f"the detector found {count} of {count} lesions" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds a pre-trained encoder, not a whole network"):
        pretrain(replace(options, detector=encoder), RECIPE)
    with pytest.raises(InputError, match="wanted a run with fold 1 to start from, got 0"):
        pretrain(replace(options, detector=run, fold=1), RECIPE)


# What encoders know, on the tested patients.


@pytest.fixture(scope="module")
def asked(shared, encoder, tmp_path_factory):
    """Figures and page of the pre-trained encoder, and of a network of the same patients."""
    out = tmp_path_factory.mktemp("asked")
    train(Fit(shared.cases, out / "fit", 0, device="cpu", cache=shared.cache), STILL)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(out)
        arguments = ["--json", "f.json", "--html", "f.html", "--cache", str(shared.cache)]
        runs = [f"comcl={encoder}", f"none={out / 'fit'}"]
        assert cli.main(["pretrain-eval", "--runs", *runs, "--device", "cpu", *arguments]) == 0
    return out, json.loads((out / "f.json").read_text()), (out / "f.html").read_text()


def test_encoders_are_asked_about_the_tested_patients(asked, cases, split):
    _, told, page = asked
    assert list(told["runs"]) == ["comcl", "none"]
    for figures in told["runs"].values():
        assert set(figures) == {"lesion", "lesion, poor", "quality", "same nodule"}
    lesions = len(split.test)
    assert f"patients of fold 0, {lesions} of L, {lesions} of L~" in told["protocol"]
    assert page.count("<svg") == 2 and page.count("<circle") > 4 * lesions
    assert "Research use only" in page and "<script" not in page


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["{fit}"], "wanted runs as NAME=FOLDER"),
        (["a={fit}"], "wanted a `pretrain` run first, got a whole network"),
        (["a={encoder}", "a={fit}"], "each name once"),
        (["a=/nowhere"], "holds no finished network"),
        (["a={encoder}", "b=/nowhere"], "holds no finished network"),
    ],
)
def test_encoders_that_cannot_be_asked_are_told(asked, encoder, runs, message, capsys, tmp_path):
    told = [run.format(fit=asked[0] / "fit", encoder=encoder) for run in runs]
    assert cli.main(["pretrain-eval", "--runs", *told, "--json", str(tmp_path / "f.json")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "f.json").exists()
