"""Small DICOM scans for the tests of reading them, and that they are read at all."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.imaging.reading.dicom import is_dicom, read_dicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

SHAPE = (5, 8, 9)
STEP_MM = 1.5
SERIES = "1.2.826.0.1.3680043.2.1125.1"
PATIENT = ("Doe^Jo", "P4711")


def ct(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)


def ct_slice(hu, z_mm=0.0, series=SERIES, **elements):
    """A slice as scanners write it: unsigned, with an intercept. None removes an element."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = PATIENT
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.9", series
    dataset.FrameOfReferenceUID = "1.2.826.8"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [-10.0, -20.0, round(float(z_mm), 4)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.8], 5
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.Rows, dataset.Columns = hu.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    set_elements(dataset, elements)
    return dataset


def set_elements(dataset, elements):
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def save(dataset, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.get("SOPClassUID", CTImageStorage))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(file, enforce_file_format=True)
    return file


def write_scan(folder, hu=None, changes=None, suffix=".dcm", **elements):
    """A file a slice; `changes` of an index are set in that slice only."""
    hu = ct() if hu is None else hu
    for k, slice_hu in enumerate(hu):
        dataset = ct_slice(slice_hu, STEP_MM * k, **elements)
        set_elements(dataset, (changes or {}).get(k, {}))
        save(dataset, folder / f"{k}{suffix}")
    return folder


def item(**elements):
    dataset = Dataset()
    set_elements(dataset, elements)
    return dataset


def enhanced(hu, order=None, shared=None, per_frame=None, **elements):
    """One multi-frame file with functional groups; the frames are stored in the given order.

    `per_frame` gives further functional groups of a stored frame by its index.
    """
    order = list(range(len(hu)) if order is None else order)
    dataset = ct_slice(hu[0], SOPClassUID=EnhancedCTImageStorage)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.SliceThickness
    dataset.NumberOfFrames = len(order)
    groups = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        "PixelMeasuresSequence": [item(PixelSpacing=[0.7, 0.8], SliceThickness=5)],
        "PixelValueTransformationSequence": [item(RescaleIntercept=-1024, RescaleSlope=1)],
        **(shared or {}),
    }
    dataset.SharedFunctionalGroupsSequence = Sequence([item(**groups)])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [item(**_frame_groups(n, k), **(per_frame or {}).get(n, {})) for n, k in enumerate(order)]
    )
    dataset.PixelData = (hu[order].astype(np.int32) + 1024).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    set_elements(dataset, elements)
    return dataset


def _frame_groups(n, k):
    position = [-10.0, -20.0, STEP_MM * k]
    content = item(StackID="1", InStackPositionNumber=n + 1)
    return {
        "PlanePositionSequence": [item(ImagePositionPatient=position)],
        "FrameContentSequence": [content],
    }


def voxels(scan):
    return sitk.GetArrayFromImage(scan.image)


def check_geometry(image, step_mm=STEP_MM):
    np.testing.assert_allclose(image.GetOrigin(), (-10, -20, 0), atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), (0.8, 0.7, step_mm), atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6)


def test_a_folder_of_slices_is_read(tmp_path):
    scan = read_dicom(write_scan(tmp_path))
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)
    assert scan.series_uid == SERIES
    assert scan.notices == ()
    assert scan.image.GetPixelID() == sitk.sitkInt16


def test_a_multi_frame_file_is_read(tmp_path):
    scan = read_dicom(save(enhanced(ct()), tmp_path / "e.dcm"))
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)


@pytest.mark.parametrize("name", ["scan.dcm", "scan", "SCAN.IMA", "scan.nrrd"])
def test_dicom_is_known_by_its_bytes_or_its_name(tmp_path, name):
    assert is_dicom(save(ct_slice(ct()[0]), tmp_path / name))


def test_what_is_dicom_by_name_alone(tmp_path):
    for name, answer in (("a.dcm", True), ("a.zip", True), ("a.nrrd", False), ("a", False)):
        (tmp_path / name).write_bytes(b"something else")
        assert is_dicom(tmp_path / name) == answer
    assert is_dicom(tmp_path)
