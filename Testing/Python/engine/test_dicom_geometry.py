"""Geometry of DICOM scans: from what the files tell, or not at all."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom import read_dicom
from scipy.spatial.transform import Rotation

from engine.test_dicom_phantom import (
    PATIENT,
    STEP_MM,
    check_geometry,
    ct,
    enhanced,
    item,
    save,
    set_elements,
    voxels,
    write_scan,
)

ALL = range(5)


def refusal(path, **keywords):
    with pytest.raises(InputError) as refused:
        read_dicom(path, **keywords)
    told = str(refused.value)
    assert not any(part in told for part in PATIENT)
    return told


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("PixelSpacing", "Pixel Spacing"),
        ("ImagePositionPatient", "Image Position (Patient)"),
        ("ImageOrientationPatient", "Image Orientation (Patient)"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("slices", [ALL, (1, 3), (0,), (4,)])
def test_slices_without_geometry_are_counted_and_refused(tmp_path, keyword, name, empty, slices):
    changes = {k: {keyword: None if not empty else ""} for k in slices}
    told = refusal(write_scan(tmp_path, changes=changes))
    assert f"{len(slices)} of 5 slices lack {name} (the first is {slices[0]}.dcm)" in told


def test_other_spacings_and_locations_are_no_substitute(tmp_path):
    write_scan(
        tmp_path / "a",
        PixelSpacing=None,
        ImagerPixelSpacing=[0.7, 0.8],
        NominalScannedPixelSpacing=[0.7, 0.8],
    )
    assert "5 of 5 slices lack Pixel Spacing" in refusal(tmp_path / "a")
    located = {k: {"SliceLocation": STEP_MM * k} for k in ALL}
    write_scan(tmp_path / "b", changes=located, ImagePositionPatient=None)
    assert "5 of 5 slices lack Image Position (Patient)" in refusal(tmp_path / "b")


def put(file, tag, value):
    """Writes raw bytes over a value: pydicom would not write such ones."""
    data = file.read_bytes()
    at = data.index(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, b"DS")) + 8
    length = data[at - 2]
    assert len(value) <= length
    file.write_bytes(data[:at] + value.ljust(length) + data[at + length :])


@pytest.mark.parametrize("value", ["0.7,0.8 ", "0,7\\0,8 ", "nan\\0.8 ", "inf\\0.8 ", "0_7\\0.8 "])
@pytest.mark.parametrize("slices", [ALL, (2,)])
def test_what_is_no_pixel_spacing_is_shown(tmp_path, value, slices):
    write_scan(tmp_path)
    for k in slices:
        put(tmp_path / f"{k}.dcm", 0x00280030, value.encode())
    told = refusal(tmp_path)
    assert told.startswith(f"wanted 2 finite decimal numbers as Pixel Spacing of {slices[0]}.dcm")
    assert repr(value.strip()) in told


@pytest.mark.parametrize(
    ("tag", "value", "name"),
    [
        (0x00200032, b"-10.0\\-20.0\\3,0", "Image Position (Patient)"),
        (0x00200032, b"-10.0\\-20.0\\   ", "Image Position (Patient)"),
        (0x00200032, b"-10.0\\-20.0    ", "Image Position (Patient)"),
        (0x00200037, b"1\\0\\0\\0\\1\\, ", "Image Orientation (Patient)"),
        (0x00281052, b"-1,024", "Rescale Intercept"),
        (0x00281053, b"x ", "Rescale Slope"),
    ],
)
def test_malformed_numbers_are_named(tmp_path, tag, value, name):
    write_scan(tmp_path)
    put(tmp_path / "2.dcm", tag, value)
    assert f"{name} of 2.dcm" in refusal(tmp_path)


@pytest.mark.parametrize("spacing", [[0, 0.7], [0.7, 0], [-0.7, 0.7], [0, 0]])
@pytest.mark.parametrize("slices", [ALL, (3,)])
def test_spacing_must_be_positive(tmp_path, spacing, slices):
    write_scan(tmp_path, changes={k: {"PixelSpacing": spacing} for k in slices})
    told = refusal(tmp_path)
    assert f"in {slices[0]}.dcm" in told and "positive Pixel Spacing" in told


def test_spacing_must_be_the_same(tmp_path):
    write_scan(tmp_path, changes={k: {"PixelSpacing": [0.9, 0.9]} for k in (0, 1)})
    told = refusal(tmp_path)
    assert "differ in Pixel Spacing: 0.dcm has 0.9 x 0.9 mm, 2.dcm has 0.7 x 0.8 mm" in told


def test_rounding_of_spacing_is_no_difference(tmp_path):
    write_scan(tmp_path, changes={1: {"PixelSpacing": [0.7002, 0.7999]}})
    check_geometry(read_dicom(tmp_path).image)


def test_rows_come_before_columns(tmp_path):
    image = read_dicom(write_scan(tmp_path, PixelSpacing=[0.5, 2.0])).image
    np.testing.assert_allclose(image.GetSpacing(), (2.0, 0.5, STEP_MM))


@pytest.mark.parametrize(
    "orientation",
    [
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0.9, 0],
        [1, 0, 0, 0.1, 0.995, 0],
        [2, 0, 0, 0, 1, 0],
    ],
)
def test_orientation_must_be_orthonormal(tmp_path, orientation):
    told = refusal(write_scan(tmp_path, ImageOrientationPatient=orientation))
    assert "two perpendicular directions of length 1" in told and "in 0.dcm" in told


@pytest.mark.parametrize(
    ("orientation", "message"),
    [
        ([1, 0, 0, 0, 0, -1], "not parallel: 3.dcm is turned against 0.dcm"),
        ([1, 0, 0, 0, -1, 0], "not parallel: 3.dcm is turned against 0.dcm"),
        ([-1, 0, 0, 0, -1, 0], "3.dcm is turned in its plane against 0.dcm"),
        ([0, 1, 0, -1, 0, 0], "3.dcm is turned in its plane against 0.dcm"),
    ],
)
def test_orientation_must_be_the_same(tmp_path, orientation, message):
    changes = {3: {"ImageOrientationPatient": orientation}}
    assert message in refusal(write_scan(tmp_path, changes=changes))


def test_size_must_be_the_same(tmp_path):
    write_scan(tmp_path, changes={4: {"Rows": 9, "Columns": 8}})
    told = refusal(tmp_path)
    assert "differ in size: 0.dcm has 8 x 9 voxels, 4.dcm has 9 x 8" in told


@pytest.mark.parametrize("sign", [-1, 1])
def test_distance_comes_from_positions_alone(tmp_path, sign):
    write_scan(tmp_path, SpacingBetweenSlices=sign * 7.0, SliceThickness=3, SliceLocation=1)
    check_geometry(read_dicom(tmp_path).image)


def test_order_comes_from_positions_alone(tmp_path):
    hu = ct()
    changes = {
        k: {"ImagePositionPatient": [-10, -20, STEP_MM * (4 - k)], "InstanceNumber": k} for k in ALL
    }
    scan = read_dicom(write_scan(tmp_path, hu, changes))
    np.testing.assert_array_equal(voxels(scan), hu[::-1])
    check_geometry(scan.image)


def test_an_oblique_scan_keeps_every_voxel_in_place(tmp_path):
    turn = Rotation.from_euler("xyz", (20, -15, 40), degrees=True).as_matrix()
    origin = np.array([12.0, -34.0, 56.0])
    changes = {
        k: {
            "ImagePositionPatient": [round(x, 4) for x in origin + STEP_MM * k * turn[:, 2]],
            "ImageOrientationPatient": [round(x, 6) for x in (*turn[:, 0], *turn[:, 1])],
        }
        for k in ALL
    }
    image = read_dicom(write_scan(tmp_path, changes=changes)).image
    wanted = origin + turn @ (np.array([5, 3, 2]) * (0.8, 0.7, STEP_MM))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((5, 3, 2)), wanted, atol=1e-3)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)


def at(*z_mm):
    return {k: {"ImagePositionPatient": [-10, -20, z]} for k, z in enumerate(z_mm)}


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((0, 1.5, 3, 4.5, 7.5), "1 of 4 gaps differ from the usual 1.50 mm"),
        ((0, 1.5, 3.8, 4.5, 6), "2 of 4 gaps differ"),
        ((0, 1.5, 3, 3, 4.5), r"two slices lie at the same position \(3.00 mm along the scan\)"),
        ((0, 0, 0, 0, 0), "all 5 slices tell the same place as Image Position"),
        ((0, 0.1, 0.2, 0.4, 0.5), "1 of 4 gaps differ"),
    ],
)
def test_unequal_distances_are_refused(tmp_path, positions, message):
    write_scan(tmp_path, changes=at(*positions))
    with pytest.raises(InputError, match=message):
        read_dicom(tmp_path)


def test_distances_that_drift_are_refused(tmp_path):
    """Each gap is within the tolerance; in the middle slices are half a slice off."""
    steps = np.where(np.arange(39) < 20, 0.95, 1.04)
    places = [0.0, *np.cumsum(steps)]
    write_scan(tmp_path, ct(shape=(40, 8, 9)), at(*(round(place, 3) for place in places)))
    assert "off its place at the mean distance" in refusal(tmp_path)


def test_rounded_positions_are_equally_spaced(tmp_path):
    write_scan(tmp_path, changes=at(0, 0.6, 1.3, 1.9, 2.5))
    np.testing.assert_allclose(read_dicom(tmp_path).image.GetSpacing()[2], 0.625)


@pytest.mark.parametrize("start_mm", [0.0, -1000.02, 13.33, -2.25])
@pytest.mark.parametrize("step_mm", [0.27, 0.3, 0.55, 0.625, 0.75, 0.8333333, 1.25])
def test_positions_of_one_decimal_are_equally_spaced(tmp_path, step_mm, start_mm):
    """The difference of two is 0.1 mm off, and a little more in binary."""
    hu = ct(shape=(60, 8, 9))
    write_scan(tmp_path, hu, at(*(round(start_mm + step_mm * k, 1) for k in range(60))))
    image = read_dicom(tmp_path).image
    np.testing.assert_allclose(image.GetSpacing()[2], step_mm, atol=0.1 / 59 + 1e-9)


@pytest.mark.parametrize("shift_mm", [0.2, 0.4, -2.0])
def test_a_tilted_gantry_is_refused_in_slices_and_frames(tmp_path, shift_mm):
    tilted = {k: [-10, -20 + shift_mm * k, STEP_MM * k] for k in ALL}
    changes = {k: {"ImagePositionPatient": place} for k, place in tilted.items()}
    assert "tilted gantry" in refusal(write_scan(tmp_path / "slices", changes=changes))
    dataset = enhanced(ct())
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = tilted[k]
    assert "tilted gantry" in refusal(save(dataset, tmp_path / "frames.dcm"))


def test_a_single_slice_that_strays_is_named(tmp_path):
    changes = {3: {"ImagePositionPatient": [-10, -13, 3 * STEP_MM]}}
    told = refusal(write_scan(tmp_path, changes=changes))
    assert told == "1 of 5 slices lie beside the others: the first is 3.dcm, 7.0 mm aside"


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("FrameOfReferenceUID", "lie in 2 frames of reference"),
        ("StudyInstanceUID", "belong to 2 studies"),
        ("PatientID", "belong to 2 patients"),
    ],
)
def test_slices_of_two_scans_under_one_series_are_refused(tmp_path, keyword, message):
    assert message in refusal(write_scan(tmp_path, changes={4: {keyword: "1.2.3.4"}}))


def test_frames_are_sorted_by_position(tmp_path):
    scan = read_dicom(save(enhanced(ct(), [0, 2, 4, 1, 3]), tmp_path / "e.dcm"))
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 3, 4], "1 of 3 gaps differ"),
        ([0, 1, 2, 3, 3], "two slices lie at the same position"),
        ([0, 1], "at least 3 slices, got 2"),
    ],
)
def test_frames_are_refused_by_the_rules_of_slices(tmp_path, order, message):
    dataset = enhanced(ct(), order)
    pixels = np.frombuffer(dataset.PixelData, "<u2").copy()
    pixels[-1] += 1
    dataset.PixelData = pixels.tobytes()
    assert message in refusal(save(dataset, tmp_path / "e.dcm"))


SPACED = item(PixelSpacing=[0.7, 0.8])
TWO = (SPACED, item(PixelSpacing=[0.5, 0.5]))


def scaled(intercept):
    return item(RescaleSlope=1, RescaleIntercept=intercept)


def faced(sign):
    return item(ImageOrientationPatient=[1, 0, 0, 0, sign, 0])


def test_functional_groups_that_repeat_themselves_are_read(tmp_path):
    dataset = enhanced(ct(), shared={"PixelMeasuresSequence": [SPACED, SPACED]})
    check_geometry(read_dicom(save(dataset, tmp_path / "e.dcm")).image)


def turned(n):
    return {n: {"PlaneOrientationSequence": [item(ImageOrientationPatient=[0, 1, 0, -1, 0, 0])]}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_frame": turned(3)}, "frame 4 of e.dcm is turned in its plane"),
        (
            {"per_frame": {2: {"PixelMeasuresSequence": [item(PixelSpacing=[0.9, 0.9])]}}},
            "differ in Pixel Spacing: frame 1 of e.dcm",
        ),
        (
            {"shared": {"PixelMeasuresSequence": [SPACED, item(PixelSpacing=[0.5, 0.5])]}},
            "frame 1 of e.dcm tells 2 different values of Pixel Spacing",
        ),
        (
            {"SharedFunctionalGroupsSequence": [item(PixelMeasuresSequence=[one]) for one in TWO]},
            "frame 1 of e.dcm tells 2 different values of Pixel Spacing",
        ),
        (
            {"shared": {"PixelValueTransformationSequence": [scaled(-1024), scaled(0)]}},
            "frame 1 of e.dcm tells 2 different values of Rescale Intercept",
        ),
        (
            {"shared": {"PlaneOrientationSequence": [faced(1), faced(-1)]}},
            "frame 1 of e.dcm tells 2 different values of Image Orientation (Patient)",
        ),
        ({"shared": {"PlaneOrientationSequence": []}}, "5 of 5 slices lack Image Orientation"),
        ({"shared": {"PixelMeasuresSequence": [item()]}}, "5 of 5 slices lack Pixel Spacing"),
        ({"PerFrameFunctionalGroupsSequence": None}, "5 of 5 slices lack Image Position"),
        ({"NumberOfFrames": 0}, "1 or more as Number of Frames of e.dcm, got 0"),
        ({"NumberOfFrames": 4}, "holds 4 frames but describes 5"),
        (
            {"NumberOfFrames": 4, "PerFrameFunctionalGroupsSequence": None},
            "pixels for 4 images of 8 x 9, got 720 in e.dcm",
        ),
    ],
)
def test_frames_without_clear_geometry_are_refused(tmp_path, arguments, message):
    dataset = enhanced(ct(), **arguments)
    if message.startswith("pixels"):  # geometry of frames that are told in the header alone
        set_elements(dataset, {"ImagePositionPatient": [0, 0, 0]})
        message = "4 of 4 slices lack Image Position"
    assert message in refusal(save(dataset, tmp_path / "e.dcm"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"StackID": "2"}, "got 2 stacks in one series"),
        ({"StackID": "1", "TemporalPositionIndex": 2}, "got 2 points in time in one series"),
    ],
)
def test_several_volumes_in_one_file_are_refused(tmp_path, content, message):
    dataset = enhanced(ct())
    groups = dataset.PerFrameFunctionalGroupsSequence
    for n, group in enumerate(groups):
        group.FrameContentSequence[0].TemporalPositionIndex = 1
        if n > 2:
            set_elements(group.FrameContentSequence[0], content)
    assert message in refusal(save(dataset, tmp_path / "e.dcm"))


def test_half_a_frame_is_refused(tmp_path):
    file = save(enhanced(ct()), tmp_path / "e.dcm")
    file.write_bytes(file.read_bytes().replace(b"IS\x02\x005 ", b"IS\x02\x00.5", 1))
    assert "wanted a whole number as Number of Frames of e.dcm, got 0.5" in refusal(file)


def test_a_multi_frame_capture_without_places_is_refused(tmp_path):
    word_capture = "1.2.840.10008.5.1.4.1.1.7.3"
    dataset = enhanced(
        ct(),
        SOPClassUID=word_capture,
        PerFrameFunctionalGroupsSequence=None,
        SharedFunctionalGroupsSequence=None,
        PixelSpacing=[0.7, 0.7],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[0, 0, 0],
    )
    file = save(dataset, tmp_path / "capture.dcm")
    assert "5 of 5 slices lack Image Position (Patient)" in refusal(file)
    dataset.Modality = "OT"
    assert "got 1 secondary capture" in refusal(save(dataset, tmp_path / "capture.dcm"))


def test_parts_of_a_concatenation_are_joined_and_a_lost_one_is_missed(tmp_path):
    for part, order in enumerate(([0, 1], [2, 3, 4])):
        dataset = enhanced(
            ct(),
            order,
            ConcatenationUID="1.2.3",
            InConcatenationNumber=part + 1,
            InConcatenationTotalNumber=2,
        )
        save(dataset, tmp_path / f"{part}.dcm")
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())
    (tmp_path / "0.dcm").unlink()
    assert "stored in 2 parts, of which 1 are here" in refusal(tmp_path)


PARTS = ([0, 1], [2, 3], [4, 5, 6], [7, 8, 9])


def write_parts(folder, kept, told):
    """Some parts of a concatenation; `told` gives the elements of the part by its index."""
    hu = ct(shape=(10, 8, 9))
    for part in kept:
        save(enhanced(hu, PARTS[part], **told(part)), folder / f"{part}.dcm")
    return hu


def numbered(part):
    return {"ConcatenationUID": "1.2.3", "InConcatenationNumber": part + 1}


def placed(part):
    return {"ConcatenationUID": "1.2.3", "ConcatenationFrameOffsetNumber": PARTS[part][0]}


def placed_without_uid(part):
    return {"ConcatenationFrameOffsetNumber": PARTS[part][0]}


def totalled(part):
    return {**placed(part), "InConcatenationTotalNumber": 4}


@pytest.mark.parametrize("told", [numbered, totalled, placed, placed_without_uid])
def test_parts_of_a_concatenation_are_joined_by_number_or_offset(tmp_path, told):
    hu = write_parts(tmp_path, range(4), told)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), hu)


@pytest.mark.parametrize(
    ("kept", "told", "message"),
    [
        ([1, 2, 3], numbered, "stored in at least 4 parts, of which 3 are here"),
        ([2], numbered, "stored in at least 3 parts, of which 1 are here"),
        ([0, 0], numbered, "0.dcm is one part of a scan of which the others are not here"),
        ([2], placed, "wanted one from frame 1, got one from frame 5"),
        ([1, 2, 3], placed, "wanted one from frame 1, got one from frame 3"),
        ([1, 2, 3], placed_without_uid, "wanted one from frame 1, got one from frame 3"),
        ([1, 2, 2], totalled, "stored in 4 parts, of which 2 are here"),
        ([2], lambda part: {"ConcatenationUID": "1.2.3"}, "not told which one (In-concaten"),
    ],
)
def test_a_lost_part_is_missed_though_their_number_is_not_told(tmp_path, kept, told, message):
    hu = ct(shape=(10, 8, 9))
    for n, part in enumerate(kept):
        order = [0, 1, 2] if part == 0 else PARTS[part]
        save(enhanced(hu, order, **told(part)), tmp_path / f"{part}{n or ''}.dcm")
    assert message in refusal(tmp_path)


def test_a_concatenation_of_one_part_is_whole(tmp_path):
    told = {**numbered(0), "InConcatenationTotalNumber": 1, "ConcatenationFrameOffsetNumber": 0}
    scan = read_dicom(save(enhanced(ct(), **told), tmp_path / "e.dcm"))
    np.testing.assert_array_equal(voxels(scan), ct())


def test_multi_frame_files_of_one_frame_are_slices(tmp_path):
    for k in ALL:
        save(enhanced(ct(), [k]), tmp_path / f"{k}.dcm")
    scan = read_dicom(tmp_path)
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)


def test_frames_and_slices_of_one_series_are_joined(tmp_path):
    write_scan(tmp_path)
    for k in (1, 2, 3):
        (tmp_path / f"{k}.dcm").unlink()
    save(enhanced(ct(), [3, 1, 2]), tmp_path / "e.dcm")
    scan = read_dicom(tmp_path)
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)


@pytest.mark.parametrize("spacing", [[7e-4, 7e-4], [700, 700]])
def test_spacings_of_no_ct_are_refused(tmp_path, spacing):
    told = refusal(write_scan(tmp_path, PixelSpacing=spacing))
    assert "mm apart, wanted 0.05 to 50 mm" in told


def test_positions_out_of_this_world_are_refused(tmp_path):
    told = refusal(write_scan(tmp_path, changes={k: far(k) for k in ALL}))
    assert told.startswith("the position of its first voxel is 1e+06 0 0 mm, wanted at most 100000")


def far(k):
    return {"ImagePositionPatient": [1e6, 0, STEP_MM * k]}
