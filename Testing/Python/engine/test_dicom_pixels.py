"""Voxels of DICOM scans: every one right and in Hounsfield units, or a refusal."""

from __future__ import annotations

import struct
import tempfile

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom import read_dicom
from contrastdiagnosis.imaging.reading.scan_image import NO_VOXEL_HU
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from engine.test_dicom_geometry import refusal
from engine.test_dicom_phantom import (
    ct,
    ct_slice,
    enhanced,
    item,
    save,
    set_elements,
    voxels,
    write_scan,
)


def stored(values, signed=False):
    return {
        "PixelData": np.asarray(values).astype("<i2" if signed else "<u2").tobytes(),
        "PixelRepresentation": int(signed),
    }


def test_every_slice_is_rescaled_by_its_own_numbers(tmp_path):
    """As in PET, and in CT that was written by PACS which use the full range of each slice."""
    hu = ct() // 10 * 10
    slopes, intercepts = (1, 2, 5, 10, 1), (-1024, -1000, -2000, -1000, 0)
    changes = {
        k: {
            **stored((hu[k].astype(int) - intercepts[k]) // slopes[k], signed=True),
            "RescaleSlope": slopes[k],
            "RescaleIntercept": intercepts[k],
        }
        for k in range(5)
    }
    scan = read_dicom(write_scan(tmp_path, hu, changes))
    wanted = (hu - np.reshape(intercepts, (5, 1, 1))) // np.reshape(slopes, (5, 1, 1))
    wanted = wanted * np.reshape(slopes, (5, 1, 1)) + np.reshape(intercepts, (5, 1, 1))
    np.testing.assert_array_equal(voxels(scan), wanted)


def test_every_frame_is_rescaled_by_its_own_numbers(tmp_path):
    groups = {
        n: {"PixelValueTransformationSequence": [item(RescaleSlope=1, RescaleIntercept=-1024 + n)]}
        for n in range(5)
    }
    dataset = enhanced(ct(), shared={"PixelValueTransformationSequence": []}, per_frame=groups)
    scan = read_dicom(save(dataset, tmp_path / "e.dcm"))
    np.testing.assert_array_equal(voxels(scan), ct() + np.reshape(range(5), (5, 1, 1)))


def test_fractions_are_kept_as_floats(tmp_path):
    values = np.arange(72).reshape(8, 9)
    changes = {2: {**stored(values), "RescaleSlope": "0.25", "RescaleIntercept": "-100.5"}}
    scan = read_dicom(write_scan(tmp_path, changes=changes))
    assert scan.image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(voxels(scan)[2], values * 0.25 - 100.5)
    np.testing.assert_array_equal(voxels(scan)[[0, 1, 3, 4]], ct()[[0, 1, 3, 4]])


def test_what_is_too_large_for_16_bits_is_kept_as_floats(tmp_path):
    values = np.full((8, 9), 65535)
    scan = read_dicom(write_scan(tmp_path, changes={4: stored(values)}))
    assert scan.image.GetPixelID() == sitk.sitkFloat32
    assert voxels(scan)[4].min() == 65535 - 1024
    np.testing.assert_array_equal(voxels(scan)[:4], ct()[:4])


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "RescaleSlope"])
@pytest.mark.parametrize("value", [None, ""])
def test_rescale_that_some_slices_lack_is_refused(tmp_path, keyword, value):
    changes = {k: {keyword: value} for k in (1, 2)}
    name = keyword.replace("Rescale", "Rescale ")
    assert f"2 of 5 slices lack {name} (the first is 1.dcm)" in refusal(
        write_scan(tmp_path, changes=changes)
    )


def test_half_a_rescale_is_refused(tmp_path):
    told = refusal(write_scan(tmp_path, RescaleIntercept=None))
    assert "5 of 5 slices lack Rescale Intercept" in told


def test_without_any_rescale_values_stay(tmp_path):
    scan = read_dicom(write_scan(tmp_path, RescaleIntercept=None, RescaleSlope=None))
    np.testing.assert_array_equal(voxels(scan), ct() + 1024)


