"""NRRD: what leaves the geometry open, or is not all there, is refused by its true reason."""

from __future__ import annotations

import bz2
import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.files import read_file

HU = (np.arange(60).reshape(3, 4, 5) * 7 - 900).astype("<i2")
RAW = HU.tobytes()
LPS = np.array([[0, 0, 2.5, 11], [0.7, 0, 0, -22], [0, -0.8, 0, 33.5]])
"""Origin in the last column; the axes are turned, of unequal spacing and left-handed."""


def vectors(matrix):
    return [f"({','.join(f'{x:.10g}' for x in column)})" for column in np.transpose(matrix)]


def fields(matrix=LPS, **changes):
    """A header's fields; None leaves one out."""
    *directions, origin = vectors(matrix)
    found = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "5 4 3",
        "space directions": " ".join(directions),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": origin,
    }
    found.update({name.replace("_", " "): value for name, value in changes.items()})
    return {name: value for name, value in found.items() if value is not None}


def write(folder, header, body=RAW, name="ct.nrrd", line="\n", magic="NRRD0005"):
    text = line.join([magic, *(f"{name}: {value}" for name, value in header.items()), "", ""])
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
    ("space", "signs"),
    [
        ("left-posterior-superior", (1, 1, 1)),
        ("LPS", (1, 1, 1)),
        ("right-anterior-superior", (-1, -1, 1)),
        ("RAS", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
        ("las", (1, -1, 1)),
    ],
)
def test_every_anatomical_space_is_turned_into_lps(tmp_path, space, signs):
    header = fields(np.diag(signs) @ LPS, space=space)
    check(read_file(write(tmp_path, header)).image)


@pytest.mark.parametrize(
    "space",
    ["scanner-xyz", "3D-right-handed", "3D-left-handed", "LPST", "scanner-xyz-time", "RPS", "foo"],
)
def test_a_space_without_anatomical_meaning_is_refused(tmp_path, space):
    refused(write(tmp_path, fields(space=space)), f"its space '{space}' does not tell where left")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"space": None}, "names no space"),
        ({"space": None, "space dimension": "3"}, "names no space"),
        ({"space directions": None}, "gives no space directions$"),
        ({"space directions": None, "spacings": "0.7 0.8 2.5"}, "spacings do not tell how it lies"),
        (
            {"space": None, "space directions": None, "space origin": None, "kinds": None},
            "no space directions",
        ),
        ({"space origin": None}, "gives no space origin"),
        ({"space origin": "(1,2)"}, "3 finite numbers as a vector of space origin"),
        ({"space origin": "(1,nan,3)"}, "3 finite numbers as a vector of space origin"),
        ({"space origin": "1 2 3 4"}, "3 finite numbers as a vector of space origin"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "wanted 3 space directions"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,0)"}, "1 x 1 x 0 mm apart"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "3 finite numbers"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,inf)"}, "3 finite numbers"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,1,5)"}, "3 finite numbers .* got '0 0 1 5'"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,1e300)"}, "3 finite numbers"),
        ({"space directions": "(1,0,0) (0,1,0) (0,1,0)"}, "90 degrees off right angles: no CT"),
        ({"space directions": "(1,0,0) (0,1,0) (0,.2,1)"}, "11.3 degrees .* upright grid first"),
        ({"space directions": "(1,0,0) (0,1,0) none"}, "got 2 dimensions"),
        ({"space directions": "(.001,0,0) (0,.001,0) (0,0,.001)"}, "0.05 to 50 mm"),
        ({"space directions": "(700,0,0) (0,800,0) (0,0,2500)"}, "700 x 800 x 2500 mm apart"),
        ({"space units": '"furlong" "furlong" "furlong"'}, "lengths are in 'furlong'"),
        ({"space units": '"mm" "mm" "m"'}, "space units differ"),
        ({"space units": "mm mm mm"}, "space units in quotes"),
        ({"kinds": "domain domain time"}, "wanted three axes of space, got the kinds"),
        ({"kinds": "list domain domain"}, "wanted three axes of space"),
        ({"spacings": "1 1 1"}, "spacing"),
        ({"units": '"m" "m" "m"'}, "units"),
    ],
)
def test_an_open_or_broken_geometry_is_refused(tmp_path, changes, match):
    refused(write(tmp_path, fields(**changes)), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sizes": "5 4"}, "dimension 3, but sizes 5 4"),
        ({"sizes": "5 4 three"}, "whole numbers as sizes"),
        ({"sizes": "5 4 0"}, "leaves no voxel"),
        ({"sizes": "5 -4 3"}, "leaves no voxel"),
        ({"sizes": None}, "gives no sizes"),
        ({"type": None}, "gives no type"),
        ({"type": "block"}, "the type 'block'"),
        ({"type": "float"}, "wanted 240 bytes of voxels, got 120"),
        ({"endian": None}, "gives no endian"),
        ({"encoding": None}, "gives no encoding"),
        ({"encoding": "zstd"}, "encoding 'zstd' cannot be read"),
        ({"encoding": "bzip2"}, "encoding 'bzip2' cannot be read, wanted raw, gzip"),
        ({"byte skip": "two"}, "whole numbers as byte skip"),
        ({"byte skip": "-2"}, "a byte skip of -2 and a line skip of 0"),
        ({"line skip": "-1"}, "a line skip of -1 cannot be read"),
        ({"Space Origin": "(5,5,5)"}, "gives 'spaceorigin' twice"),
    ],
)
def test_a_broken_header_is_refused(tmp_path, changes, match):
    body = bz2.compress(RAW) if changes.get("encoding") == "bzip2" else RAW
    refused(write(tmp_path, fields(**changes), body), match)


