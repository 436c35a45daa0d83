"""MetaImage: what leaves the geometry open, or is not all there, is refused by its true reason."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.files import read_file

HU = (np.arange(60).reshape(3, 4, 5) * 7 - 900).astype("<i2")
RAW = HU.tobytes()
PACKED = zlib.compress(RAW)
LPS = np.array([[0, 0, 2.5, 11], [0.7, 0, 0, -22], [0, -0.8, 0, 33.5]])
"""Origin in the last column; the axes are turned, of unequal spacing and left-handed."""


def fields(**changes):
    """A header's fields; None leaves one out."""
    found = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "0 1 0 0 0 -1 1 0 0",
        "Offset": "11 -22 33.5",
        "ElementSpacing": "0.7 0.8 2.5",
        "DimSize": "5 4 3",
        "ElementType": "MET_SHORT",
    }
    found.update(changes)
    found["ElementDataFile"] = changes.get("ElementDataFile", "LOCAL")
    found = {name: value for name, value in found.items() if value is not None}
    if "ElementDataFile" in found:
        found["ElementDataFile"] = found.pop("ElementDataFile")
    return found


def write(folder, header, body=RAW, name="ct.mha", line="\n", between=" = "):
    text = line.join([*(f"{name}{between}{value}" for name, value in header.items()), ""])
    (folder / name).write_bytes(text.encode() + body)
    return folder / name


def check(image, matrix=LPS, voxels=HU):
    """The image has the voxels and the LPS geometry, in millimetres."""
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    np.testing.assert_allclose(np.c_[axes, image.GetOrigin()], matrix, atol=1e-5)