def test_other_units_are_refused(tmp_path):
    for slope in (0, -1):
        told = refusal(write_scan(tmp_path / f"slope{slope}", RescaleSlope=slope))
        assert told == f"wanted a positive Rescale Slope, got {slope} in 0.dcm"
    told = refusal(write_scan(tmp_path / "unit", RescaleType="MGML"))
    assert "wanted Hounsfield units, got mg/ml in 0.dcm" in told
    told = refusal(write_scan(tmp_path / "lut", ModalityLUTSequence=[item(LUTExplanation="x")]))
    assert "0.dcm is scaled by a Modality LUT" in told


# --- padding ------------------------------------------------------------------------------------

ROUND = (np.mgrid[:20, :20] - 9.5) ** 2
OUTSIDE = ROUND.sum(0) > 9**2


def padded(folder, padding, signed, intercept=-1024, **elements):
    hu = ct(shape=(5, 20, 20))
    raw = np.where(OUTSIDE, padding, hu.astype(int) - intercept)
    changes = {k: stored(raw[k], signed) for k in range(5)}
    write_scan(folder, hu, changes, RescaleIntercept=intercept, **elements)
    return hu


@pytest.mark.parametrize(
    ("padding", "signed", "element", "intercept"),
    [
        (63536, False, 63536, -1024),
        (-2000, True, -2000, -1024),
        (-2000, True, -2000, 0),
        (-32768, True, -32768, -1024),
        (65535, False, 65535, -1024),
        (0, False, 0, -8192),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_padding_of_any_sign_is_no_voxel(tmp_path, padding, signed, element, intercept, syntax):
    hu = padded(tmp_path, padding, signed, intercept)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.add_new(0x00280120, "SS" if signed else "US", element)
        dataset.save_as(file)
    scan = read_dicom(tmp_path)
    assert scan.image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(voxels(scan), np.where(OUTSIDE, NO_VOXEL_HU, hu))


def test_the_sign_of_padding_is_that_of_the_pixels(tmp_path):
    hu = padded(tmp_path, 63536, signed=False)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.add_new(0x00280120, "SS", -2000)
        dataset.save_as(file)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), np.where(OUTSIDE, NO_VOXEL_HU, hu))


@pytest.mark.parametrize(("first", "limit"), [(-2048, -2000), (-2000, -2048)])
def test_padding_may_be_a_range(tmp_path, first, limit):
    hu = padded(tmp_path, -2020, True, 0, PixelPaddingValue=first, PixelPaddingRangeLimit=limit)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), np.where(OUTSIDE, NO_VOXEL_HU, hu))


@pytest.mark.parametrize(("value", "hu_of_it"), [(0, -1024), (1024, 0)])
def test_padding_that_air_may_equal_is_padding_at_the_border_only(tmp_path, value, hu_of_it):
    hu = ct(shape=(5, 20, 20))
    hu[hu == hu_of_it] += 1
    hu[:, OUTSIDE] = hu_of_it
    hu[:, 8:11, 9:12] = hu_of_it  # air in the trachea
    write_scan(tmp_path, hu, PixelPaddingValue=value)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), np.where(OUTSIDE, NO_VOXEL_HU, hu))


def test_without_the_element_nothing_is_padding(tmp_path):
    hu = padded(tmp_path / "a", -2000, True)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path / "a")), np.where(OUTSIDE, -3024, hu))
    padded(tmp_path / "b", -2000, True, PixelPaddingValue="")
    assert voxels(read_dicom(tmp_path / "b")).min() == -3024


def test_padding_above_the_stored_bits_is_no_bone(tmp_path):
    """63536 cut to 12 bits would be 2096, with the intercept 1072 HU."""
    hu = padded(tmp_path, 63536, False, PixelPaddingValue=63536, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), np.where(OUTSIDE, NO_VOXEL_HU, hu))


# --- bits ---------------------------------------------------------------------------------------


def test_a_declared_overlay_above_the_value_is_dropped(tmp_path):
    raw = ct().astype(int) + 1024
    raw[:, ::2, ::3] |= 0x8000
    write_scan(tmp_path, changes={k: stored(raw[k]) for k in range(5)}, BitsStored=12, HighBit=11)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.add_new(0x60020102, "US", 15)
        dataset.save_as(file)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


