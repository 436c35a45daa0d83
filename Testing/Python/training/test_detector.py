"""Lesions as a network finds them: where they are, not where the readers marked."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.cases.case_folder import NoduleScan, read_case_folder
from contrastdiagnosis.imaging.volume import Volume, sitk_from_array
from contrastdiagnosis_training.data.patch_store import load_patch_store
from contrastdiagnosis_training.pretraining.detector import detected_center, detected_centers

from training.conftest import write_case_folder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHIFT_MM = np.array([4.0, -6.0, 5.0])


@pytest.fixture(scope="module")
def network():
    """The shipped one: a tiny one finds nothing."""
    return load_bundle(default_bundle_folder()).network


def ball(shift_mm=(0, 0, 0), radius_mm=6.0, marked=True):
    """A solid ball in lung, beside the middle of its file; the mark is in the middle."""
    affine = np.diag([-0.7, -0.7, 1.25, 1.0])
    k, j, i = np.mgrid[-19:20, -39:40, -39:40]
    place = np.stack([i, j, k], -1) @ affine[:3, :3]
    affine[:3, 3] = (12.0, -30.0, 7.0)
    noise = np.random.default_rng(0).normal(0, 15, k.shape)
    inside = np.linalg.norm(place - np.array(shift_mm), axis=-1) < radius_mm
    share = np.zeros(k.shape, np.float32)
    share[19, 39, 39] = marked
    volume = Volume(np.where(inside, 30, -860).astype(np.int16) + noise.astype(np.int16), affine)
    middle = volume.ras_from_ijk([39, 39, 19])
    return NoduleScan(volume, share), middle + np.array(shift_mm)


@pytest.mark.parametrize("shift_mm", [(0, 0, 0), tuple(SHIFT_MM)])
def test_a_lesion_is_found_where_it_is(network, shift_mm):
    scan, truth = ball(shift_mm)
    found = detected_center(network, scan, 0.5, CPU)
    assert np.linalg.norm(found - truth) < 1.5


def test_where_nothing_is_sure_nothing_is_found(network):
    scan, _ = ball(radius_mm=0.0)
    assert detected_center(network, scan, 0.95, CPU) is None


def test_of_a_folder_those_that_are_found_are_told_and_patches_lie_around_them(network, tmp_path):
    folder = write_case_folder(tmp_path / "cases", patients=2, context=True, radii_mm=(5, 6, 8))
    nodules = read_case_folder(folder)
    empty, found_one = nodules[0], nodules[1]
    scan, truth = ball(SHIFT_MM)
    affine = scan.volume.ijk_to_ras
    sitk.WriteImage(sitk_from_array(scan.volume.hu, affine), str(found_one.image_path))
    votes = (4 * scan.share).astype(np.uint8)
    sitk.WriteImage(sitk_from_array(votes, affine), str(found_one.mask_path))
    quiet, _ = ball(radius_mm=0.0)
    sitk.WriteImage(sitk_from_array(quiet.volume.hu, affine), str(empty.image_path))
    sitk.WriteImage(sitk_from_array(votes, affine), str(empty.mask_path))
    found = detected_centers(network, nodules, 0.9, CPU)
    assert empty.case_id not in found and set(found) <= {n.case_id for n in nodules}
    assert np.linalg.norm(found[found_one.case_id] - truth) < 2
    store = load_patch_store([folder], tmp_path / "cache", centers_ras_mm=found)
    middle = store.hu[1, 18:22, 38:42, 38:42].float().mean()
    marked = (
        load_patch_store([folder], tmp_path / "cache").hu[1, 18:22, 38:42, 38:42].float().mean()
    )
    assert middle > -100 > marked.float().mean()  # Around the ball, and around the mark beside it.
    assert len(list((tmp_path / "cache").glob("patches-*"))) == 2
