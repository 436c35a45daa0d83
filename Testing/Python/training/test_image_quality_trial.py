"""Detectors of poor images: rows, fits, thresholds, and figures on patients left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.image_quality import MEASURES, image_quality
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.trust.poor_image import KINDS, MEASURES_OF
from contrastdiagnosis_training.commands.quality_fit import detector_metrics, learnt_from
from contrastdiagnosis_training.data.degradations.degrade import faults_of
from contrastdiagnosis_training.evaluation.image_quality_trial import (
    auroc_table,
    fit_detector,
    fit_poor_image,
    has_fault,
    left_out,
    number_table,
    scores,
    table_text,
    told_scores,
    told_table,
)
from contrastdiagnosis_training.evaluation.quality_rows import (
    CLEAN,
    OWN,
    PAIRS,
    Place,
    QualityRows,
    degraded_volume,
    joined_rows,
    measured,
    nodule_places,
)

from training.conftest import write_case_folder

MOVES = {"low_dose": "noise_hu", "thick_slices": "thickness_mm", "blur": "in_plane_mm",
         "motion": "ghost"}  # fmt: skip


def made_rows(count=200, seed=0):
    """Clean images and poorer ones, in which one measure alone is twice what it was."""
    random = np.random.default_rng(seed)
    clean = np.exp(random.normal(0, 0.2, (count, len(MEASURES))))
    clean[:, MEASURES.index("thickness_mm")] *= 1.7
    # In lung without any noise sharp images are never told to be blurred.
    clean[:, MEASURES.index("noise_hu")] *= 30
    measures, operations = [clean], [CLEAN] * count
    for operation, name in MOVES.items():
        poorer = clean * np.exp(random.normal(0, 0.05, clean.shape))
        poorer[:, MEASURES.index(name)] *= 3
        measures.append(poorer)
        operations += [operation] * count
    copies = len(measures)
    return QualityRows(
        measures=np.concatenate(measures), operation=np.array(operations),
        severity=np.repeat([0] + [3] * len(MOVES), count),
        image=np.tile([f"image {n}" for n in range(count)], copies),
        patient_id=np.tile([f"patient {n // 2}" for n in range(count)], copies),
        source=np.array(["made"] * count * copies),
        fold=np.tile([n // 2 % 5 for n in range(count)], copies),
    )  # fmt: skip


def scan_of(hu, step_mm=1.0):
    return Volume(hu, np.diag([-0.7, -0.7, step_mm, 1.0]))


def test_each_kind_is_told_of_its_own_operation():
    rows = made_rows()
    odds, told = left_out(rows)
    for row in auroc_table(rows, odds):
        for kind, operation in zip(KINDS, MOVES, strict=True):
            assert (row[kind] > 0.98) == (row["operation"] == operation), (row, kind)
    shares = {row["operation"]: row for row in told_table(rows, told)}
    for kind, operation in zip(KINDS, MOVES, strict=True):
        assert shares[operation][kind] > 0.9
    assert shares[CLEAN]["any"] == pytest.approx(0.05, abs=0.05)


def test_slices_of_the_cases_own_thickness_are_never_told_to_be_thick():
    rows = made_rows()
    thickness = MEASURES.index("thickness_mm")
    rows.measures[:, thickness] *= 2.9 / rows.measures[:, thickness].max()
    odds, told = left_out(rows)
    assert auroc_table(rows, odds)[2]["thick slices"] > 0.98
    assert not told[:, KINDS.index("thick slices")].any()


def test_scores_are_those_of_the_engine():
    rows = made_rows()
    rows.measures[::7, MEASURES.index("thickness_mm")] = np.nan
    for poor in fit_detector(rows).kinds:
        wanted = [poor.score(quality) for quality in rows.qualities()[:30]]
        assert scores(rows, poor)[:30] == pytest.approx(wanted)


def test_no_more_good_patients_are_told_than_allowed():
    rows = made_rows(600)
    for allowed in (0.03, 0.1):
        detector = fit_detector(rows, allowed)
        told = np.array([bool(detector.told(q)) for q in rows[rows.clean].qualities()])
        assert allowed / 4 < told.mean() <= allowed
    few = rows[np.isin(rows.patient_id, [f"patient {n}" for n in range(10)])]
    detector = fit_detector(few, 0.01)
    assert not any(detector.told(q) for q in few[few.clean].qualities())


def test_patients_weigh_alike():
    """One patient's many odd images cost no more than another's single one."""
    rows = made_rows()
    odd = rows[rows.clean & (rows.image == "image 0")]
    odd.measures[:] *= 5
    many = joined_rows([rows, *[odd] * 50])
    few = joined_rows([rows, odd])
    for one, other in zip(fit_detector(many).kinds, fit_detector(few).kinds, strict=True):
        share = [
            (told_scores(rows[rows.clean], poor) >= poor.threshold).mean() for poor in (one, other)
        ]
        assert share[0] == pytest.approx(share[1], abs=0.03)


def test_patients_left_out_have_no_say():
    rows = made_rows()
    odds, _ = left_out(rows)
    poisoned = replace(rows, measures=rows.measures.copy())
    poisoned.measures[rows.fold == 2] *= np.random.default_rng(1).uniform(1, 9, (1, len(MEASURES)))
    again, _ = left_out(poisoned)
    detector = fit_detector(rows[rows.fold != 2])
    for n, poor in enumerate(detector.kinds):
        mine = rows.fold == 2
        assert odds[mine, n] == pytest.approx(scores(rows[mine], poor))
        assert again[mine, n] == pytest.approx(scores(poisoned[mine], poor))
    away = replace(rows, fold=np.where(rows.fold == 2, -1, rows.fold))
    assert left_out(away)[0][rows.fold == 2] == pytest.approx(odds[rows.fold == 2])


def test_images_without_a_fold_are_asked_about_alone():
    """Thick scans as they came are no good images: with them among these no slices were told."""
    rows = made_rows()
    thick = rows[rows.clean]
    thick.measures[:, MEASURES.index("thickness_mm")] *= 3
    count = len(thick)
    thick = replace(
        thick, fold=np.full(count, -1), source=np.array(["thick"] * count),
        patient_id=np.array([f"other {n}" for n in range(count)]),
    )  # fmt: skip
    both = joined_rows([rows, thick])
    told, alone = detector_metrics(both), detector_metrics(rows)
    assert fit_detector(learnt_from(both)) == fit_detector(rows)
    for name in ("auroc", "told", "numbers"):
        assert told[name] == alone[name]
    made, came = told["came"]
    assert (made["source"], made["n"], came["source"]) == ("made", 200, "thick")
    assert made["thick slices"] < 0.06 and came["thick slices"] > 0.9
    with pytest.raises(InputError, match="wanted a case folder with a fold of each nodule"):
        learnt_from(thick)


def test_a_fault_is_learnt_among_others_too():
    """Among others it may look otherwise: noise makes edges seem sharp where they are blurred."""
    rows = made_rows()
    noise, width = MEASURES.index("noise_hu"), MEASURES.index("in_plane_mm")
    both = rows[rows.clean]
    both.measures[:, noise] *= 3
    both.measures[:, width] /= 3
    both = replace(
        both, operation=np.full(len(both), "blur+low_dose"), severity=np.full(len(both), 3)
    )
    joined = joined_rows([rows, both])
    assert has_fault(joined, ["blur"])[-len(both) :].all()
    assert not has_fault(joined, ["motion"])[-len(both) :].any()
    for kind, fault in (("noise", "low_dose"), ("blur", "blur")):
        poor = fit_poor_image(joined, kind)
        for images, told in ((both, 1), (rows[rows.operation == fault], 1), (rows[rows.clean], 0)):
            share = (scores(images, poor) > 0).mean()
            assert share == pytest.approx(told, abs=0.1), (kind, fault)


def test_a_kind_without_examples_is_refused():
    rows = made_rows()
    with pytest.raises(InputError, match="motion: wanted clean images and some of"):
        fit_poor_image(rows[rows.operation != "motion"], "motion")
    with pytest.raises(InputError, match="blur: wanted clean images and some of"):
        fit_poor_image(rows[~rows.clean], "blur")


def test_typical_measures_are_those_of_clean_images():
    rows = made_rows()
    poor = fit_poor_image(rows, "noise")
    clean = rows[rows.clean]
    wanted = [np.median(clean.measure(name)) for name in MEASURES_OF["noise"]]
    assert poor.typical == pytest.approx(wanted, abs=1e-4)


def test_rows_are_what_the_engine_measures(tmp_path):
    nodules = read_case_folder(write_case_folder(tmp_path / "cases", patients=1))
    rows = measured(nodule_places(nodules), ["low_dose", "white_noise"], [4])
    assert rows.operation.tolist() == [CLEAN, "low_dose", "white_noise"] * 2
    assert rows.severity.tolist() == [0, 4, 4] * 2
    assert rows.image.tolist() == np.repeat([n.case_id for n in nodules], 3).tolist()
    assert rows.patient_id[0] == nodules[0].patient_id
    place = next(iter(nodule_places(nodules)))
    patch = crop_patch(place.volume, place.point_ras_mm)
    wanted = image_quality(patch, place.volume, place.point_ras_mm)
    told = rows.qualities()[0]
    for name in MEASURES:
        # Rounded to whole HU.
        assert getattr(told, name) == pytest.approx(
            getattr(wanted, name), rel=0.05, abs=0.5, nan_ok=True
        ), name
    noisier = rows.measure("noise_hu")
    assert (noisier[1::3] > noisier[0::3] + 30).all()


@pytest.mark.parametrize("operation", OWN[:2])
def test_own_noise_has_the_named_spread(operation):
    scan = scan_of(np.full((6, 60, 60), -600.0))
    noisy = degraded_volume(scan, operation, 4, seed=3)
    assert (noisy.hu + 600).std() == pytest.approx(80, rel=0.03)
    assert (degraded_volume(scan, operation, 4, seed=3).hu == noisy.hu).all()


def test_slices_on_their_own_grid_are_means_that_lie_where_they_were():
    hu = np.random.default_rng(0).normal(0, 300, (12, 5, 6)).astype(np.float32)
    thick = degraded_volume(scan_of(hu, 1.25), "own_grid_slices", 3, seed=0)
    assert thick.spacing_mm == pytest.approx((3.75, 0.7, 0.7))
    assert thick.hu[1] == pytest.approx(hu[3:6].mean(axis=0), abs=0.51)
    assert thick.ras_from_ijk((2, 1, 1)) == pytest.approx(scan_of(hu, 1.25).ras_from_ijk((2, 1, 4)))
    assert degraded_volume(scan_of(hu, 4.0), "own_grid_slices", 3, seed=0) is None
    assert degraded_volume(scan_of(hu[:5], 1.25), "own_grid_slices", 3, seed=0) is None


def test_sliding_slices_are_means_around_each():
    hu = np.random.default_rng(0).normal(0, 300, (12, 5, 6)).astype(np.float32)
    thick = degraded_volume(scan_of(hu, 1.25), "sliding_slices", 3, seed=0)
    assert thick.spacing_mm[0] == 1.25
    assert thick.hu[5] == pytest.approx(hu[4:7].mean(axis=0), abs=0.51)
    assert degraded_volume(scan_of(hu, 3.5), "sliding_slices", 3, seed=0) is None


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_of_faults_is_one_after_the_other(pair):
    hu = np.random.default_rng(0).normal(-800, 100, (16, 20, 20)).astype(np.float32)
    scan = scan_of(hu, 1.25)
    first, second = faults_of(pair)
    wanted = degraded_volume(degraded_volume(scan, first, 4, seed=2), second, 4, seed=2)
    made = degraded_volume(scan, pair, 4, seed=2)
    np.testing.assert_array_equal(made.hu, wanted.hu)
    np.testing.assert_array_equal(made.ijk_to_ras, wanted.ijk_to_ras)
    assert (made.hu.shape != hu.shape) or (made.hu != scan.hu).any()


def test_a_pair_whose_first_fault_cannot_be_made_is_none():
    scan = scan_of(np.zeros((6, 9, 9), np.float32), 8.0)
    assert degraded_volume(scan, "own_grid_slices+low_dose", 3, seed=0) is None


def test_an_operation_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="wanted operations among .* got \\['fog'\\]"):
        measured([], ["fog"], [3])
    with pytest.raises(ValueError, match="wanted operations among .* got \\['fog'\\]"):
        measured([], ["blur+fog"], [3])
    with pytest.raises(InputError, match="no image to measure"):
        measured([], ["blur"], [3])
    with pytest.raises(InputError, match="no image to measure"):
        joined_rows([])


def test_the_numbers_are_compared_with_what_was_added():
    rows = made_rows(4)
    noise = MEASURES.index("noise_hu")
    rows.measures[rows.clean, noise] = 30.0
    rows.measures[rows.operation == "low_dose", noise] = np.hypot(30, 50)
    (row,) = [r for r in number_table(rows) if r["operation"] == "low_dose"]
    assert row["added"] == 50
    assert row["ratio"] == pytest.approx(1)
    assert row["within_25"] == 1
    assert table_text([row]).splitlines()[0].split()[:2] == ["operation", "severity"]
    assert table_text([]) == ""


def test_places_of_a_turned_scan_are_cropped_around_the_point():
    """What is degraded reaches beyond the patch on every side, whatever the axes."""
    turned = np.array([[0, 0, 1.2, -60], [0.9, 0, 0, -50], [0, 1.5, 0, -70], [0, 0, 0, 1.0]])
    hu = np.random.default_rng(0).normal(-850, 20, (100, 90, 110)).astype(np.float32)
    volume = Volume(hu, turned)
    point = volume.ras_from_ijk((55, 45, 50))
    rows = measured([Place(volume, point, "a", "p", "s")], ["white_noise"], [3])
    whole = image_quality(crop_patch(volume, point), volume, point)
    assert rows.qualities()[0].noise_hu == pytest.approx(whole.noise_hu, rel=0.02)
    assert rows.qualities()[0].lung_share == pytest.approx(whole.lung_share, abs=0.01)