def refused(path, match):
    with pytest.raises(InputError, match=match) as error:
        read_file(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ElementSpacing": None}, "gives no ElementSpacing$"),
        (
            {"ElementSpacing": None, "ElementSize": "0.7 0.8 2.5"},
            "no ElementSpacing; the ElementSize of voxels is not their distance",
        ),
        ({"ElementSpacing": "0.7 0.8 -2.5"}, "positive ElementSpacing, got 0.7 0.8 -2.5"),
        ({"ElementSpacing": "0.7 0 2.5"}, "positive ElementSpacing"),
        ({"ElementSpacing": "0.7 nan 2.5"}, "3 finite numbers as ElementSpacing"),
        ({"ElementSpacing": "0.7 inf 2.5"}, "3 finite numbers as ElementSpacing"),
        ({"ElementSpacing": "0,7 0,8 2,5"}, "3 finite numbers as ElementSpacing, got '0,7 0,8"),
        ({"ElementSpacing": "0.7 0.8"}, "3 finite numbers as ElementSpacing"),
        ({"ElementSpacing": "0.7"}, "3 finite numbers as ElementSpacing"),
        ({"ElementSpacing": ""}, "gives no ElementSpacing"),
        ({"elementspacing": "0.7 0.8 2.5", "ElementSpacing": None}, "gives no ElementSpacing"),
        ({"ElementSpacing": "0.0007 0.0008 0.0025"}, "mm apart, wanted 0.05 to 50 mm"),
        ({"Offset": None}, "gives no Offset, so its position"),
        ({"Offset": "1 nan 3"}, "3 finite numbers as Offset"),
        ({"Offset": "1e8 0 0"}, "the position of its first voxel is 1e.08 0 0 mm"),
        ({"Offset": "1 2"}, "3 finite numbers as Offset"),
        ({"Position": "11 -22 33"}, "contradicts itself: Offset 11 -22 33.5, Position 11 -22 33"),
        ({"Origin": "0 0 0"}, "contradicts itself"),
        ({"Rotation": "1 0 0 0 1 0 0 0 1"}, "contradicts itself: TransformMatrix"),
        ({"TransformMatrix": "1 0 0 0 1 0"}, "9 finite numbers as TransformMatrix"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "TransformMatrix is no rotation"),
        ({"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, "TransformMatrix is no rotation"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 1 0"}, "90 degrees off right angles"),
        (
            {"TransformMatrix": "1 0 0 0 1 0 0 0.2588190 0.9659258"},
            "15.0 degrees off right angles, as in a scan .* Resample it to an upright grid first",
        ),
        ({"CenterOfRotation": "5 6 7"}, r"turned about a CenterOfRotation \(5 6 7\)"),
        ({"TransformMatrix": None, "AnatomicalOrientation": "LPI"}, "LPI, but no TransformMatrix"),
        ({"DistanceUnits": "furlong"}, "lengths are in 'furlong'"),
        ({"ElementToIntensityFunctionSlope": "2"}, "rescaled .ElementToIntensityFunctionSlope 2"),
        ({"ElementToIntensityFunctionOffset": "-1024"}, "FunctionOffset -1024"),
        ({"ElementByteOrderMSB": "True"}, "contradicts itself: BinaryDataByteOrderMSB False"),
    ],
)
def test_an_open_or_broken_geometry_is_refused(tmp_path, changes, match):
    refused(write(tmp_path, fields(**changes)), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"NDims": "2", "DimSize": "5 4"}, r"got 2 dimensions of size \(5, 4\)"),
        ({"NDims": "4", "DimSize": "5 4 3 2"}, r"got 4 dimensions of size \(5, 4, 3, 2\)"),
        ({"NDims": "4"}, "has NDims 4, but DimSize 5 4 3"),
        ({"NDims": None}, "gives no NDims"),
        ({"DimSize": None}, "gives no DimSize"),
        ({"DimSize": "5 4 0"}, "leaves no voxel"),
        ({"DimSize": "5 4 -3"}, "leaves no voxel"),
        ({"DimSize": "5 4 x"}, "whole numbers as DimSize"),
        ({"ElementNumberOfChannels": "3"}, "with 3 values per voxel"),
        ({"ElementType": None}, "gives no ElementType"),
        ({"ElementType": "MET_STRING"}, "got the ElementType MET_STRING"),
        ({"ElementDataFile": None}, "breaks off: it names no ElementDataFile"),
        ({"ObjectType": "Tube"}, "wanted ObjectType Image, got Tube"),
        ({"BinaryData": None}, "wanted 60 values as text"),
        ({"HeaderSize": "4"}, "a HeaderSize of 4 with LOCAL"),
        ({"BinaryData": "Truex"}, "wanted True or False as BinaryData, got 'truex'"),
        ({"BinaryDataByteOrderMSB": "big"}, "wanted True or False as BinaryDataByteOrderMSB"),
        ({"HeaderSize": "-2"}, "a HeaderSize of -2 with LOCAL"),
        ({"CompressedData": "True", "HeaderSize": "-1"}, "CompressedData True cannot be read"),
        ({"CompressedData": "True"}, "gives no CompressedDataSize"),
    ],
)
def test_a_broken_header_is_refused(tmp_path, changes, match):
    refused(write(tmp_path, fields(**changes)), match)


def test_metadata_of_other_programs_is_left_alone(tmp_path):
    header = {"NDims": "3", "0008|0060": "CT", "ITK a.b": "x = y: z"} | fields()
    check(read_file(write(tmp_path, header)).image)


def test_a_line_that_is_no_field_is_refused(tmp_path):
    path = write(tmp_path, fields(TransformMatrix=None))
    path.write_bytes(path.read_bytes().replace(b"Offset =", b"TransformMatrix 0 1 0\nOffset ="))
    refused(path, r"header is damaged: line \d+ is no field$")


def test_fields_of_other_programs_are_neither_compared_nor_told(tmp_path):
    path = write(tmp_path, fields())
    more = b"PatientName = Doe\nPatientName = Jo\nStudyDate = 1\nStudyDate = 2\nNDims = 3\n"
    path.write_bytes(path.read_bytes().replace(b"NDims = 3\n", more))
    check(read_file(path).image)