@pytest.mark.parametrize("cut", [0x0FFF, 0xFFFF])
def test_the_sign_of_twelve_bits_is_extended(tmp_path, cut):
    changes = {k: stored(ct()[k].astype(int) & cut) for k in range(5)}
    write_scan(tmp_path, changes=changes, BitsStored=12, HighBit=11, RescaleIntercept=0)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.PixelRepresentation = 1
        dataset.save_as(file)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


def test_values_may_stand_at_the_high_end(tmp_path):
    raw = (ct().astype(int) + 1024) << 4
    write_scan(tmp_path, changes={k: stored(raw[k]) for k in range(5)}, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


@pytest.mark.parametrize(("value", "signed"), [(5000, False), (0x8400, False), (-3024, True)])
def test_values_beyond_the_stored_bits_are_refused(tmp_path, value, signed):
    raw = ct()[2].astype(int) + 1024
    raw[3, 4] = value
    changes = {2: stored(raw % 2048 if signed else raw, signed)}
    if signed:
        changes[2]["PixelData"] = np.full((8, 9), value, "<i2").tobytes()
    told = refusal(write_scan(tmp_path, changes=changes, BitsStored=12, HighBit=11))
    assert "of 2.dcm do not fit into the 12 bits that it tells as Bits Stored" in told


def test_wide_and_narrow_pixels(tmp_path):
    wide = {
        k: {"PixelData": (ct()[k].astype("<i4") + 70000).tobytes(), "BitsAllocated": 32}
        for k in range(5)
    }
    write_scan(tmp_path / "32", changes=wide, BitsStored=32, HighBit=31, RescaleIntercept=-70000)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path / "32")), ct())
    told = refusal(write_scan(tmp_path / "12", BitsAllocated=12, BitsStored=12, HighBit=11))
    assert "wanted pixels of 8, 16 or 32 bits, got 12 bits up to bit 11 of 12 in 0.dcm" in told


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PixelRepresentation", "Columns"])
def test_untold_formats_are_refused(tmp_path, keyword):
    told = refusal(write_scan(tmp_path, changes={3: {keyword: None}}))
    assert "3.dcm does not tell its" in told


# --- transfer syntaxes --------------------------------------------------------------------------


def smooth():
    """Large and smooth enough to be compressed: GDCM's encoder writes beyond its memory else."""
    k, row, column = np.mgrid[:5, :40, :42]
    return (row * 20 + column * 5 + k * 30 - 900).astype(np.int16)


def transcode(folder, syntax, signed=False):
    """The scan in another transfer syntax."""
    write_scan(
        folder,
        smooth(),
        changes={k: stored(smooth()[k] + (0 if signed else 1024), signed) for k in range(5)},
        RescaleIntercept=0 if signed else -1024,
    )
    for file in sorted(folder.iterdir()):
        dataset = dcmread(file)
        compress(dataset, syntax)
        dataset.save_as(file)
    return folder


def compress(dataset, syntax):
    if syntax == RLELossless:
        dataset.compress(syntax)
        return
    if syntax in (JPEGLosslessSV1, JPEG2000Lossless):
        frames = list(compressed_by_gdcm(dataset, syntax))
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        list(dataset.iterall())  # raw elements would be written as they were read
        dataset.set_original_encoding(False, False)
    dataset.file_meta.TransferSyntaxUID = syntax


def compressed_by_gdcm(dataset, syntax):
    kind = "<i2" if dataset.PixelRepresentation else "<u2"
    n = int(dataset.get("NumberOfFrames", 1))
    for frame in np.frombuffer(dataset.PixelData, kind).reshape(n, 1, dataset.Rows, -1):
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.UseCompressionOn()
            writer.SetCompressor("JPEG" if syntax == JPEGLosslessSV1 else "JPEG2000")
            writer.SetFileName(file.name)
            writer.Execute(sitk.GetImageFromArray(frame))
            yield next(generate_frames(dcmread(file.name).PixelData, number_of_frames=1))


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEG2000Lossless,
]
COMPRESSED = SYNTAXES[4:]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:20])
@pytest.mark.parametrize("signed", [False, True])
def test_any_transfer_syntax_gives_the_same(tmp_path, syntax, signed):
    np.testing.assert_array_equal(voxels(read_dicom(transcode(tmp_path, syntax, signed))), smooth())


