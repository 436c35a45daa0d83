"""The control: what is measured under the readers' masks, and who the forest may learn from."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import NoduleScan, read_case_folder
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis_training.evaluation import mask_measures as module
from contrastdiagnosis_training.evaluation.mask_measures import (
    MEASURES,
    Control,
    control_of,
    mask_measures,
)

from training.conftest import write_case_folder

SPACING_MM = (1.25, 0.7, 0.7)


def ellipsoid(radii_mm, density=40.0):
    """A scan of an ellipsoid with half-axes along (k, j, i), its left half 100 HU denser."""
    k, j, i = (
        np.mgrid[-16:17, -30:31, -30:31] * np.array(SPACING_MM)[:, None, None, None]
    ) / np.array(radii_mm)[:, None, None, None]
    inside = k**2 + j**2 + i**2 < 1
    hu = np.where(inside, density + 100 * (i < 0), -850).astype(np.int16)
    affine = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1.0])
    return NoduleScan(Volume(hu, affine), inside.astype(np.float32))


def told(scan):
    return dict(zip(MEASURES, mask_measures(scan).tolist(), strict=True))


def test_a_ball_is_measured_as_geometry_says():
    measured = told(ellipsoid((8, 8, 8)))
    assert measured["volume_mm3"] == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)
    for name in ("long_mm", "short_mm", "depth_mm"):
        assert measured[name] == pytest.approx(16, abs=1.3)
    # The faces of voxels have 1.5 times the area of the ball that they fill.
    assert measured["sphericity"] == pytest.approx(1 / 1.5, rel=0.05)
    assert measured["fill"] == pytest.approx(np.pi / 6, rel=0.1)
    assert measured["elongation"] == pytest.approx(1, abs=0.05)
    assert measured["flatness"] == pytest.approx(1, abs=0.06)


def test_axes_are_principal_ones():
    measured = told(ellipsoid((4, 6, 12)))
    assert measured["elongation"] == pytest.approx(6 / 12, abs=0.04)
    assert measured["flatness"] == pytest.approx(4 / 12, abs=0.04)
    assert measured["depth_mm"] == pytest.approx(8, abs=1.3)
    assert measured["long_mm"] == pytest.approx(24, abs=1)


def test_density_is_that_under_the_mask_alone():
    measured = told(ellipsoid((8, 8, 8), density=-300.0))
    assert measured["low_hu"] == -300 and measured["high_hu"] == -200
    assert measured["mean_hu"] == pytest.approx(-250, abs=5)
    assert measured["sd_hu"] == pytest.approx(50, abs=1)


def test_a_single_voxel_can_be_measured():
    scan = ellipsoid((8, 8, 8))
    share = np.zeros_like(scan.share)
    share[16, 30, 30] = 1
    assert np.isfinite(mask_measures(NoduleScan(scan.volume, share))).all()


def test_the_forest_of_a_nodule_never_saw_its_fold(monkeypatch):
    random = np.random.default_rng(0)
    fold = np.arange(40) % 4
    measures = random.normal(size=(40, len(MEASURES)))
    measures[:, 0] = fold
    malignancy = np.where(np.arange(40) < 20, 2.0, 4.0)
    malignancy[::8] = 3.0
    control = Control(np.array([f"n{n}" for n in range(40)]), malignancy, fold, measures)
    seen = []

    def spying(known, malignant, unseen, seed):
        seen.append((set(known[:, 0]), set(unseen[:, 0]), len(known)))
        return unseen[:, 0] / 10

    monkeypatch.setattr(module, "forest_baseline", spying)
    asked = np.array(["n7", "n0", "n33"])
    np.testing.assert_allclose(control.probability("exclude3", asked), fold[[7, 0, 33]] / 10)
    for known, unseen, count in seen:
        assert len(unseen) == 1 and known == {0, 1, 2, 3} - unseen
        others = malignancy[fold != unseen.pop()]
        assert count == (others != 3).sum()


def test_folds_are_the_folders_own_or_else_whole_patients(tmp_path, monkeypatch):
    rows = read_case_folder(write_case_folder(tmp_path / "cases", patients=7))
    monkeypatch.setattr(module, "mask_measures", lambda scan: np.zeros(len(MEASURES)))
    assert control_of(rows).fold.tolist() == [n.fold for n in rows]
    table = tmp_path / "cases" / "nodules.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    plain = read_case_folder(tmp_path / "cases")
    fold = control_of(plain).fold
    assert len(set(fold.tolist())) == 5
    patient = np.array([n.patient_id for n in plain])
    for name in set(patient.tolist()):
        assert len(set(fold[patient == name].tolist())) == 1
    assert control_of(plain[:1]).fold.tolist() == [0]