def test_a_field_given_twice_must_agree(tmp_path):
    path = write(tmp_path, fields())
    whole = path.read_bytes()
    more = b"NDims = 3\nComment = a\nComment = b\nOffset = 11 -22 33.5\n"
    path.write_bytes(whole.replace(b"NDims = 3\n", more))
    check(read_file(path).image)
    path.write_bytes(whole.replace(b"NDims = 3\n", b"NDims = 3\nOffset = 0 0 0\n"))
    refused(path, "gives Offset twice: 0 0 0 and 11 -22 33.5")


@pytest.mark.parametrize(("unit", "mm"), [("um", 1e-3), ("cm", 10), ("m", 1e3), ("inches", 25.4)])
def test_other_units_become_millimetres(tmp_path, unit, mm):
    header = fields(
        DistanceUnits=unit,
        Offset=" ".join(f"{x / mm:.10g}" for x in (11, -22, 33.5)),
        ElementSpacing=" ".join(f"{x / mm:.10g}" for x in (0.7, 0.8, 2.5)),
    )
    check(read_file(write(tmp_path, header)).image)


@pytest.mark.parametrize(
    "changes",
    [
        {"DistanceUnits": "mm"},
        {"DistanceUnits": "?"},
        {"ElementSize": "0.5 0.5 3"},
        {"CenterOfRotation": "0 0 0"},
        {"AnatomicalOrientation": "PIL"},
        {"Offset": None, "Position": "11 -22 33.5"},
        {"Offset": None, "Origin": "11 -22 33.5"},
        {"Position": "11  -22 33.5"},
        {"TransformMatrix": None, "Orientation": "0 1 0 0 0 -1 1 0 0"},
        {"TransformMatrix": None, "Rotation": "0 1 0 0 0 -1 1 0 0"},
        {"BinaryDataByteOrderMSB": None},
        {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "False"},
        {"ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0"},
        {"CompressedData": "False"},
        {"ObjectType": None},
        {"ElementNumberOfChannels": "1"},
        {"HeaderSize": "-1"},
    ],
)
def test_harmless_variants_are_read(tmp_path, changes):
    check(read_file(write(tmp_path, fields(**changes))).image)


def test_no_matrix_is_no_rotation(tmp_path):
    """By the format; and a centre of rotation is then of no account."""
    upright = np.c_[np.diag([0.7, 0.8, 2.5]), [11, -22, 33.5]]
    for more in ({}, {"AnatomicalOrientation": "RAI"}, {"CenterOfRotation": "1 2 3"}):
        header = fields(TransformMatrix=None, **more)
        check(read_file(write(tmp_path, header)).image, upright)


@pytest.mark.parametrize(
    ("line", "between"), [("\r\n", " = "), ("\n", "="), ("\n", ": "), ("\n", "\t=\t")]
)
def test_the_header_may_be_written_otherwise(tmp_path, line, between):
    check(read_file(write(tmp_path, fields(), line=line, between=between)).image)


def test_the_mark_of_an_editor_is_passed_over(tmp_path):
    path = write(tmp_path, fields())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    check(read_file(path).image)


TEXT = " ".join(map(str, HU.ravel())).encode() + b"\n "


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"BinaryDataByteOrderMSB": "True"}, HU.astype(">i2").tobytes()),
        ({"CompressedData": "True", "CompressedDataSize": str(len(PACKED))}, PACKED),
        ({"HeaderSize": "-1"}, RAW),
        ({}, RAW + b"\n"),
        ({"BinaryData": "False"}, TEXT),
        ({"CompressedData": "true", "CompressedDataSize": "88"}, None),
    ],
)
def test_every_encoding_is_read(tmp_path, changes, body):
    if body is None:
        body = gzip.compress(RAW)
        changes = changes | {"CompressedDataSize": str(len(body))}
    check(read_file(write(tmp_path, fields(**changes), body)).image)


