"""How far readers agree, and the ceiling that their noise sets (docs/methods.md 2.1)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.commands.agreement import (
    IDEAL_METRICS,
    ReaderModel,
    ideal_metrics,
    one_reader_against_the_others,
    variance_components,
)


def ratings(between=0.8, within=0.6, count=400, readers=4, seed=0, rounded=True):
    random = np.random.default_rng(seed)
    true = random.normal(3, between**0.5, count)
    values = true[:, None] + random.normal(0, within**0.5, (count, readers))
    return list(np.clip(np.round(values), 1, 5) if rounded else values)


def test_variance_components_are_found_again():
    found = variance_components(ratings(count=4000, rounded=False))
    assert found.between == pytest.approx(0.8, rel=0.1)
    assert found.within == pytest.approx(0.6, rel=0.1)
    assert found.reliability(1) == pytest.approx(0.8 / 1.4, rel=0.1)
    assert found.reliability(4) == pytest.approx(0.8 / 0.95, rel=0.1)


def test_variance_components_of_the_textbook():
    """Shrout and Fleiss 1979, table 2: ICC(1,1) of their six targets and four judges is .17."""
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert variance_components(table).reliability(1) == pytest.approx(0.17, abs=0.005)
    assert variance_components(table).reliability(4) == pytest.approx(0.44, abs=0.005)


def test_uneven_numbers_of_readers():
    whole = ratings(count=3000, rounded=False)
    some = [r[: 2 + n % 3] for n, r in enumerate(whole)]
    assert variance_components(some).between == pytest.approx(0.8, rel=0.15)


def test_one_reader_against_the_others_equals_the_loop():
    own = [[5.0, 4.0, 4.0], [1.0, 2.0, 3.0], [3.0, 5.0, 2.0], [4.0]]
    # Nodule 0: 5, 4, 4 against > 3. Nodule 1: 1 against 2.5, 2 against 2, 3 against 1.5.
    # Nodule 2: 3 against 3.5, 5 against 2.5, 2 against 4. Nodule 3 has no others.
    found = one_reader_against_the_others(own, LIDC)
    assert found["accuracy"] == pytest.approx((3 + 2 + 0.5 + 0.5 + 0 + 0) / 9)
    malignant, benign = [5, 4, 4, 3, 2], [1, 2, 3, 5]
    pairs = [(m > b) + 0.5 * (m == b) for m in malignant for b in benign]
    assert found["auc"] == pytest.approx(np.mean(pairs))


def test_simulated_readers_scatter_as_the_real_ones():
    real = ratings()
    model, wanted = ReaderModel(real, LIDC), variance_components(real)
    found = [variance_components(model.ratings()) for _ in range(10)]
    assert np.mean([f.between for f in found]) == pytest.approx(wanted.between, rel=0.05)
    assert np.mean([f.within for f in found]) == pytest.approx(wanted.within, rel=0.05)


def metrics_of(given):
    patient = np.arange(len(given)) // 2
    diameter = np.random.default_rng(0).uniform(4, 20, len(given))
    return ideal_metrics(ReaderModel(given, LIDC), diameter, patient, repeats=5)


def test_without_noise_the_ideal_is_perfect():
    one_voice = [np.repeat(value, 4) for value in (1.0, 2.0, 4.0, 5.0) for _ in range(30)]
    for name, (mean, _, _) in metrics_of(one_voice).items():
        assert mean == pytest.approx(1), name


def test_noise_lowers_the_ceiling():
    quiet, loud = (metrics_of(ratings(within=w)) for w in (0.1, 1.5))
    assert set(quiet) == set(IDEAL_METRICS)
    for name in IDEAL_METRICS:
        assert loud[name][0] < quiet[name][0] - 0.03, name
        assert loud[name][1] <= loud[name][0] <= loud[name][2]


def test_the_simulation_is_seeded():
    assert metrics_of(ratings(count=80)) == metrics_of(ratings(count=80))


def test_a_band_without_both_classes_has_no_figure():
    given = ratings(count=80)
    patient, diameter = np.arange(80), np.full(80, 20.0)
    assert "auc_6_12mm" not in ideal_metrics(ReaderModel(given, LIDC), diameter, patient, repeats=2)


@pytest.mark.parametrize("given", [[], [[3.0, 4.0]], [[3.0], [4.0], [1.0]]])
def test_too_few_ratings_are_refused(given):
    with pytest.raises(InputError, match="two nodules, some of them rated by two readers"):
        variance_components(given)


def test_the_command_prints_and_writes(case_folder, tmp_path, capsys):
    file = tmp_path / "agreement.json"
    arguments = ["agreement", "--cases", str(case_folder), "--json", str(file), "--repeats", "3"]
    assert cli.main(arguments) == 0
    printed, written = capsys.readouterr().out, json.loads(file.read_text())
    assert "one reader against the others" in printed
    assert set(written["ratings"]) == {"texture", "malignancy"}
    assert f"{written['ideal']['auc'][0]:.3f}" in printed


def test_a_folder_without_ratings_is_refused(case_folder, tmp_path, capsys):
    for part in ("image", "votes"):
        (tmp_path / part).symlink_to(case_folder / part)
    rows = (case_folder / "nodules.csv").read_text().replace("malignancy_readers", "opinion")
    (tmp_path / "nodules.csv").write_text(rows)
    assert cli.main(["agreement", "--cases", str(tmp_path)]) == 2
    assert "holds no malignancy ratings" in capsys.readouterr().err