@pytest.mark.parametrize(
    ("unit", "mm"), [("m", 1e3), ("cm", 10), ("um", 1e-3), ("\u00b5m", 1e-3), ("inch", 25.4)]
)
def test_other_units_become_millimetres(tmp_path, unit, mm):
    header = fields(LPS / mm, space_units=" ".join([f'"{unit}"'] * 3))
    check(read_file(write(tmp_path, header)).image)


def test_few_voxels_in_metres_are_scaled_too(tmp_path):
    axes = np.c_[np.diag([0.06, 0.06, 0.06]), [0, 0, 0]]
    header = fields(axes / 1000, sizes="1 1 2", space_units='"m" "m" "m"')
    found = read_file(write(tmp_path, header, RAW[:4])).image
    check(found, axes, HU.ravel()[:2].reshape(2, 1, 1))
    assert found.GetSpacing() == pytest.approx((0.06, 0.06, 0.06))


@pytest.mark.parametrize(
    "changes",
    [
        {"space_units": '"mm" "mm" "mm"'},
        {"space_units": '"millimeters" "millimeters" "millimeters"'},
        {"space_units": '"" "" ""'},
        {"kinds": None},
        {"kinds": "??? ??? ???"},
        {"kinds": "space space space"},
        {"measurement_frame": "(1,0,0) (0,1,0) (0,0,1)"},
        {"spacings": "nan nan nan"},
        {"encoding": "RAW"},
        {"centerings": "cell cell cell"},
    ],
)
def test_harmless_variants_are_read(tmp_path, changes):
    check(read_file(write(tmp_path, fields(**changes))).image)


def test_crlf_comments_and_keys_are_read(tmp_path):
    check(read_file(write(tmp_path, fields(), line="\r\n")).image)
    path = write(tmp_path, fields())
    path.write_bytes(path.read_bytes().replace(b"\nspace directions", b"\nSPACE Directions"))
    check(read_file(path).image)
    rest = {name: value for name, value in fields().items() if name != "type"}
    lines = "\n".join(f"{name}: {value}" for name, value in rest.items())
    path.write_bytes(f"NRRD0005\n# a: b\ntype: short\nkey:=a: b\n{lines}\n\n".encode() + RAW)
    check(read_file(path).image)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_list_of_one_is_no_further_dimension(tmp_path, at):
    def into(words, word):
        words = words.split()
        words.insert(at, word)
        return " ".join(words)

    plain = fields()
    header = fields(
        dimension="4",
        sizes=into("5 4 3", "1"),
        space_directions=into(plain["space directions"], "none"),
        kinds=into(plain["kinds"], "list"),
    )
    check(read_file(write(tmp_path, header)).image)


