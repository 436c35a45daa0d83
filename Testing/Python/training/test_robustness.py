"""How far answers hold in poorer scans: the scans, what is stored of them, the figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.cases.vote import Calibration, VoteRule
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.imaging.volume import MEASURED_HU, Volume, padding_of
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import save_network
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.data.acquisition import NOISY_HU, THICK_MM, Acquisition
from contrastdiagnosis_training.data.columns import save_columns
from contrastdiagnosis_training.data.degradations.degrade import (
    DEGRADATIONS,
    WORST,
    degrade,
    item_seed,
)
from contrastdiagnosis_training.evaluation.robustness import degraded, figures
from contrastdiagnosis_training.evaluation.robustness.degraded import (
    Poorer,
    degraded_parts,
    poorer_scan,
    predict_degraded,
)
from contrastdiagnosis_training.evaluation.robustness.figures import (
    Judges,
    RobustFigures,
    Said,
    as_record,
    fall_interval,
    fall_of_auc,
    mixed_parts,
    native_strata,
    poor_as_scanned,
    robust_figures,
    voted,
    wrong_at_worst,
)
from contrastdiagnosis_training.evaluation.support_vote import support_of_predictions
from contrastdiagnosis_training.runs.crossfit_run import load_fold
from contrastdiagnosis_training.runs.predictions import predict_nodules
from contrastdiagnosis_training.runs.run_folder import MODEL, SETTINGS
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from training.conftest import TINY, write_case_folder
from training.test_support_vote import predictions

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_case_folder(tmp_path_factory.mktemp("robust") / "stacks", patients=2)


@pytest.fixture(scope="module")
def nodules(folder):
    return read_case_folder(folder)


# Poorer scans.


def oblique():
    random = np.random.default_rng(0)
    hu = random.normal(-700, 150, (9, 30, 22)).round().astype(np.int16)
    affine = np.array([[-0.6, 0.2, 0.1, 5], [0.1, -0.8, 0.3, 7], [0.2, 0.2, 2.4, -9], [0, 0, 0, 1]])
    return Volume(hu, affine)


@pytest.mark.parametrize("operation", DEGRADATIONS)
def test_a_poorer_scan_keeps_grid_and_dtype_and_is_the_same_each_time(operation, nodules):
    volume = oblique()
    before = volume.hu.copy()
    worse, again = (poorer_scan(operation, WORST)(nodules[0], volume) for _ in range(2))
    assert worse.hu.dtype == np.int16 and worse.hu.shape == volume.hu.shape
    np.testing.assert_array_equal(worse.ijk_to_ras, volume.ijk_to_ras)
    np.testing.assert_array_equal(worse.hu, again.hu)
    np.testing.assert_array_equal(volume.hu, before)
    assert (worse.hu != before).mean() > 0.01
    wanted = degrade(
        torch.from_numpy(before.astype(np.float32))[None], [operation], torch.tensor([WORST]),
        volume.spacing_mm, [item_seed(nodules[0].case_id, operation, WORST)],
    )  # fmt: skip
    np.testing.assert_array_equal(worse.hu, wanted[0].round().clip(*MEASURED_HU).numpy())


def test_padding_stays_padding_and_does_not_leak(nodules):
    """Beside -2000 HU a blurred nodule would seem to be lung."""
    volume = oblique()
    hu = volume.hu.copy()
    hu[:, :8] = -2000
    air = hu.copy()
    air[:, :8] = DEFAULT_GEOMETRY.window_hu[0]
    poorer = poorer_scan("blur", WORST)(nodules[0], Volume(hu, volume.ijk_to_ras)).hu
    wanted = poorer_scan("blur", WORST)(nodules[0], Volume(air, volume.ijk_to_ras)).hu
    assert padding_of(poorer)[:, :8].all() and not padding_of(poorer)[:, 8:].any()
    np.testing.assert_array_equal(poorer[:, 8:], wanted[:, 8:])


def test_each_case_has_a_disturbance_of_its_own(nodules):
    first, second = (poorer_scan("low_dose", 3)(nodule, oblique()) for nodule in nodules[:2])
    assert (first.hu != second.hu).mean() > 0.5


# What is stored.

WAYS = [Poorer("blur", 1), Poorer("blur", 5), Poorer("hu_offset", 3)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return NoduleNet(TINY.network).eval()


@pytest.fixture
def run(folder, nodules, network, tmp_path):
    """As `crossfit` leaves it, of two folds with two tested nodules each."""
    for fold in (0, 1):
        place = tmp_path / "cv" / f"fold{fold}"
        place.mkdir(parents=True)
        save_network(place / MODEL, network)
        recipe = {"network": asdict(TINY.network), "augmentation": {}}
        settings = {"cases": [str(folder)], "fold": fold, "seed": 0, "recipe": recipe}
        (place / SETTINGS).write_text(json.dumps(settings))
        tested = predict_nodules(network, nodules[2 * fold : 2 * fold + 2][::-1], CPU)
        for role in ("train", "validation", "test"):
            save_columns(tested, place / f"{role}.npz")
    return tmp_path / "cv"


def files(run):
    return sorted(str(f.relative_to(run)) for f in run.glob(f"*/{degraded.FOLDER}/*.npz"))


def test_what_is_not_there_is_stored_once(run, nodules, network, monkeypatch):
    told = list(predict_degraded(run, [0, 1], WAYS, CPU))
    assert told == [(fold, way) for fold in (0, 1) for way in WAYS]
    names = ("blur-1", "blur-5", "hu_offset-3")
    assert files(run) == [f"fold{f}/{degraded.FOLDER}/{n}.npz" for f in (0, 1) for n in names]

    def never(*_, **__):
        pytest.fail("looked at again")

    monkeypatch.setattr(degraded, "predict_nodules", never)
    assert list(predict_degraded(run, [0, 1], WAYS, CPU)) == told
    # The test nodules in the order of the fold, in the scans that were asked for.
    clean = [(None, load_fold(run, fold)["test"]) for fold in (0, 1)]
    parts = degraded_parts(run, clean, [0, 1], WAYS[1])
    wanted = [
        predict_nodules(network, rows, CPU, change=poorer_scan("blur", 5))
        for rows in ([nodules[1], nodules[0]], [nodules[3], nodules[2]])
    ]
    for (_, part), other, (_, before) in zip(parts, wanted, clean, strict=True):
        assert part.case_id.tolist() == before.case_id.tolist() == other.case_id.tolist()
        np.testing.assert_allclose(part.embedding, other.embedding, atol=1e-5)
        np.testing.assert_allclose(part.facts, other.facts, rtol=1e-3, atol=1e-3)
        noise = FACT_NAMES.index("noise_hu")
        assert (part.facts[:, noise] < 0.5 * before.facts[:, noise]).all()


def test_after_an_interruption_the_rest_is_looked_at(run, monkeypatch):
    whole, count = degraded.predict_nodules, []

    def interrupted(*given, **options):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return whole(*given, **options)

    monkeypatch.setattr(degraded, "predict_nodules", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(predict_degraded(run, [0], WAYS, CPU))
    assert files(run) == [f"fold0/{degraded.FOLDER}/{n}.npz" for n in ("blur-1", "blur-5")]
    before = {f: (run / f).stat().st_mtime_ns for f in files(run)}
    assert len(list(predict_degraded(run, [0], WAYS, CPU))) == 3
    assert len(count) == 4 and len(files(run)) == 3
    assert {f: (run / f).stat().st_mtime_ns for f in before} == before


def test_a_fold_that_is_not_there_is_told(run, tmp_path):
    with pytest.raises(InputError, match=r"cv holds no fold 4; it holds \[0, 1\]"):
        list(predict_degraded(run, [0, 4], WAYS, CPU))
    with pytest.raises(InputError, match="holds no predictions; fill it by contrastdiagnosis-tra"):
        list(predict_degraded(tmp_path / "nothing", [0], WAYS, CPU))


def test_a_case_folder_that_is_gone_is_told(run):
    file = run / "fold0" / SETTINGS
    settings = json.loads(file.read_text()) | {"cases": ["/nowhere/stacks"]}
    file.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="the case folder /nowhere/stacks of the run .* is not th"):
        list(predict_degraded(run, [0], WAYS, CPU))


def test_what_was_stored_of_other_weights_is_refused(run):
    """A fold that was trained again in the same folder has not said it."""
    list(predict_degraded(run, [0], WAYS[:1], CPU))
    list(predict_degraded(run, [0], WAYS[:1], CPU))
    model = run / "fold0" / MODEL
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"degraded-\d+ is of other weights than .*; delete it"):
        list(predict_degraded(run, [0], WAYS[:1], CPU))


def test_what_was_stored_of_other_nodules_is_refused(run):
    list(predict_degraded(run, [0], WAYS[:1], CPU))
    clean = load_fold(run, 0)["test"]
    other = clean[np.array([1, 0])]
    with pytest.raises(InputError, match=r"blur-1.npz is of other nodules; delete it"):
        degraded_parts(run, [(None, other)], [0], WAYS[0])


def test_a_file_that_goes_on_beyond_its_nodule_is_known_to(run):
    """It is judged as a whole scan in either; a poorer scan is not cut to look."""
    list(predict_degraded(run, [0], WAYS[:1], CPU))
    clean = replace(load_fold(run, 0)["test"], trimmed_dice=np.array([0.8, np.nan]))
    ((_, poorer),) = degraded_parts(run, [(None, clean)], [0], WAYS[0])
    np.testing.assert_array_equal(poorer.trimmed_dice, clean.trimmed_dice)


# Figures.

RULE, CALIBRATION = VoteRule(7, 0.9), Calibration(1.3, -0.2)


def part(seed, noise=0.0, first_patient=100):
    """60 cases, and 24 nodules in a scan that moves their embeddings."""
    cases = predictions(60, seed=seed)
    nodules = predictions(24, seed=seed + 50, first_patient=first_patient)
    random = np.random.default_rng(seed + 9)
    moved = noise * random.normal(size=nodules.embedding.shape).astype(np.float32)
    facts = nodules.facts.copy()
    facts[:, FACT_NAMES.index("noise_hu")] += noise
    nodules = replace(
        nodules, embedding=nodules.embedding + moved, facts=facts,
        dice=np.linspace(0.5, 0.9, 24) - 0.1 * noise,
    )  # fmt: skip
    support = replace(support_of_predictions(cases), vote=RULE, calibration=CALIBRATION)
    return support, nodules


@pytest.fixture(scope="module")
def clean():
    # The second part's first nodules are of patients who have cases: these never vote for them.
    return [part(0), part(1, first_patient=25)]


@pytest.fixture(scope="module")
def poorer():
    return [part(0, 1.0), part(1, 1.0, first_patient=25)]


@pytest.fixture
def judges(monkeypatch):
    """Every third nodule is confident, whatever it shows."""

    def judged(support, nodules, threshold, split_vote, limits):
        assert (threshold, limits.min_covered_share, split_vote) == (0.5, 0.25, (0.4, 0.6))
        return [SimpleNamespace(confident=n % 3 == 0) for n in range(len(nodules))]

    monkeypatch.setattr(figures, "confidence_of_nodules", judged)
    monkeypatch.setattr(figures.BundleInfo, "split_vote", (0.4, 0.6))
    return Judges([0.5, 0.5], [CaseLimits(min_covered_share=0.25)] * 2)


def slow_nodule(support, nodules, n):
    """(cases by distance, probability, mean malignancy of the voters) of one nodule."""
    z = nodules.embedding[n].astype(np.float64)
    far = []
    for m, case in enumerate(support.embedding):
        own = support.patient_id[m] == nodules.patient_id[n]
        far.append((math.inf if own else math.dist(z, case.astype(np.float64)), m))
    order = sorted(far)
    near = order[: RULE.k]
    weights = [math.exp(-(d - near[0][0]) / RULE.temperature) for d, _ in near]
    told = [support.malignancy[m] for _, m in near]
    score = sum(w for w, m in zip(weights, told, strict=True) if m > 3) / sum(weights)
    score = min(max(score, 1e-3), 1 - 1e-3)
    odds = CALIBRATION.slope * math.log(score / (1 - score)) + CALIBRATION.intercept
    mean = sum(w * m for w, m in zip(weights, told, strict=True)) / sum(weights)
    return [m for _, m in order], 1 / (1 + math.exp(-odds)), mean


def slow_auc(score, truth):
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a, p in zip(score, truth, strict=True) if p
        for b, q in zip(score, truth, strict=True) if not q
    ]  # fmt: skip
    return sum(pairs) / len(pairs)


def test_the_figures_equal_the_loops(clean, poorer, judges):
    told = robust_figures(clean, poorer, judges)
    shift, stay, score, rated, predicted, right, sure = [], [], [], [], [], [], []
    for (support, before), (_, after) in zip(clean, poorer, strict=True):
        for n in range(len(after)):
            order, p, mean = slow_nodule(support, after, n)
            order_before, p_before, _ = slow_nodule(support, before, n)
            shift.append(p - p_before)
            stay.append(len(set(order[:10]) & set(order_before[:10])) / 10)
            predicted.append(min(max(round(mean), 1), 5))
            rated.append(int(after.malignancy[n]))
            if after.malignancy[n] != 3:
                score.append((p, after.malignancy[n] > 3))
                right.append((p > 0.5) == (after.malignancy[n] > 3))
                sure.append(n % 3 == 0)
    count = len(score)
    assert told.n == count < 48
    assert told.auc == pytest.approx(slow_auc(*zip(*score, strict=True)))
    assert told.accuracy == pytest.approx(sum(right) / count)
    assert told.shift == pytest.approx(np.mean(shift))
    assert told.change == pytest.approx(np.mean(np.abs(shift)))
    assert told.overlap == pytest.approx(np.mean(stay)) and 0.1 < told.overlap < 0.9
    assert told.kappa == pytest.approx(cohen_kappa_score(predicted, rated, weights="quadratic"))
    assert told.dice == pytest.approx(0.6)
    wrong = [s and not r for s, r in zip(sure, right, strict=True)]
    assert told.confident == pytest.approx(sum(sure) / count)
    assert told.confident_wrong == pytest.approx(sum(wrong) / sum(sure)) and sum(wrong) > 0
    assert told.wrong == pytest.approx(sum(wrong) / count)
    assert as_record(told) == asdict(told)


def test_a_scan_as_it_is_changes_nothing(clean, judges):
    told = robust_figures(clean, clean, judges)
    assert (told.shift, told.change, told.overlap) == (0, 0, 1)


def test_the_diameter_is_that_of_the_marks_and_no_scan_makes_it_poorer(clean, poorer, judges):
    """Of one part its AUC is that of the diameter itself, or of its inverse."""
    smaller = [(s, replace(r, diameter_mm=r.diameter_mm / 2)) for s, r in poorer]
    before, after = (robust_figures(clean, told, judges).auc_diameter for told in (clean, smaller))
    assert before == after
    alone = Judges(judges.thresholds[:1], judges.limits[:1])
    _, nodules = clean[0]
    kept = nodules.malignancy != 3
    own = slow_auc(nodules.diameter_mm[kept], nodules.malignancy[kept] > 3)
    told = robust_figures(clean[:1], clean[:1], alone).auc_diameter
    assert min(abs(told - own), abs(told - (1 - own))) < 1e-9


def test_kappa_is_the_published_one_and_leaves_out_who_was_not_rated(clean, judges):
    """1 - sum w O / sum w E with w = (i - j)^2."""
    blank = [
        (s, replace(r, malignancy=np.where(np.arange(24) < 5, np.nan, r.malignancy)))
        for s, r in clean
    ]
    told = robust_figures(blank, blank, judges)
    pairs = []
    for support, nodules in blank:
        for n in range(5, 24):
            mean = slow_nodule(support, nodules, n)[2]
            pairs.append((min(max(round(mean), 1), 5), int(nodules.malignancy[n])))
    seen = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    expected = np.mean([(a - b) ** 2 for a, _ in pairs for _, b in pairs])
    assert told.kappa == pytest.approx(1 - seen / expected)


def test_where_nobody_is_confident_no_share_of_them_is_wrong(clean, judges, monkeypatch):
    monkeypatch.setattr(
        figures, "confidence_of_nodules",
        lambda support, nodules, *_: [SimpleNamespace(confident=False)] * len(nodules),
    )  # fmt: skip
    told = robust_figures(clean, clean, judges)
    assert (told.confident, told.wrong) == (0, 0) and math.isnan(told.confident_wrong)


def test_confidence_is_the_products_rule(clean):
    """Not patched: far from every case nobody is confident."""
    near, far = (Judges([t, t], [CaseLimits()] * 2) for t in (1e9, 1e-9))
    assert robust_figures(clean, clean, near).confident > 0.2
    assert robust_figures(clean, clean, far).confident == 0


def marked(clean, way, number):
    """Parts whose every column tells which way they are of."""
    told = []
    for support, nodules in clean:
        columns = {}
        for field in fields(nodules):
            column = getattr(nodules, field.name)
            text = field.name in ("case_id", "patient_id")
            columns[field.name] = column if text else np.full_like(column, number)
        told.append((support, type(nodules)(**columns)))
    return told


@pytest.fixture(scope="module")
def by_way(clean):
    ways = [Poorer("blur", 1), Poorer("blur", 3), Poorer("ring", 4), Poorer("ring", 5)]
    return {way: marked(clean, way, 1000 + n) for n, way in enumerate(ways)}


@pytest.mark.parametrize("share", [0.0, 0.33, 0.7, 1.0])
def test_the_drawn_share_of_the_nodules_is_seen_in_poorer_scans(clean, by_way, share):
    drawn = []
    for (support, nodules), (own, before) in zip(
        mixed_parts(clean, by_way, share), clean, strict=True
    ):
        assert support is own
        number = nodules.malignancy.copy()
        changed = number >= 1000
        assert changed.sum() == round(share * 24)
        for field in fields(nodules):
            now, then = getattr(nodules, field.name), getattr(before, field.name)
            np.testing.assert_array_equal(now[~changed], then[~changed])
            if field.name in ("case_id", "patient_id"):
                np.testing.assert_array_equal(now, then)
            else:  # All of a nodule is of the same way.
                wanted = np.broadcast_to(number.reshape(-1, *[1] * (now.ndim - 1)), now.shape)
                np.testing.assert_array_equal(now[changed], wanted[changed].astype(now.dtype))
        drawn += number[changed].tolist()
    # The mild one is never drawn, each of the others is.
    assert set(drawn) == ({1001, 1002, 1003} if share else set())


def test_the_seed_draws_who_is_seen_how(clean, by_way):
    first, again, other = (
        [r.malignancy.tolist() for _, r in mixed_parts(clean, by_way, 0.5, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    changed = [np.array(part) >= 1000 for part in first]
    assert (changed[0] != changed[1]).any()
    assert clean[0][1].malignancy.max() <= 5


def of_auc(auc, confident_wrong):
    rest = {f.name: 0.0 for f in fields(RobustFigures)}
    return RobustFigures(**rest | {"auc": auc, "confident_wrong": confident_wrong})


def test_the_interval_of_the_fall_is_of_patients_and_paired():
    """Against a loop that draws patients one by one; a run against itself differs by nothing."""
    random = np.random.default_rng(0)
    malignant = random.random(80) < 0.5
    patient = random.integers(0, 40, 80).astype(str)
    clean = malignant + random.normal(0, 0.7, 80)
    poorer = [clean + random.normal(0, s, 80) for s in (0.3, 2.0)]
    said = Said(clean, poorer)

    def fall(rows):
        aucs = [roc_auc_score(malignant[rows], p[rows]) for p in (clean, *poorer)]
        return aucs[0] - np.mean(aucs[1:])

    names = np.unique(patient)
    drawn = [
        fall(
            np.concatenate([np.flatnonzero(patient == p) for p in random.choice(names, len(names))])
        )
        for _ in range(600)
    ]
    wanted = np.percentile(drawn, [2.5, 97.5])
    assert fall_interval(said, None, malignant, patient) == pytest.approx(wanted, abs=0.02)
    assert fall_interval(said, said, malignant, patient) == (0.0, 0.0)
    other = Said(clean, [clean, clean])
    low, high = fall_interval(other, said, malignant, patient)
    assert (low, high) == pytest.approx(-wanted[::-1], abs=0.02)


def test_the_fall_is_that_of_severity_three_and_the_wrong_that_of_the_worst():
    clean = of_auc(0.9, 0.0)
    ways = {
        Poorer("blur", 1): of_auc(0.1, 0.9), Poorer("blur", 3): of_auc(0.8, 0.9),
        Poorer("blur", 5): of_auc(0.1, 0.2), Poorer("ring", 3): of_auc(0.85, 0.9),
        Poorer("ring", 5): of_auc(0.1, math.nan), Poorer("streak", 5): of_auc(0.1, 0.4),
    }  # fmt: skip
    assert fall_of_auc(ways, clean) == pytest.approx((0.1 + 0.05) / 2)
    assert wrong_at_worst(ways) == pytest.approx(0.3)
    mild = {Poorer("blur", 1): of_auc(0.1, 0.9)}
    assert math.isnan(fall_of_auc(mild, clean)) and math.isnan(wrong_at_worst(mild))
    nobody = {Poorer("blur", 5): of_auc(0.1, math.nan)}
    assert math.isnan(wrong_at_worst(nobody))


def test_strata_are_told_by_series_slices_and_noise(clean, nodules):
    """Against a loop over the nodules."""
    parts, told = [], {}
    random = np.random.default_rng(0)
    for number, (support, rows) in enumerate(clean):
        facts = rows.facts.copy()
        facts[:, FACT_NAMES.index("slice_mm")] = random.choice([1.0, THICK_MM + 0.5], 24)
        facts[:, FACT_NAMES.index("noise_hu")] = random.choice(
            [np.nan, NOISY_HU - 1, NOISY_HU + 1], 24
        )
        case_id = np.array([f"c{number}_{n}" for n in range(24)])
        parts.append((support, replace(rows, facts=facts, case_id=case_id)))
    table = []
    for number in range(2):
        for n in range(24):
            kernel = "LUNG" if n % 5 == 0 else "STANDARD"
            told[f"s{number}_{n}"] = Acquisition(1.0, 300.0, kernel)
            series = "" if n == 7 else f"s{number}_{n}"
            table.append(replace(nodules[0], case_id=f"c{number}_{n}", series_uid=series))
    malignancy = np.concatenate([rows.malignancy for _, rows in parts])
    strata = native_strata(voted(parts), malignancy, poor_as_scanned(parts, table, told))
    wanted = {"good": [], "poor": []}
    for support, rows in parts:
        for n in range(24):
            slices, noise = (
                rows.facts[n, FACT_NAMES.index(name)] for name in ("slice_mm", "noise_hu")
            )
            poor = slices > THICK_MM or noise > NOISY_HU or n % 5 == 0
            if rows.malignancy[n] != 3:
                p = slow_nodule(support, rows, n)[1]
                wanted["poor" if poor else "good"].append((p, rows.malignancy[n] > 3))
    assert strata.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert strata[name]["n"] == len(rows) > 3
        assert strata[name]["auc"] == pytest.approx(slow_auc(*zip(*rows, strict=True)))
