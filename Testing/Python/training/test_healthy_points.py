"""Points without a nodule: each kind lies where its name says, away from lesions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.phantom import PhantomNodule, make_phantom
from contrastdiagnosis.imaging.volume import sitk_from_array
from contrastdiagnosis_training.data.healthy_points import (
    APART_MM,
    AWAY_MM,
    KINDS,
    HealthyCt,
    draw_points,
    lungs_of,
    read_healthy_cts,
)
from scipy import ndimage

NODULE = PhantomNodule((60.0, -10.0, 8.0), 14.0)
BOX = np.array([[50.0, -20.0, -2.0], [70.0, 0.0, 18.0]])


@pytest.fixture(scope="module")
def ct():
    volume = make_phantom([NODULE], shape=(44, 150, 180), spacing_mm=(2.0, 1.9, 1.9)).volume
    return HealthyCt("made", volume, lungs_of(volume), "P1", (BOX,))


@pytest.fixture(scope="module")
def points(ct):
    return draw_points(ct, 12)


def hu_at(ct, point, sigma=0.8):
    i, j, k = np.rint(ct.volume.ijk_from_ras(point.ras_mm)).astype(int)
    return ndimage.gaussian_filter(ct.volume.hu.astype(np.float32), sigma)[k, j, i]


def test_the_lungs_are_lungs(ct):
    inside = ct.volume.hu[ct.lungs]
    assert np.median(inside) < -700
    share = ct.lungs.mean()
    assert 0.05 < share < 0.5
    i, j, k = np.rint(ct.volume.ijk_from_ras(NODULE.center_ras_mm)).astype(int)
    assert ct.lungs[k, j - 9, i]


def test_every_kind_lies_where_its_name_says(ct, points):
    kinds = {kind: [p for p in points if p.kind == kind] for kind in KINDS}
    for kind in ("vessel", "pleura", "parenchyma", "chest wall", "outside", "mediastinum"):
        assert kinds[kind], kind
    bounds = {
        "vessel": (-700, 400), "pleura": (-600, 800), "parenchyma": (-1000, -700),
        "chest wall": (-300, 1500), "outside": (-1100, -900), "mediastinum": (-300, 400),
    }  # fmt: skip
    for kind, (low, high) in bounds.items():
        told = [hu_at(ct, p) for p in kinds[kind]]
        assert low <= np.median(told) <= high, (kind, told)
    in_lungs = ndimage.binary_dilation(ct.lungs, iterations=1)
    for kind, wanted in (("vessel", True), ("parenchyma", True), ("outside", False)):
        for p in kinds[kind]:
            i, j, k = np.rint(ct.volume.ijk_from_ras(p.ras_mm)).astype(int)
            assert in_lungs[k, j, i] == wanted


def test_no_point_is_near_a_lesion_or_another_of_its_kind(points):
    for kind in KINDS:
        places = np.array([p.ras_mm for p in points if p.kind == kind])
        for n, place in enumerate(places):
            outside = np.maximum(np.maximum(BOX[0] - place, place - BOX[1]), 0)
            assert outside.max() > AWAY_MM - 1.5
            others = np.linalg.norm(np.delete(places, n, axis=0) - place, axis=1)
            assert not len(others) or others.min() >= APART_MM - 1e-6


def test_the_same_seed_draws_the_same_points(ct, points):
    kinds = ("vessel", "outside")
    again = draw_points(ct, 12, kinds=kinds)
    assert again == [p for p in points if p.kind in kinds]
    assert draw_points(ct, 12, seed=1, kinds=kinds) != again


def test_only_the_right_lung_where_the_left_is_not_known(ct):
    half = HealthyCt("made", ct.volume, ct.lungs, "P1", (), right_lung_only=True)
    assert all(p.ras_mm[0] > 0 for p in draw_points(half, 8, kinds=("vessel", "pleura")))


@pytest.fixture(scope="module")
def folder(ct, tmp_path_factory):
    """Like `ct_lungs`."""
    place = tmp_path_factory.mktemp("cts")
    for part, array in (("image", ct.volume.hu), ("lungs", ct.lungs.astype(np.uint8))):
        (place / part).mkdir()
        image = sitk_from_array(array, ct.volume.ijk_to_ras)
        for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
            sitk.WriteImage(image, str(place / part / name))
    box = "-70 -50 0 20 -2 18"  # LPS
    (place / "cts.csv").write_text(
        "file,source,lesion_boxes_lps_mm,healthy_crops\n"
        f"a.nii.gz,Some A,{box},yes outside the box\n"
        f"b.nii.gz,Some A,{box};{box},upper and right lung outside the boxes\n"
        "c.nii.gz,Some C,,no: many nodules\n"
    )
    return place


def test_a_table_of_cts_is_read(folder, ct):
    first, second = read_healthy_cts(folder)
    assert (first.name, first.patient_id, second.patient_id) == ("a", "Some A", "Some A")
    np.testing.assert_array_equal(first.lungs, ct.lungs)
    np.testing.assert_allclose(first.lesions_ras_mm[0], BOX)
    assert len(second.lesions_ras_mm) == 2
    assert second.right_lung_only and not first.right_lung_only


def test_one_ct_with_one_lesion_is_read(tmp_path, ct):
    image = sitk_from_array(ct.volume.hu, ct.volume.ijk_to_ras)
    sitk.WriteImage(image, str(tmp_path / "one.nii.gz"))
    (tmp_path / "lesion.json").write_text(json.dumps({"lesion_centre_LPS_mm": [-60, 10, 8]}))
    (read,) = read_healthy_cts(tmp_path)
    np.testing.assert_allclose(read.lesions_ras_mm[0].mean(axis=0), NODULE.center_ras_mm)
    sitk.WriteImage(image, str(tmp_path / "two.nii.gz"))
    with pytest.raises(InputError, match="wanted one CT in .*, got 2"):
        list(read_healthy_cts(tmp_path))


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no table of CTs"):
        list(read_healthy_cts(tmp_path))


def test_a_mask_of_another_size_is_refused(folder, tmp_path, ct):
    shutil.copytree(folder, tmp_path / "cts")
    small = sitk_from_array(ct.lungs[:5].astype(np.uint8), ct.volume.ijk_to_ras)
    sitk.WriteImage(small, str(tmp_path / "cts" / "lungs" / "a.nii.gz"))
    with pytest.raises(InputError, match="is not of its CT's size"):
        next(read_healthy_cts(tmp_path / "cts"))
