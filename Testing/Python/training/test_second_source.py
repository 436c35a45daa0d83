"""A source of cases that is not LIDC-IDRI goes the whole way: folder, training, bundle, report."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, load_bundle, sha256
from contrastdiagnosis.bundle.pruning import prune_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text
from contrastdiagnosis.report.paper import render_print_report
from contrastdiagnosis.report.screen import render_report
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.concepts import Concepts, settings_of
from contrastdiagnosis_training.commands.crossfit import CrossFit, crossfit
from contrastdiagnosis_training.commands.export import Export
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe
from contrastdiagnosis_training.concept_head.run_folder import concepts_of_run, read_head_settings
from contrastdiagnosis_training.data.concept_list import SIZES, concepts_of
from contrastdiagnosis_training.data.labels import is_malignant
from contrastdiagnosis_training.data.patch_store import load_patch_store
from contrastdiagnosis_training.evaluation.trust import rating_agreement
from contrastdiagnosis_training.evaluation.unseen import unseen_of_bundle
from contrastdiagnosis_training.network.recipe import Recipe, recipe_for
from contrastdiagnosis_training.runs.run_folder import read_settings
from engine.test_source import MADE

from training.conftest import TINY, write_case_folder

RECIPE = replace(TINY, epochs=1, mask_epochs=0)
SMALL = ("prototypes=3", "width=8", "blocks=1", "views=2", "concept_epochs=2", "prototype_epochs=2")
RUNS = Path(__file__).parents[3] / "runs"
"""Real runs, where the checkout has them."""

SUSPICIONS = {"4 5 4 4": "8 10 7 7", "3 3 3 3": "6 6 6 6", "1 2 2 3": "0 2 5 6"}
DENSITIES = {"5 5 5 4": "3 3 3 2", "1 2 1 1": "1 2 1 1"}

pytestmark = pytest.mark.usefixtures("few_draws")


def write_made_folder(folder, **options):
    """A case folder whose readers gave other ratings on other scales, as ratings.json says."""
    write_case_folder(folder, **options)
    file = folder / "nodules.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["suspicion_readers"] = SUSPICIONS[row.pop("malignancy_readers")]
        row["density_readers"] = DENSITIES[row.pop("texture_readers")]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "ratings.json").write_text(json.dumps(asdict(MADE)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cases") / "made"
    return write_made_folder(out, patients=24, folds=3, radii_mm=(1.5, 5, 9))


@pytest.fixture(scope="module")
def runs(folder, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    crossfit(CrossFit((folder,), out / "cv", device="cpu", cache=cache), RECIPE)
    train(Fit((folder,), out / "all", device="cpu", cache=cache), RECIPE)
    Concepts(
        (folder,), out / "cv", out / "concepts", weights=out / "all", change=SMALL, device="cpu",
        cache=cache,
    ).run()  # fmt: skip
    return out


@pytest.fixture(scope="module")
def bundle(runs, folder):
    Export(
        (folder,), runs / "all", runs / "cv", runs / "bundle", runs / "concepts", device="cpu"
    ).run()
    return load_bundle(runs / "bundle")


def test_labels_come_of_the_sources_own_rule(folder, cache):
    store = load_patch_store([folder], cache)
    suspicion = np.array([np.mean(n.ratings["suspicion"]) for n in store.nodules])
    assert np.array_equal(is_malignant(store.malignancy.numpy()), suspicion > 6)
    assert set(store.malignancy[suspicion == 6].tolist()) == {3.0}
    assert store.ratings.shape == (48, 2) and store.case_source == MADE
    np.testing.assert_allclose(store.ratings[:, 0], suspicion)
    for n, nodule in enumerate(store.nodules):
        votes = np.array(nodule.ratings["suspicion"])
        assert store.suspicion[n] == ((votes > 6) + 0.5 * (votes == 6)).mean()


def test_the_network_predicts_the_ratings_of_the_source(runs):
    for run in (runs / "all", runs / "cv" / "fold0"):
        assert read_settings(run)["recipe"]["network"]["ratings"] == 3
    assert recipe_for(Recipe(), LIDC) == Recipe()
    bare = replace(TINY, network=replace(TINY.network, ratings=0))
    assert recipe_for(bare, MADE) == bare


def test_the_concepts_are_the_sources_findings_and_size(runs):
    assert concepts_of_run(runs / "concepts" / "all") == concepts_of(MADE)
    assert [c.name for c in concepts_of(MADE)] == ["dense", *(c.name for c in SIZES)]


def test_the_bundle_is_of_the_source(bundle, runs, folder):
    rows = {n.case_id: n for n in read_case_folder(folder)}
    assert bundle.info.case_source == MADE
    assert (bundle.info.name, bundle.info.citation) == ("made", MADE.citation)
    assert "read Made up nodules" in bundle.info.intended_use
    for case in bundle.library.cases:
        ratings = rows[case.case_id].ratings
        assert case.malignant == (np.mean(ratings["suspicion"]) > 6)
        assert case.ratings == {name: np.mean(values) for name, values in ratings.items()}
    for file in ("bundle.json", "cases.csv", "MODEL_CARD.md"):
        text = (runs / "bundle" / file).read_text()
        assert "LIDC" not in text and "spicul" not in text, file
    assert "(mean rating of the readers above 6)" in text


def test_the_report_speaks_the_words_of_the_source(bundle, folder):
    scan = read_scan(read_case_folder(folder)[3])
    diagnoser = Diagnoser(bundle, "cpu")
    diagnosis = diagnoser.diagnose(scan.volume, scan.center_ras_mm)
    explanations = diagnoser.explain(diagnosis)
    html = render_report(diagnosis, scan.volume, bundle, explanations)
    paper = render_print_report(diagnosis, scan.volume, bundle, explanations)
    shown = diagnosis.cases[0].case.ratings["suspicion"]
    assert html.count('<div title="0 none at all … 10 beyond doubt">') == len(diagnosis.cases)
    assert html.count('<div title="1 hazy … 3 dense as bone">') == len(diagnosis.cases)
    assert f'style="left:{10 * shown:.1f}%"' in html and f"{shown:.1f}/10" in html
    assert "Made readers' mean suspicion rating above 6" in html
    assert f"Suspicion {shown:.1f}&nbsp;of&nbsp;10" in paper
    for text in (html, paper):
        assert "Ratings are the mean of the Made readers." in text
        assert "radiologists who read Made up nodules" in text.replace("\n", " ")
        assert "LIDC" not in text
        for scale in LIDC.scales[:-1]:
            assert f">{scale.title}<" not in text and scale.high_words + '"' not in text
    assert "popcorn" not in html and "extremely subtle" not in html


def test_the_commands_know_the_source(bundle, runs, folder, tmp_path, capsys):
    file, arguments = tmp_path / "pruned.json", ["--cases", str(folder)]
    assert cli.main(["agreement", *arguments, "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert "suspicion" in printed and "density" in printed and "texture" not in printed
    run = ["--crossfit", str(runs / "concepts")]
    assert cli.main(["concepts-eval", *run, *arguments, "--nodules", "12", "--device", "cpu"]) == 0
    assert "dense" in capsys.readouterr().out
    first = next(p for p in bundle.concepts.atlas if p.kept)
    digest = sha256(bundle.folder / CONCEPTS_FILE)
    file.write_text(pruning_text(Pruning(digest, frozenset({(first.concept, first.number)}), {})))
    prune_bundle(bundle, file, tmp_path / "pruned")
    assert load_bundle(tmp_path / "pruned").info.case_source == MADE


def test_ratings_are_compared_where_cases_and_nodules_share_them(bundle, folder, case_folder):
    cpu = torch.device("cpu")
    own = unseen_of_bundle(bundle.folder, read_case_folder(folder)[:4], cpu)
    assert list(rating_agreement([own])) == ["suspicion", "density"]
    other = unseen_of_bundle(bundle.folder, read_case_folder(case_folder)[:4], cpu)
    assert other.scales == () and rating_agreement([other]) == {}
    assert np.isfinite(other.predictions.malignancy).all()


def test_concepts_are_not_judged_by_readers_of_other_scales(bundle, case_folder, capsys):
    arguments = ["concepts-eval", "--bundle", str(bundle.folder), "--cases", str(case_folder)]
    assert cli.main([*arguments, "--device", "cpu"]) == 2
    assert "wanted nodules rated as those of Made up nodules, got LIDC-IDRI" in (
        capsys.readouterr().err
    )


def test_two_sources_in_one_run_share_the_label_alone(folder, case_folder, cache):
    store = load_patch_store([folder, case_folder], cache)
    first = np.array([n.source == "made" for n in store.nodules])
    assert store.case_source == MADE and first.sum() == 48
    assert store.ratings[first].isfinite().all() and store.ratings[~first].isnan().all()
    assert store.malignancy.isfinite().all() and store.suspicion.isfinite().all()
    lidc = load_patch_store([case_folder], cache)
    assert torch.equal(store.malignancy[~first], lidc.malignancy)


def test_cases_of_another_source_are_no_bundle_of_a_run(runs, case_folder, tmp_path):
    with pytest.raises(InputError, match="wanted cases that were rated as those of .*made"):
        Export((case_folder,), runs / "all", runs / "cv", tmp_path / "no", device="cpu").run()


@pytest.mark.skipif(not (RUNS / "concepts").is_dir(), reason=f"no real runs at {RUNS}")
def test_settings_of_real_heads_are_still_those_of_lidc(monkeypatch):
    """A head that was trained before sources were told apart is not made again."""
    monkeypatch.chdir(RUNS.parent)
    made = read_head_settings(RUNS / "concepts" / "fold0" / "settings.json")
    options = Concepts(tuple(Path(f) for f in made["cases"]), RUNS / "cv", RUNS / "concepts")
    told = json.loads(json.dumps(settings_of(options, ConceptRecipe(), 0)))
    assert told["concepts"] == made["concepts"]
    assert concepts_of_run(RUNS / "concepts" / "fold0") == concepts_of(LIDC)