@pytest.mark.parametrize("syntax", SYNTAXES[3:], ids=lambda uid: uid.name[:20])
def test_any_transfer_syntax_of_frames_gives_the_same(tmp_path, syntax):
    dataset = enhanced(smooth(), [4, 0, 2, 1, 3])
    file = save(dataset, tmp_path / "e.dcm")
    dataset = dcmread(file)
    compress(dataset, syntax)
    dataset.save_as(file)
    np.testing.assert_array_equal(voxels(read_dicom(file)), smooth())


def test_padding_in_compressed_slices(tmp_path):
    hu = smooth()
    raw = hu.astype(int) + 1024
    raw[:, :9, :9] = 63536
    write_scan(tmp_path, hu, {k: stored(raw[k]) for k in range(5)}, PixelPaddingValue=63536)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        compress(dataset, JPEG2000Lossless)
        dataset.save_as(file)
    hu[:, :9, :9] = NO_VOXEL_HU
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), hu)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name[:20])
def test_the_header_tells_the_sign_of_compressed_values(tmp_path, syntax):
    transcode(tmp_path, syntax)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.PixelRepresentation = 1
        dataset.save_as(file)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), smooth())


def test_a_signed_codestream_in_an_unsigned_slice_is_refused(tmp_path):
    transcode(tmp_path, JPEG2000Lossless, signed=True)
    dataset = dcmread(tmp_path / "2.dcm")
    dataset.PixelRepresentation = 0
    dataset.save_as(tmp_path / "2.dcm")
    assert "pixels of 2.dcm are signed and some are negative, but" in refusal(tmp_path)


def test_slices_from_before_the_preamble_are_read(tmp_path):
    write_scan(tmp_path, suffix="")
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        del dataset.SOPClassUID
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True)
        assert file.read_bytes()[:4] == b"\x08\0\x08\0"
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


@pytest.mark.parametrize(
    ("syntax", "name"),
    [(MPEG2MPML, "cannot decode the pixels of 2.dcm"), ("1.2.3.4", "unknown transfer syntax")],
)
def test_unknown_transfer_syntaxes_are_named(tmp_path, syntax, name):
    folder = transcode(tmp_path, JPEG2000Lossless)
    dataset = dcmread(folder / "2.dcm")
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(folder / "2.dcm", implicit_vr=False, little_endian=True)
    told = refusal(folder)
    assert name in told and "2.dcm" in told


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:20])
def test_a_slice_cut_off_anywhere_is_named(tmp_path, syntax):
    transcode(tmp_path, syntax)
    file = tmp_path / "4.dcm"  # the last one leaves no gap
    whole = file.read_bytes()
    for length in (0, 1, 100, 131, 132, 140, 180, 300, 360, 500, len(whole) - 100, len(whole) - 9):
        if length < len(whole):
            file.write_bytes(whole[:length])
            told = refusal(tmp_path)
            assert told.startswith("4.dcm ") or "4.dcm is cut off" in told, (length, told)


def test_frames_cut_off_are_named(tmp_path):
    file = save(enhanced(smooth()), tmp_path / "e.dcm")
    file.write_bytes(file.read_bytes()[:-10])
    told = refusal(file)
    assert told == "e.dcm is cut off: wanted 3360 bytes of pixels for frame 5, got 3350"


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name[:20])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.98])
def test_a_compressed_slice_cut_off_in_an_intact_file_is_named(tmp_path, syntax, part):
    """As an archive writes it that received a part: the item's length is right."""
    transcode(tmp_path, syntax)
    dataset = dcmread(tmp_path / "2.dcm")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: int(len(frame) * part)]])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "2.dcm")
    assert refusal(tmp_path).startswith("2.dcm is cut off or damaged")