def test_more_values_and_dimensions_are_refused(tmp_path):
    first = fields()["space directions"]
    two = {"dimension": "4", "sizes": "2 5 4 3", "kinds": "list domain domain domain"}
    path = write(tmp_path, fields(space_directions=f"none {first}", **two), RAW * 2)
    refused(path, r"got 3 dimensions of size \(5, 4, 3\) with 2 values per voxel")
    sitk.WriteImage(sitk.Image([4, 5, 6, 2], sitk.sitkInt16), str(tmp_path / "time.nrrd"))
    refused(tmp_path / "time.nrrd", r"got 4 dimensions of size \(4, 5, 6, 2\)")
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkInt16), str(tmp_path / "flat.nrrd"))
    refused(tmp_path / "flat.nrrd", r"got 2 dimensions of size \(4, 5\)")


TEXT = " ".join(map(str, HU.ravel())).encode()


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"endian": "big"}, HU.astype(">i2").tobytes()),
        ({"encoding": "gzip"}, gzip.compress(RAW)),
        ({"encoding": "gz"}, gzip.compress(RAW[:50]) + gzip.compress(RAW[50:])),
        ({"encoding": "gzip"}, gzip.compress(RAW) + b"\0" * 9),
        ({"encoding": "gzip", "byte skip": "2"}, gzip.compress(b"ab" + RAW)),
        ({"encoding": "gzip", "byte skip": "-1"}, gzip.compress(b"ab" * 99 + RAW)),
        ({"encoding": "gzip", "line skip": "1"}, b"a line\n" + gzip.compress(RAW)),
        ({"encoding": "ascii", "endian": None}, TEXT),
        ({"encoding": "text"}, TEXT.replace(b" ", b", ")),
        ({"encoding": "hex"}, RAW.hex().encode()),
        ({"byte skip": "3"}, b"abc" + RAW),
        ({"byte skip": "-1"}, b"abc" * 50 + RAW),
        ({"line skip": "2"}, b"a\nb\n" + RAW),
        ({}, RAW + b"\n"),
    ],
)
def test_every_encoding_is_read(tmp_path, changes, body):
    check(read_file(write(tmp_path, fields(**changes), body)).image)


PACKED = gzip.compress(np.random.default_rng(0).integers(-999, 999, 60).astype("<i2").tobytes())


def flipped(data, at):
    data = bytearray(data)
    data[at] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "body", "match"),
    [
        ({}, RAW[:-1], "cut short .* wanted 120 bytes of voxels, got 119"),
        ({}, b"", "wanted 120 bytes of voxels, got 0"),
        ({"byte skip": "2"}, RAW, "cut short"),
        ({"byte skip": "-1"}, RAW[:-1], "cut short"),
        ({"line skip": "1"}, b"line\n" + RAW[:-1], "cut short"),
        ({"sizes": "5 4 2"}, RAW, "header does not belong to its voxels"),
        ({"encoding": "gzip"}, PACKED[:-1], "breaks off"),
        ({"encoding": "gzip"}, PACKED[:-9], "breaks off"),
        ({"encoding": "gzip"}, PACKED[:30], "breaks off"),
        ({"encoding": "gzip"}, b"", "breaks off"),
        ({"encoding": "gzip"}, flipped(PACKED, 60), "compressed data is damaged"),
        ({"encoding": "gzip"}, flipped(PACKED, -6), "compressed data is damaged .*data check"),
        ({"encoding": "gzip"}, flipped(PACKED, -1), "compressed data is damaged .*length check"),
        ({"encoding": "gzip"}, RAW, "compressed data is damaged"),
        ({"encoding": "gzip"}, zlib.compress(RAW), "compressed data is damaged"),
        ({"encoding": "gzip"}, gzip.compress(RAW[:-2]), "wanted 120 bytes of voxels, got 118"),
        ({"encoding": "gzip"}, gzip.compress(RAW * 2), "does not belong to its voxels"),
        ({"encoding": "ascii"}, TEXT[:-9], "wanted 60 values as text, got 58"),
        ({"encoding": "ascii"}, TEXT.replace(b"8", b"x", 1), "no int16 numbers"),
        ({"encoding": "ascii"}, TEXT.replace(b"-900", b"99999", 1), "no int16 numbers"),
        ({"encoding": "hex"}, RAW.hex().encode()[:-2], "wanted 120 values in its hex data"),
    ],
)
def test_damaged_voxels_are_refused(tmp_path, changes, body, match):
    refused(write(tmp_path, fields(**changes), body), match)


