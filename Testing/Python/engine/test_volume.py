"""Volume: geometry and reading."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import (
    Volume,
    check_ct,
    ijk_to_ras_from_sitk,
    measured_range,
    padding_of,
    read_volume,
    sitk_from_array,
)
from contrastdiagnosis.service.requests import read_request, request_body
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (7, 9, 11)


def affine(turn_deg=(0, 0, 0), spacing_ijk=(0.7, 0.8, 2.5), flips=(1, 1, 1), origin=(12, -34, 56)):
    """An ijk_to_ras matrix."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(np.multiply(spacing_ijk, flips))
    matrix[:3, 3] = origin
    return matrix


GEOMETRIES = {
    "axial": affine(flips=(-1, -1, 1)),
    "flipped": affine(flips=(1, -1, -1)),
    "oblique": affine(turn_deg=(20, -15, 40)),
    "sagittal": affine(turn_deg=(90, 0, 90)),
}


def ct(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_ras_and_ijk_are_inverse(name):
    volume = Volume(ct(), GEOMETRIES[name])
    ijk = np.random.default_rng(1).uniform(0, 6, (20, 3))
    np.testing.assert_allclose(volume.ijk_from_ras(volume.ras_from_ijk(ijk)), ijk, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_bright_voxel_keeps_its_place_through_files(tmp_path, name, suffix):
    """G2: one voxel at a known RAS point, written by ITK in LPS, read back in RAS."""
    array = np.full(SHAPE, -900, np.int16)
    array[2, 3, 5] = 300
    file = tmp_path / f"ct{suffix}"
    sitk.WriteImage(sitk_from_array(array, GEOMETRIES[name]), str(file))
    image = sitk.ReadImage(str(file))
    lps = image.TransformIndexToPhysicalPoint((5, 3, 2))
    volume = read_volume(file)
    ijk = np.argwhere(volume.hu == 300)[0][::-1]
    np.testing.assert_array_equal(ijk, (5, 3, 2))
    np.testing.assert_allclose(volume.ras_from_ijk(ijk), np.multiply(lps, (-1, -1, 1)), atol=1e-4)
    np.testing.assert_allclose(
        volume.ras_from_ijk(ijk), (GEOMETRIES[name] @ [5, 3, 2, 1])[:3], atol=1e-4
    )


def test_spacing_and_voxel_volume_are_in_millimetres():
    volume = Volume(ct(), GEOMETRIES["oblique"])
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.8, 0.7))
    assert volume.voxel_volume_mm3 == pytest.approx(2.5 * 0.8 * 0.7)


def test_a_point_on_the_outer_face_is_inside_and_beyond_it_is_not():
    volume = Volume(ct(), np.eye(4))
    assert volume.contains((-0.5, 0, 0))
    assert volume.contains((10.5, 8.5, 6.5))
    assert not volume.contains((-0.51, 0, 0))
    assert not volume.contains((0, 0, 6.51))


@pytest.mark.parametrize(
    ("hu", "matrix", "message"),
    [
        (np.zeros((3, 3)), np.eye(4), "must have 3 dimensions"),
        (np.zeros((3, 3, 3)), np.eye(3), "finite 4x4"),
        (np.zeros((3, 3, 3)), np.full((4, 4), np.nan), "finite 4x4"),
        (np.zeros((3, 3, 3)), np.zeros((4, 4)), "invertible"),
    ],
)
def test_an_impossible_volume_is_refused(hu, matrix, message):
    with pytest.raises(InputError, match=message):
        Volume(hu, matrix)


def nan_ct():
    hu = ct().astype(np.float32)
    hu[1, 1, 1] = np.nan
    return hu


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (ct(shape=(2, 9, 9)), "at least 3 slices, got 2"),
        (nan_ct(), "got 1 NaN or infinite"),
        (np.zeros(SHAPE, np.int16), "every voxel is 0"),
        (np.abs(ct()) % 256, "8-bit picture"),
        (ct() + 1024, "add -1024 to its voxels; if it is an MR"),
        (np.abs(ct()) + 10, "another modality"),
        (ct() % 400 - 150, "no voxel from -1100 to -500"),
    ],
)
def test_what_is_no_ct_is_refused(hu, message):
    with pytest.raises(InputError, match=message):
        check_ct(hu)


def test_a_ct_passes():
    check_ct(ct())


def test_a_ct_without_rescale_is_mended_by_the_offset(tmp_path):
    file = tmp_path / "stored.nii.gz"
    sitk.WriteImage(sitk_from_array((ct() + 1024).astype(np.uint16), np.eye(4)), str(file))
    with pytest.raises(InputError, match="add -1024") as refused:
        read_volume(file)
    assert refused.value.setting == "hu_offset"
    np.testing.assert_array_equal(read_volume(file, hu_offset=-1024).hu, ct())


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(InputError, match="no file or folder at"):
        read_volume(tmp_path / "absent.nrrd")
    (tmp_path / "text.nrrd").write_text("not an image")
    with pytest.raises(InputError, match="cannot read .*text.nrrd"):
        read_volume(tmp_path / "text.nrrd")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM series in"):
        read_volume(tmp_path / "empty")