def flipped(data, at):
    data = bytearray(data)
    data[at] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "told", "match"),
    [
        (PACKED[:-1], 0, "cut short: wanted .* compressed bytes"),
        (PACKED[:20], 0, "cut short: wanted .* compressed bytes, got 20"),
        (b"", 0, "cut short: .* got 0"),
        (PACKED, -3, "breaks off"),
        (PACKED, 3, "cut short: wanted"),
        (PACKED + b"abc", 3, "ends before"),
        (PACKED, -len(PACKED), "breaks off|CompressedDataSize"),
        (flipped(PACKED, -1), 0, "compressed data is damaged .*data check"),
        (flipped(PACKED, 30), 0, "compressed data is damaged|breaks off"),
        (flipped(PACKED, 0), 0, "compressed data is damaged"),
        (zlib.compress(RAW[:-2]) + b"\0" * 9, None, "wanted 120 bytes of voxels, got 118"),
        (zlib.compress(RAW * 2), None, "does not belong to its voxels"),
        (RAW, None, "compressed data is damaged"),
    ],
)
def test_damaged_compressed_voxels_are_refused(tmp_path, body, told, match):
    size = len(body.rstrip(b"\0")) if told is None else len(PACKED) + told
    header = fields(CompressedData="True", CompressedDataSize=str(size))
    refused(write(tmp_path, header, body), match)


@pytest.mark.parametrize(
    ("changes", "body", "match"),
    [
        ({}, RAW[:-1], "cut short .* wanted 120 bytes of voxels, got 119"),
        ({}, b"", "wanted 120 bytes of voxels, got 0"),
        ({"HeaderSize": "-1"}, RAW[:-1], "wanted 120 bytes of voxels, got 119"),
        ({"HeaderSize": "-1"}, RAW + bytes(10), "does not belong to its voxels"),
        ({"HeaderSize": "-1"}, bytes(10) + RAW, "does not belong to its voxels"),
        ({"DimSize": "5 4 2"}, RAW, "does not belong to its voxels"),
        ({"ElementType": "MET_FLOAT"}, RAW, "wanted 240 bytes of voxels, got 120"),
        ({"ElementType": "MET_CHAR"}, RAW, "does not belong to its voxels"),
        ({"BinaryData": "False"}, TEXT[:-9], "wanted 60 values as text, got 59"),
        ({"BinaryData": "False"}, TEXT.rstrip(), "text without a line end behind the last: add"),
        ({"BinaryData": "False"}, TEXT.replace(b"-900", b"99999", 1), "no int16 numbers"),
        ({"CompressedData": "True", "CompressedDataSize": "-1"}, PACKED, "positive Compr.* got -1"),
        ({"CompressedData": "True", "CompressedDataSize": "0"}, PACKED, "positive Compr.* got 0"),
    ],
)
def test_damaged_voxels_are_refused(tmp_path, changes, body, match):
    refused(write(tmp_path, fields(**changes), body), match)


def spread(folder):
    """The voxels in files of their own."""
    (folder / "sub").mkdir()
    for k in range(3):
        (folder / f"slice{k}.raw").write_bytes(HU[k].tobytes())
    for name in ("all.raw", "sub/all.raw", "with blank.raw"):
        (folder / name).write_bytes(RAW)
    (folder / "long.raw").write_bytes(b"abcd" + RAW)
    (folder / "short.raw").write_bytes(RAW[:-2])
    (folder / "all.zraw").write_bytes(PACKED)


PACKED_SIZE = {"CompressedData": "True", "CompressedDataSize": str(len(PACKED))}