def test_a_header_that_breaks_off_is_refused(tmp_path):
    (tmp_path / "ct.nrrd").write_bytes(write(tmp_path, fields()).read_bytes()[:100])
    refused(tmp_path / "ct.nrrd", "its header gives no|wanted|breaks off|is no field")
    (tmp_path / "ct.nrrd").write_bytes(b"NRRD0005\ntype: short\ndimension 3\n\n" + RAW)
    refused(tmp_path / "ct.nrrd", r"header is damaged: line \d+ is no field$")
    (tmp_path / "ct.nrrd").write_bytes(b"NRRD0005\n")
    refused(tmp_path / "ct.nrrd", "gives no sizes")


def spread(folder):
    """The voxels in files of their own."""
    (folder / "sub").mkdir()
    for k in range(3):
        (folder / f"slice{k}.raw").write_bytes(HU[k].tobytes())
    (folder / "sub" / "all.raw").write_bytes(RAW)
    (folder / "all.raw").write_bytes(RAW)
    (folder / "long.raw").write_bytes(b"abcd" + RAW)
    (folder / "short.raw").write_bytes(RAW[:-2])
    (folder / "all.raw.gz").write_bytes(gzip.compress(RAW))
    (folder / "bad.raw.gz").write_bytes(gzip.compress(RAW)[:-3])


@pytest.mark.parametrize(
    "changes",
    [
        {"data file": "all.raw"},
        {"datafile": "./all.raw"},
        {"data file": "sub/all.raw"},
        {"byte skip": "4", "data file": "long.raw"},
        {"byte skip": "-1", "data file": "long.raw"},
        {"encoding": "gzip", "data file": "all.raw.gz"},
        {"data file": "slice%d.raw 0 2 1"},
        {"data file": "slice%d.raw 0 2 1 2"},
        {"data file": "LIST\nslice0.raw\nslice1.raw\nslice2.raw"},
        {"data file": "LIST 2\nslice0.raw\nslice1.raw\nslice2.raw"},
    ],
)
def test_voxels_in_files_of_their_own_are_read(tmp_path, changes):
    spread(tmp_path)
    path = write(tmp_path, fields(**changes), b"", "ct.nhdr")
    path.write_bytes(path.read_bytes().rstrip() + b"\n")
    check(read_file(path).image)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data file": "gone.raw"}, "should be in gone.raw, which is not there"),
        ({"data file": "sub"}, "should be in sub, which is a folder"),
        ({"data file": "short.raw"}, "wanted 120 bytes of voxels, got 118"),
        ({"data file": "long.raw"}, "does not belong to its voxels"),
        ({"byte skip": "4", "data file": "all.raw"}, "cut short"),
        ({"encoding": "gzip", "data file": "bad.raw.gz"}, "breaks off"),
        ({"encoding": "gzip", "data file": "all.raw"}, "compressed data is damaged"),
        ({"data file": "slice%d.raw 0 1 1"}, "wanted 3 data files, got 2"),
        ({"data file": "slice%d.raw 1 3 1"}, "should be in slice3.raw"),
        ({"data file": "slice%d.raw 0 2 0"}, "in no numbered files"),
        ({"data file": "slice%s.raw 0 2 1"}, "in no numbered files"),
        ({"data file": "slice%d.raw 0 999999999999 1"}, "in too many files"),
        ({"data file": "LIST\nslice0.raw\nslice1.raw"}, "wanted 3 data files, got 2"),
        ({"data file": "LIST\nslice0.raw\nslice1.raw\nall.raw"}, "does not belong"),
        ({"data file": "LIST 7\nslice0.raw"}, "data files"),
    ],
)
def test_missing_and_foreign_files_of_voxels_are_refused(tmp_path, changes, match):
    spread(tmp_path)
    path = write(tmp_path, fields(**changes), b"", "ct.nhdr")
    path.write_bytes(path.read_bytes().rstrip() + b"\n")
    refused(path, match)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_what_itk_writes_is_read(tmp_path, suffix, compressed):
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