def test_pictures_and_time_series_are_refused(tmp_path):
    color = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.int16), isVector=True)
    sitk.WriteImage(color, str(tmp_path / "color.nrrd"))
    with pytest.raises(InputError, match="3 values per voxel"):
        read_volume(tmp_path / "color.nrrd")
    sitk.WriteImage(sitk.Image([4, 5, 6, 2], sitk.sitkInt16), str(tmp_path / "time.nrrd"))
    with pytest.raises(InputError, match="got 4 dimensions"):
        read_volume(tmp_path / "time.nrrd")


def write_dicom(
    folder, hu, positions_mm, uid="1.2.826.0.1.3680043.2.1125.1", modality="CT", aside_mm=0.0
):
    """One file a slice, stored with a rescale intercept as scanners do."""
    folder.mkdir(exist_ok=True, parents=True)
    for n, (slice_hu, z) in enumerate(zip(hu, positions_mm, strict=True)):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{n + 1}"
        dataset.SOPClassUID = pydicom.uid.CTImageStorage
        dataset.SOPInstanceUID = f"{uid}.{n + 1}"
        dataset.StudyInstanceUID = "1.2.826.0.1.3680043.2.1125.9"
        dataset.SeriesInstanceUID = uid
        dataset.Modality = modality
        dataset.InstanceNumber = n + 1
        dataset.ImagePositionPatient = [-10, -20 + aside_mm * n, float(z)]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.7, 0.7]
        dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
        dataset.Rows, dataset.Columns = slice_hu.shape
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelData = (slice_hu + 1024).astype("<u2").tobytes()
        dataset.save_as(folder / f"{uid[-1]}-{n:03}.dcm", enforce_file_format=True)


def test_a_dicom_folder_gives_hounsfield_units_and_geometry(tmp_path):
    write_dicom(tmp_path / "scan", ct(), 5 + 2.5 * np.arange(7))
    volume = read_volume(tmp_path / "scan")
    np.testing.assert_array_equal(volume.hu, ct())
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.7, 0.7))
    np.testing.assert_allclose(volume.ras_from_ijk((0, 0, 0)), (10, 20, 5))


def test_several_series_are_listed_and_one_can_be_named(tmp_path):
    folder = tmp_path / "scan"
    write_dicom(folder, ct(0), 2.5 * np.arange(7), uid="1.2.826.0.1.3680043.2.1125.1")
    write_dicom(folder, ct(1), 2.5 * np.arange(7), uid="1.2.826.0.1.3680043.2.1125.2")
    listing = r"(?s)holds 2 series; name one:.*1125\.1.*7 slices.*1125\.2"
    with pytest.raises(InputError, match=listing) as refused:
        read_volume(folder)
    assert refused.value.setting == "series"
    second = read_volume(folder, series_uid="1.2.826.0.1.3680043.2.1125.2")
    np.testing.assert_array_equal(second.hu, ct(1))
    with pytest.raises(InputError, match="no series 1.2.3 in"):
        read_volume(folder, series_uid="1.2.3")


def test_a_tilted_gantry_is_refused(tmp_path):
    write_dicom(tmp_path / "scan", ct(), [2.5 * k for k in range(len(ct()))], aside_mm=1.0)
    with pytest.raises(InputError, match=r"tilted gantry: .* by up to .* mm \(\d+ degrees\)"):
        read_volume(tmp_path / "scan")


def test_a_scan_below_the_folder_is_found(tmp_path):
    write_dicom(tmp_path / "study" / "scan", ct(), [2.5 * k for k in range(len(ct()))])
    np.testing.assert_array_equal(read_volume(tmp_path / "study").hu, ct())


def test_padding_does_not_hide_a_missing_intercept():
    """Scanners pad outside the field of view with -2000; lung is near 170 without intercept."""
    hu = ct().astype(np.int16) + 1024
    hu[:, :2] = -2000
    with pytest.raises(InputError, match=r"got values from \d+ to 1\d+.*add -1024") as refused:
        check_ct(hu)
    assert refused.value.setting == "hu_offset"


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 2.5, 5, 10, 12.5, 15, 17.5], r"not equally spaced: 1 of 6 gaps.*5.00 mm after 5.00"),
        ([0, 2.5, 5, 6.2, 9, 11.5, 14], "not equally spaced"),
        ([0, 2.5, 5, 5, 7.5, 10, 12.5], "two slices lie at the same position"),
    ],
)
def test_missing_and_doubled_slices_are_refused(tmp_path, positions, message):
    write_dicom(tmp_path / "scan", ct(), positions)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "scan")


