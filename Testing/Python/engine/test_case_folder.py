"""Case folders: three layouts, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.cases.case_folder import case_pixels, read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.imaging.volume import sitk_from_array

HEADER = "file,patient_id,cluster,series_uid,n_readers,malignancy_readers,texture_readers,fold\n"
ROW = "a.nii.gz,P1,0,1.2.3,4,3 4 5,1 1 2,2\n"


def write(folder, header=HEADER, row=ROW, masks="votes", votes=None):
    (folder / "image").mkdir(parents=True)
    (folder / masks).mkdir()
    hu = np.full((6, 20, 20), -850, np.int16)
    hu[2:4, 8:12, 8:12] = 30
    if votes is None:
        votes = np.zeros((6, 20, 20), np.uint8)
        votes[2:4, 8:12, 8:12] = 4
        votes[2:4, 8:12, 12:14] = 1
    for part, array in (("image", hu), (masks, votes)):
        sitk.WriteImage(
            sitk_from_array(array, np.diag([-0.7, -0.7, 1.25, 1])), str(folder / part / "a.nii.gz")
        )
    (folder / "nodules.csv").write_text(header + row)
    return folder


def test_votes_and_ratings_are_read(tmp_path):
    (nodule,) = read_case_folder(write(tmp_path / "set"))
    assert nodule.case_id == "P1_0"
    assert nodule.ratings == {"malignancy": (3, 4, 5), "texture": (1, 1, 2)}
    assert nodule.mean_rating("malignancy") == 4
    assert np.isnan(nodule.mean_rating("margin"))
    assert (nodule.fold, nodule.readers, nodule.series_uid, nodule.source) == (2, 4, "1.2.3", "set")


def test_the_consensus_is_half_of_the_readers(tmp_path):
    (nodule,) = read_case_folder(write(tmp_path))
    scan = read_scan(nodule)
    assert scan.consensus.sum() == 2 * 4 * 4
    assert scan.share.max() == 1
    assert (scan.share > 0).sum() == 2 * 4 * 6
    np.testing.assert_allclose(scan.volume.ijk_from_ras(scan.center_ras_mm), (9.5, 9.5, 2.5))
    assert scan.diameter_mm == pytest.approx((6 * 32 * 0.7 * 0.7 * 1.25 / np.pi) ** (1 / 3))


def test_marks_that_no_half_shares_still_show_the_nodule(tmp_path):
    votes = np.zeros((6, 20, 20), np.uint8)
    votes[2, 5:8, 5:8] = 1
    scan = read_scan(read_case_folder(write(tmp_path, votes=votes))[0])
    assert scan.consensus.sum() == 9


def test_single_masks_and_single_ratings_are_read(tmp_path):
    header = "file,patient_id,ann_id,malignancy\n"
    (nodule,) = read_case_folder(
        write(
            tmp_path,
            header,
            "a.nii.gz,P1,84,5\n",
            masks="mask",
            votes=(np.arange(2400).reshape(6, 20, 20) % 7 == 0).astype(np.uint8),
        )
    )
    assert nodule.case_id == "a"
    assert nodule.ratings == {"malignancy": (5,)}
    assert nodule.fold is None
    assert read_scan(nodule).share.max() == 1


def test_case_pixels_hold_patch_and_consensus(tmp_path):
    pixels = case_pixels(read_case_folder(write(tmp_path))[0], DEFAULT_GEOMETRY)
    assert pixels.valid.sum() == 6 * 20 * 20
    assert pixels.intensity[pixels.mask].min() > 0.4
    assert pixels.mask.sum() == pytest.approx(32, abs=8)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"wanted a case folder with nodules\.csv"):
        read_case_folder(tmp_path)
    (tmp_path / "nodules.csv").write_text(HEADER + ROW)
    with pytest.raises(InputError, match="neither votes/ nor mask/"):
        read_case_folder(tmp_path)
    (tmp_path / "votes").mkdir()
    with pytest.raises(InputError, match=r"names 1 cases without image or mask.*a\.nii\.gz"):
        read_case_folder(tmp_path)
    for text, message in (("file,patient\n", "lacks the columns patient_id"), (HEADER, "no rows")):
        (tmp_path / "nodules.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_case_folder(tmp_path)


def test_an_empty_mask_is_refused(tmp_path):
    folder = write(tmp_path, votes=np.zeros((6, 20, 20), np.uint8))
    with pytest.raises(InputError, match="is empty or not of its image's size"):
        read_scan(read_case_folder(folder)[0])


def test_counts_with_a_decimal_point_are_read(tmp_path):
    """What pandas writes where a column has gaps."""
    row = "a.nii.gz,P1,0,1.2.3,4.0,3.5 4 5,1 1 2,2.0\n"
    (nodule,) = read_case_folder(write(tmp_path, row=row))
    assert (nodule.readers, nodule.fold) == (4, 2)
    assert nodule.ratings["malignancy"] == (3.5, 4, 5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.nii.gz,P1,0,1.2.3,four,3,1,2\n", r"nodules.csv, line 2: .*'four'"),
        ("a.nii.gz,P1,0,1.2.3,4,3,1,2.5\n", r"line 2: wanted a whole number, got 2.5"),
        ("a.nii.gz,P1,0,1.2.3,4,3 high,1,2\n", r"line 2: .*'high'"),
    ],
)
def test_values_that_are_no_numbers_name_their_line(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read_case_folder(write(tmp_path, row=row))


def test_a_damaged_image_is_named(tmp_path):
    (nodule,) = read_case_folder(write(tmp_path))
    nodule.image_path.write_bytes(nodule.image_path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"cannot read .*a.nii.gz"):
        read_scan(nodule)