@pytest.mark.parametrize(
    "changes",
    [
        {"ElementDataFile": "all.raw"},
        {"ElementDataFile": "sub/all.raw"},
        {"ElementDataFile": "with blank.raw"},
        {"ElementDataFile": "long.raw", "HeaderSize": "4"},
        {"ElementDataFile": "long.raw", "HeaderSize": "-1"},
        {"ElementDataFile": "slice%d.raw 0 2 1"},
        {"ElementDataFile": "LIST\nslice0.raw\nslice1.raw\nslice2.raw"},
        {"ElementDataFile": "LIST 2\nslice0.raw\nslice1.raw\nslice2.raw"},
        {"ElementDataFile": "all.zraw", **PACKED_SIZE},
    ],
)
def test_voxels_in_files_of_their_own_are_read(tmp_path, changes):
    spread(tmp_path)
    check(read_file(write(tmp_path, fields(**changes), b"", "ct.mhd")).image)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ElementDataFile": "gone.raw"}, "should be in gone.raw, which is not there"),
        ({"ElementDataFile": "sub"}, "should be in sub, which is a folder"),
        ({"ElementDataFile": "short.raw"}, "wanted 120 bytes of voxels, got 118"),
        ({"ElementDataFile": "long.raw"}, "does not belong to its voxels"),
        ({"ElementDataFile": "all.raw", "HeaderSize": "4"}, "wanted 120 bytes of voxels, got 116"),
        ({"ElementDataFile": "slice%d.raw 0 1 1"}, "wanted 3 files of one slice each, got 2"),
        ({"ElementDataFile": "slice%d.raw 0 3 1"}, "wanted 3 files of one slice each, got 4"),
        ({"ElementDataFile": "slice%d.raw 1 3 1"}, "should be in slice3.raw"),
        ({"ElementDataFile": "slice%d.raw 0 999999999999 1"}, "in too many files"),
        ({"ElementDataFile": "slice%s.raw 0 2 1"}, "in no numbered files"),
        ({"ElementDataFile": "LIST\nslice0.raw\nslice1.raw"}, "wanted 3 files of one slice each"),
        ({"ElementDataFile": "LIST\nslice0.raw\nall.raw\nslice2.raw"}, "does not belong"),
        ({"ElementDataFile": "LIST 3\nall.raw"}, "wanted a list of slices"),
        (
            {"ElementDataFile": "LIST\nslice0.raw\nslice1.raw\nslice2.raw", **PACKED_SIZE},
            "CompressedData True cannot be read",
        ),
        ({"ElementDataFile": "all.zraw", "CompressedData": "True"}, "gives no CompressedDataSize"),
        ({"ElementDataFile": "all.raw", **PACKED_SIZE}, "compressed data|cut short"),
    ],
)
def test_missing_and_foreign_files_of_voxels_are_refused(tmp_path, changes, match):
    spread(tmp_path)
    refused(write(tmp_path, fields(**changes), b"", "ct.mhd"), match)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_what_itk_writes_is_read(tmp_path, suffix, compressed, capfd):
    image = sitk.GetImageFromArray(HU)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-100.123456789, 50.5, 1e-3))
    angle = np.radians(17)
    turn = [np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, -1]
    image.SetDirection(turn)
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"), compressed)
    back = read_file(tmp_path / f"ct{suffix}").image
    np.testing.assert_allclose(back.GetDirection(), turn, atol=1e-9)
    np.testing.assert_allclose(back.GetOrigin(), image.GetOrigin(), atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), HU)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("MET_CHAR", "i1"),
        ("MET_UCHAR", "u1"),
        ("MET_USHORT", "u2"),
        ("MET_INT", "i4"),
        ("MET_LONG", "i4"),
        ("MET_ULONG", "u4"),
        ("MET_LONG_LONG", "i8"),
        ("MET_FLOAT", "f4"),
        ("MET_DOUBLE", "f8"),
    ],
)
def test_every_type_of_voxel_is_read(tmp_path, kind, dtype):
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    path = write(tmp_path, fields(ElementType=kind), voxels.tobytes())
    check(read_file(path).image, voxels=voxels)