def test_an_mr_series_is_refused(tmp_path):
    write_dicom(tmp_path / "scan", ct(), 2.5 * np.arange(7), modality="MR")
    with pytest.raises(InputError, match="got modality MR"):
        read_volume(tmp_path / "scan")


def test_geometry_survives_the_way_to_sitk_and_back():
    for matrix in GEOMETRIES.values():
        image = sitk_from_array(ct(), matrix)
        np.testing.assert_allclose(ijk_to_ras_from_sitk(image), matrix, atol=1e-9)


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, 40000, 62512])
def test_padding_is_no_measurement(padding):
    """At either end of the range: it neither makes a CT nor hides one."""
    hu = ct().astype(np.int32)
    assert padding_of(hu) is None
    low, high = hu[:, 2:].min(), hu[:, 2:].max()
    hu[:, :2] = padding
    np.testing.assert_array_equal(padding_of(hu), hu == padding)
    assert measured_range(hu) == (low, high)
    check_ct(hu)
    with pytest.raises(InputError, match="nothing but padding"):
        check_ct(np.full(SHAPE, padding))


@pytest.mark.parametrize("padding", [None, -2000, -32768, 62512])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_swapped_and_shifted_bytes_are_refused(padding, unsigned, shifted):
    """They lie anywhere in 16 bits, as no CT and no padding does."""
    hu = ct(shape=(20, 30, 40)).astype(np.int32)
    if padding is not None:
        hu[:, :8] = padding
    check_ct(hu)
    stored = (hu + 1024 if unsigned else hu).astype("<u2")
    if shifted:
        wrong = np.frombuffer((b"\n" + stored.tobytes())[:-1], "<u2").reshape(hu.shape)
    else:
        wrong = stored.byteswap()
    wrong = wrong.astype(np.int32) - 1024 if unsigned else wrong.view(np.int16)
    with pytest.raises(InputError, match=r"% of the voxels lie outside .* its byte order is told"):
        check_ct(wrong)


def test_byte_order_told_wrongly_is_refused(tmp_path):
    image = sitk_from_array(ct(shape=(20, 30, 40)), np.eye(4))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    whole = (tmp_path / "ct.nrrd").read_bytes()
    assert b"endian: little" in whole
    (tmp_path / "ct.nrrd").write_bytes(whole.replace(b"endian: little", b"endian: big"))
    with pytest.raises(InputError, match="its byte order is told wrongly"):
        read_volume(tmp_path / "ct.nrrd")


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, 62512, 63536])
def test_interpolated_borders_of_padding_pass(padding):
    k, j, i = np.indices((30, 40, 40))
    padded = np.where((i - 20) ** 2 + (j - 20) ** 2 > 300, padding, ct(shape=k.shape))
    hu = ndimage.zoom(padded.astype(np.float32), (1, 1.7, 1.7), order=1)
    assert len(np.unique(hu[padding_of(hu)])) > 300
    check_ct(hu)


def test_much_metal_passes():
    hu = ct(shape=(20, 30, 40))
    hu[:4, :20, :20] = np.random.default_rng(1).integers(3000, 30710, (4, 20, 20))
    check_ct(hu)


@pytest.mark.parametrize("padding", [None, -2000, 62512])
def test_a_scan_without_soft_tissue_is_refused(tmp_path, padding):
    """8-bit pixels with an intercept of -1024; a crop of lung is asked about all the same."""
    hu = ct().astype(np.int32) % 256 - 1024
    if padding is not None:
        hu[:, :2] = padding
    check_ct(hu)
    sitk.WriteImage(sitk_from_array(hu, np.eye(4)), str(tmp_path / "ct.nrrd"))
    with pytest.raises(InputError, match=r"-1024 to -\d+ with no voxel above -300 \(soft tissue\)"):
        read_volume(tmp_path / "ct.nrrd")


def test_metal_and_noise_are_measured():
    assert padding_of(np.array([[[-1400, 30710]]])) is None


@pytest.mark.parametrize("padding", [-32768, -3e38, 3e38])
def test_padding_stays_what_the_server_takes_under_an_offset(tmp_path, padding):
    hu = ct().astype(np.float32) + 1024
    hu[:, :2] = padding
    image = sitk_from_array(hu, GEOMETRIES["axial"])
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    volume = read_volume(tmp_path / "ct.nrrd", hu_offset=-1024)
    np.testing.assert_array_equal(volume.hu[:, 2:], ct()[:, 2:])
    assert padding_of(volume.hu)[:, :2].all()
    point = volume.ras_from_ijk((5, 6, 3))
    assert read_request(request_body(volume, point)).volume.hu.shape == volume.hu.shape