@pytest.mark.parametrize("syntax", COMPRESSED[1:], ids=lambda uid: uid.name[:20])
def test_a_damaged_codestream_is_named(tmp_path, syntax):
    transcode(tmp_path, syntax)
    dataset = dcmread(tmp_path / "2.dcm")
    dataset.PixelData = encapsulate([b"\xff\xd8nothing that a decoder knows\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "2.dcm")
    assert "cannot decode the pixels of 2.dcm, compressed as JPEG" in refusal(tmp_path)


@pytest.mark.parametrize("header", [struct.pack("<16L", 3, 64, 70, 80, *[0] * 12), b"", b"x" * 64])
def test_a_damaged_run_length_header_is_named(tmp_path, header):
    transcode(tmp_path, RLELossless)
    dataset = dcmread(tmp_path / "2.dcm")
    dataset.PixelData = encapsulate([header + b"\0\0"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "2.dcm")
    assert refusal(tmp_path).startswith("2.dcm is cut off or damaged")


@pytest.mark.parametrize("n_bytes", [144 * 2, 144 - 18, 144 + 18])
def test_native_pixels_must_be_as_many_as_told(tmp_path, n_bytes):
    told = refusal(write_scan(tmp_path, changes={1: {"PixelData": b"\1" * n_bytes}}))
    assert f"wanted 144 bytes of pixels for 1 images of 8 x 9, got {n_bytes} in 1.dcm" in told


def test_a_byte_more_is_padding(tmp_path):
    data = ct_slice(ct()[1]).PixelData
    write_scan(tmp_path, changes={1: {"PixelData": data + b"\0\0"}})
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("inserted", [b"\r", b"\r\r", b"\r" * 9, b"\r" * 40])
@pytest.mark.parametrize("signed", [False, True])
def test_pixels_that_a_transfer_as_text_has_shifted_are_refused(tmp_path, inserted, signed, syntax):
    noise = ct()
    noise[1] = -1000
    for k, hu in enumerate(noise):
        elements = stored(hu if signed else hu + 1024, signed)
        dataset = ct_slice(hu, 1.5 * k, RescaleIntercept=0 if signed else -1024, **elements)
        dataset.file_meta.TransferSyntaxUID = syntax
        save(dataset, tmp_path / f"{k}.dcm")
    assert read_dicom(tmp_path)
    for k in range(len(noise)):
        file = tmp_path / f"{k}.dcm"
        data = file.read_bytes()
        file.write_bytes(data[:-100] + inserted + data[-100:])
        told = refusal(tmp_path)
        assert told == f"{k}.dcm is damaged: behind its pixels lie bytes that tell nothing"
        file.write_bytes(data)


@pytest.mark.parametrize(
    "tail", [b"\0" * 300, b"\r\n--3ac1e--\r\n", b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0"]
)
def test_padding_behind_the_pixels_is_harmless(tmp_path, tail):
    file = write_scan(tmp_path) / "1.dcm"
    file.write_bytes(file.read_bytes() + tail)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloat", "<f8")])
def test_floating_point_pixels_are_refused(tmp_path, keyword, kind):
    keyword = keyword if keyword.endswith("PixelData") else f"{keyword}PixelData"
    bits = 8 * np.dtype(kind).itemsize
    write_scan(
        tmp_path,
        PixelData=None,
        **{keyword: ct()[0].astype(kind).tobytes()},
        **{"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1},
    )
    assert refusal(tmp_path) == "wanted whole numbers as pixels, got floating-point ones in 0.dcm"


def test_more_images_than_told_are_refused(tmp_path):
    folder = transcode(tmp_path, JPEG2000Lossless)
    dataset = dcmread(folder / "3.dcm")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    for n_told, n_there in ((1, 3), (2, 3), (3, 2)):
        dataset.PixelData = encapsulate([frame] * n_there)
        dataset["PixelData"].is_undefined_length = True
        dataset.NumberOfFrames = n_told
        dataset.save_as(folder / "3.dcm")
        told = refusal(folder)
        # Where frames are told of, their places are missed first.
        assert f"3.dcm tells of {n_told} image" in told or "lack Image Position" in told


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name[:20])
def test_a_lost_compressed_frame_is_missed(tmp_path, syntax):
    file = save(enhanced(smooth()), tmp_path / "e.dcm")
    dataset = dcmread(file)
    compress(dataset, syntax)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=5))
    dataset.PixelData = encapsulate(frames[:4])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(file)
    assert refusal(file) == "e.dcm tells of 5 images but holds 4: it is damaged"


def test_frames_in_several_fragments_are_joined(tmp_path):
    file = save(enhanced(smooth()), tmp_path / "e.dcm")
    dataset = dcmread(file)
    compress(dataset, JPEG2000Lossless)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=5))
    for has_bot in (False, True):
        dataset.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=has_bot)
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(file)
        np.testing.assert_array_equal(voxels(read_dicom(file)), smooth())


def test_a_compressed_slice_of_another_size_is_refused(tmp_path):
    folder = transcode(tmp_path, JPEG2000Lossless)
    small = ct_slice(smooth()[2, :30])
    frame = next(iter(compressed_by_gdcm(small, JPEG2000Lossless)))
    dataset = dcmread(folder / "2.dcm")
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(folder / "2.dcm")
    assert "cannot decode the pixels of 2.dcm" in refusal(folder)


def test_pixels_that_contradict_the_transfer_syntax_are_refused(tmp_path):
    transcode(tmp_path, RLELossless)
    dataset = dcmread(tmp_path / "2.dcm")
    file = tmp_path / "2.dcm"
    file.write_bytes(
        file.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0", 1)
    )
    assert "2.dcm are compressed, but its transfer syntax tells otherwise" in refusal(tmp_path)
    dataset = ct_slice(smooth()[2], 3.0)
    save(dataset, file)
    file.write_bytes(
        file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1)
    )
    assert "2.dcm are not compressed, but its transfer syntax tells so" in refusal(tmp_path)


def test_colour_is_refused(tmp_path):
    changes = {k: {"SamplesPerPixel": 3, "PixelData": b"\1" * 432} for k in range(5)}
    write_scan(tmp_path, changes=changes, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    with pytest.raises(InputError, match="wanted grey voxels, got 3 samples per pixel in 0.dcm"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "RGB", "YBR_FULL"])
def test_one_sample_that_is_no_grey_is_refused(tmp_path, kind):
    told = refusal(write_scan(tmp_path, PhotometricInterpretation=kind))
    assert told == f"wanted grey voxels, got {kind} as Photometric Interpretation in 0.dcm"


@pytest.mark.parametrize("kind", ["MONOCHROME1", None])
def test_either_way_to_show_grey_gives_the_same(tmp_path, kind):
    write_scan(tmp_path, PhotometricInterpretation=kind)
    np.testing.assert_array_equal(voxels(read_dicom(tmp_path)), ct())


def test_pixels_for_no_such_size_are_refused_before_any_memory_is_taken(tmp_path):
    file = save(enhanced(ct(), Rows=60000, Columns=60000), tmp_path / "e.dcm")
    told = "pixels for 5 images of 60000 x 60000, got 720 in e.dcm: it is damaged"
    assert told in refusal(file)


def test_more_compressed_frames_than_there_is_room_for_are_refused(tmp_path):
    groups = [item() for _ in range(100)]
    dataset = enhanced(ct(), NumberOfFrames=100, PerFrameFunctionalGroupsSequence=groups)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([b"xx"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    told = refusal(save(dataset, tmp_path / "e.dcm"))
    assert told.startswith("e.dcm tells of 100 images but has only")


def test_frames_that_are_not_described_are_not_built(tmp_path):
    dataset = enhanced(ct(), PerFrameFunctionalGroupsSequence=None, NumberOfFrames=2_000_000_000)
    told = refusal(save(dataset, tmp_path / "e.dcm"))
    assert told.startswith("2000000000 of 2000000000 slices lack Image Position (Patient)")


def test_too_little_memory_is_told(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("Unable to allocate 228 GiB")

    monkeypatch.setattr("contrastdiagnosis.imaging.reading.dicom.hounsfield_volume", fail)
    told = refusal(write_scan(tmp_path))
    assert told == f"there is not enough memory to read {tmp_path}: Unable to allocate 228 GiB"


def test_set_elements_removes(tmp_path):
    dataset = ct_slice(ct()[0])
    set_elements(dataset, {"Rows": None})
    assert "Rows" not in dataset
