"""Folders and archives of DICOM: what is read, what is set aside and told, what is refused."""

from __future__ import annotations

import os
import shutil
import zipfile

import numpy as np
import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading import archive
from contrastdiagnosis.reading.dicom import read_dicom
from pydicom import dcmread

from engine.test_dicom_geometry import refusal
from engine.test_dicom_phantom import (
    SERIES,
    STEP_MM,
    check_geometry,
    ct,
    ct_slice,
    enhanced,
    save,
    voxels,
    write_scan,
)

OTHER = "1.2.826.0.1.3680043.2.1125.2"


def check_scan(path, notices=(), **keywords):
    scan = read_dicom(path, **keywords)
    np.testing.assert_array_equal(voxels(scan), ct())
    check_geometry(scan.image)
    assert scan.notices == notices
    return scan


def other_object(modality, sop_class, **elements):
    """An object of another kind, without pixels unless they are given."""
    dataset = ct_slice(ct()[0], series=sop_class + ".9", SOPClassUID=sop_class)
    dataset.Modality = modality
    if "PixelData" not in elements:
        del dataset.PixelData, dataset.Rows, dataset.Columns
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


STORAGE = "1.2.840.10008.5.1.4.1.1."
DOSE_REPORT = other_object("SR", STORAGE + "88.67")
CONTOURS = other_object("RTSTRUCT", STORAGE + "481.3")
RAW_DATA = other_object("CT", STORAGE + "66")
PICTURE = other_object(
    "OT", STORAGE + "7", PixelData=b"\1" * 72, Rows=8, Columns=9, BitsAllocated=8
)
SCREEN = other_object(
    "CT", STORAGE + "7", PixelData=b"\1" * 72, Rows=8, Columns=9, ImagePositionPatient=None
)
del SCREEN.ImagePositionPatient, SCREEN.ImageOrientationPatient


@pytest.mark.parametrize("series", [SERIES, OTHER])
def test_localizers_are_set_aside_even_from_the_same_series(tmp_path, series):
    write_scan(tmp_path)
    for n in range(2):
        scout = ct_slice(
            ct(shape=(1, 20, 7))[0],
            series=series,
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        )
        save(scout, tmp_path / f"scout{n}")
    check_scan(tmp_path, ("set aside: 2 localizer images",))


def test_other_objects_are_set_aside_in_one_notice(tmp_path):
    write_scan(tmp_path)
    for n, dataset in enumerate((DOSE_REPORT, CONTOURS, RAW_DATA, PICTURE, SCREEN, CONTOURS)):
        save(dataset, tmp_path / "more" / f"{n}.dcm")
    told = "set aside: 2 RTSTRUCT, 1 Raw Data, 1 SR, 2 secondary captures"
    check_scan(tmp_path, (told,))
    check_scan(tmp_path, series_uid=SERIES)


@pytest.mark.parametrize("empty", [True, False])
def test_a_screen_in_the_series_has_no_place(tmp_path, empty):
    write_scan(tmp_path)
    screen = other_object(
        "CT", STORAGE + "7", PixelData=b"\1" * 72, Rows=8, Columns=9, BitsAllocated=8
    )
    screen.SeriesInstanceUID = SERIES
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        if empty:
            setattr(screen, keyword, None)
        else:
            delattr(screen, keyword)
    save(screen, tmp_path / "screen")
    check_scan(tmp_path, ("set aside: 1 secondary capture",))


def test_without_a_ct_what_is_there_is_told(tmp_path):
    save(CONTOURS, tmp_path / "a.dcm")
    assert "wanted a CT series, got modality RTSTRUCT in" in refusal(tmp_path)
    save(DOSE_REPORT, tmp_path / "b.dcm")
    assert "wanted a CT series, got 1 RTSTRUCT, 1 SR in" in refusal(tmp_path)


def test_a_modality_of_free_text_is_not_repeated(tmp_path):
    write_scan(tmp_path, Modality="DOE JO")
    told = refusal(tmp_path)
    assert "got 5 other objects" in told and "DOE" not in told


def test_files_beside_a_scan_are_passed_over(tmp_path):
    write_scan(tmp_path)
    for name in ("README.txt", ".DS_Store", "Thumbs.db", "report.pdf", "._1.dcm", ".hidden"):
        (tmp_path / name).write_bytes(b"not of interest, but long enough to hold the magic" * 5)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "0.dcm").write_bytes(b"")
    check_scan(tmp_path)


def test_files_of_unknown_use_are_told(tmp_path):
    write_scan(tmp_path)
    for name in ("a.nrrd", "b.nii.gz", "c", "d.zip"):
        (tmp_path / name).write_bytes(b"something")
    told = "set aside: 4 files that are no DICOM (a.nrrd, b.nii.gz, c, and others)"
    check_scan(tmp_path, (told,))


@pytest.mark.parametrize("name", ["5.dcm", "x.DCM", "x.ima", "deep/x.dicom"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1", "is no DICOM file"),
        (b"\0" * 1000, "is no DICOM file"),
        (b"\x08\0\x05\0" + b"\xff" * 500, "is no DICOM file"),
    ],
)
def test_what_is_named_like_a_slice_must_be_one(tmp_path, name, data, message):
    write_scan(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    assert f"{name} {message}" in refusal(tmp_path)


def test_what_is_named_like_its_neighbours_must_be_a_slice(tmp_path):
    """Many archives write no suffix: a slice that was overwritten with zeros looks like this."""
    write_scan(tmp_path, suffix="_im")
    (tmp_path / "5_im").write_bytes(b"\0" * 500)
    assert "5_im is no DICOM file, or so damaged" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["5.dcm.gz", "5.dcm.part", "x.IMA.crdownload", "deep/5.dcm.zip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b" + b"x" * 500, "is packed: unpack it first"),
        (b"PK\3\4" + b"x" * 500, "is packed: unpack it first"),
        (b"", "is empty"),
        (b"\0" * 500, "is no DICOM file"),
    ],
)
def test_what_is_packed_or_not_all_there_yet_is_a_slice_too(tmp_path, name, data, message):
    write_scan(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    assert f"{name} {message}" in refusal(tmp_path)


def test_a_packed_slice_without_suffix_is_known_by_its_neighbours(tmp_path):
    write_scan(tmp_path, suffix="")
    (tmp_path / "5.gz").write_bytes(b"\x1f\x8b")
    assert refusal(tmp_path) == "5.gz is packed: unpack it first"


def test_odd_names_do_not_spoil_messages(tmp_path):
    write_scan(tmp_path)
    for name in (b"a\n\x1b[31m\xff.dcm",):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    assert refusal(tmp_path) == "a??[31m?.dcm is empty: a DICOM file was wanted"


def test_a_link_to_nothing_is_named(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "5.dcm").symlink_to(tmp_path / "gone")
    assert "5.dcm is a link to a file that is not there" in refusal(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write_scan(tmp_path)
    open_file = type(tmp_path).open

    def refuse(path, *arguments, **keywords):
        if path.name == "3.dcm":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments, **keywords)

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    assert refusal(tmp_path) == "cannot open 3.dcm: Permission denied"


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write_scan(tmp_path)
    (tmp_path / "below").mkdir()
    scan_folder = os.scandir

    def refuse(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "below: Permission denied" in refusal(tmp_path)


def test_sub_folders_are_searched_and_links_that_circle_end(tmp_path):
    write_scan(tmp_path / "a" / "scan")
    for k in (1, 3):
        target = tmp_path / "b" / "more" / f"{k}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "scan" / f"{k}.dcm").rename(target)
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "b" / "1.dcm").symlink_to(tmp_path / "b" / "more" / "1.dcm")
    check_scan(tmp_path)


def test_an_index_is_passed_over_but_not_read(tmp_path):
    index = other_object("CT", "1.2.840.10008.1.3.10")
    del index.Modality
    save(index, tmp_path / "DICOMDIR")
    save(index, tmp_path / "INDEX")
    assert "an index of other files; name the folder" in refusal(tmp_path / "DICOMDIR")
    assert "no DICOM series in" in refusal(tmp_path)
    write_scan(tmp_path)
    check_scan(tmp_path)


def test_empty_folders_and_strange_files_are_told(tmp_path):
    assert refusal(tmp_path) == f"no DICOM series in {tmp_path}"
    (tmp_path / "a.nrrd").write_bytes(b"x")
    assert "it holds 1 file that is no DICOM (a.nrrd)" in refusal(tmp_path)


# --- duplicates ---------------------------------------------------------------------------------


def test_identical_slices_are_set_aside(tmp_path):
    write_scan(tmp_path)
    shutil.copy(tmp_path / "1.dcm", tmp_path / "copy of 1.dcm")
    save(ct_slice(ct()[3], 3 * STEP_MM, InstanceNumber=77), tmp_path / "again.dcm")
    check_scan(tmp_path, ("set aside: 2 duplicate slices",))


def test_a_whole_scan_twice_is_one(tmp_path):
    write_scan(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    save(enhanced(ct()), tmp_path / "e.dcm")
    check_scan(tmp_path, ("set aside: 10 duplicate slices",))


@pytest.mark.parametrize("same_uid", [False, True])
def test_different_slices_at_one_position_are_refused(tmp_path, same_uid):
    write_scan(tmp_path)
    dataset = ct_slice(ct(1)[1], STEP_MM)
    if same_uid:
        dataset.SOPInstanceUID = dcmread(tmp_path / "1.dcm").SOPInstanceUID
    save(dataset, tmp_path / "other.dcm")
    assert "two slices lie at the same position (1.50 mm" in refusal(tmp_path)


def test_the_same_voxels_beside_each_other_are_no_duplicates(tmp_path):
    write_scan(tmp_path)
    save(
        ct_slice(ct()[1], ImagePositionPatient=[-11, -20, STEP_MM]),
        tmp_path / "other.dcm",
    )
    assert "two slices lie at the same position" in refusal(tmp_path)


def test_copies_do_not_make_a_volume(tmp_path):
    write_scan(tmp_path, ct()[:2])
    shutil.copytree(tmp_path, tmp_path / "copy")
    told = "wanted a CT of at least 3 slices, got 4 of which 2 only repeat another"
    assert refusal(tmp_path) == told


# --- several series -----------------------------------------------------------------------------


def test_several_series_are_shown_in_a_table(tmp_path):
    write_scan(
        tmp_path / "b",
        series=OTHER,
        SeriesNumber=2,
        SeriesDescription="Thorax\nlung\x1b[31m",
        ConvolutionKernel=["B70f", "3"],
    )
    write_scan(tmp_path / "a", ct()[:3], SeriesNumber=10, SliceThickness=None)
    save(ct_slice(ct()[0], series=OTHER + ".7"), tmp_path / "one.dcm")
    with pytest.raises(InputError) as refused:
        read_dicom(tmp_path)
    assert refused.value.setting == "series"
    first, *rest = str(refused.value).splitlines()
    assert first == f"{tmp_path} holds 2 series; name one:"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in rest]
    assert cells == [
        [OTHER, "5 slices", "8 x 9", "5.0 mm thick", "kernel B70f 3", "Thorax lung [31m"],
        [SERIES, "3 slices", "8 x 9", "thickness not told", "kernel not told"],
        ["and 1 of fewer than 3 slices"],
    ]
    assert "Doe" not in str(refused.value) and "P4711" not in str(refused.value)
    check_scan(tmp_path, series_uid=OTHER)
    told = refusal(tmp_path, series_uid="1.2.3")
    assert told.startswith(f"no series 1.2.3 in {tmp_path}; it holds:\n  {OTHER}")
    assert len(told.splitlines()) == 4
    told = refusal(tmp_path, series_uid=OTHER + ".7")
    assert told == f"wanted a CT of at least 3 slices, got 1 in {tmp_path}"


def test_a_series_of_frames_is_shown_with_its_thickness(tmp_path):
    save(enhanced(ct()), tmp_path / "e.dcm")
    write_scan(tmp_path, series=OTHER)
    assert f"{SERIES}  5 slices  8 x 9  5.0 mm thick" in refusal(tmp_path)


def test_series_of_few_slices_give_way_to_a_volume(tmp_path):
    write_scan(tmp_path)
    for n in range(2):
        save(ct_slice(ct()[0], 100 * n, series=OTHER), tmp_path / f"few{n}")
    check_scan(tmp_path, ("set aside: 1 series of fewer than 3 slices",))


def test_only_series_of_few_slices_are_refused(tmp_path):
    write_scan(tmp_path, ct()[:2])
    save(ct_slice(ct()[0], series=OTHER), tmp_path / "one.dcm")
    told = refusal(tmp_path)
    assert told.startswith("wanted a CT of at least 3 slices, got 2 series of fewer in")
    assert "2 slices" in told and "1 slice " in told


def test_slices_with_a_series_each_fill_no_page(tmp_path):
    for n in range(40):
        save(ct_slice(ct()[0], z_mm=n, series=f"1.2.{n}"), tmp_path / f"{n}.dcm")
    told = refusal(tmp_path)
    assert "got 40 series of fewer in" in told
    assert told.count("\n") == 13 and told.endswith("\nand 28 more")


def test_damage_in_another_series_does_not_matter(tmp_path):
    write_scan(tmp_path / "a")
    file = write_scan(tmp_path / "b", series=OTHER) / "2.dcm"
    file.write_bytes(file.read_bytes()[:-30])
    check_scan(tmp_path, series_uid=SERIES)
    assert "b/2.dcm is cut off" in refusal(tmp_path, series_uid=OTHER)
    file.write_bytes(file.read_bytes()[:400])  # whose series is not told any more
    assert "b/2.dcm is cut off" in refusal(tmp_path, series_uid=SERIES)


def test_files_without_a_series_are_one(tmp_path):
    assert check_scan(write_scan(tmp_path, SeriesInstanceUID=None)).series_uid == ""


# --- single files -------------------------------------------------------------------------------


def test_one_slice_is_refused_with_a_hint(tmp_path):
    write_scan(tmp_path)
    told = refusal(tmp_path / "2.dcm")
    assert told == (
        f"wanted a CT of at least 3 slices, got 1 in {tmp_path / '2.dcm'}: if it is one slice of a"
        " scan, name the folder that holds them all"
    )


def test_one_file_goes_through_the_same_checks(tmp_path):
    file = save(ct_slice(ct()[0], Modality="MR"), tmp_path / "a.dcm")
    assert f"wanted a CT series, got modality MR in {file}" in refusal(file)
    file.write_bytes(file.read_bytes()[:300])
    assert refusal(file) == "a.dcm is cut off or damaged: it ends before its pixel data"
    file.write_text("text")
    assert refusal(file) == "a.dcm is no DICOM file, or so damaged that it is none any more"


# --- archives -----------------------------------------------------------------------------------


def zipped(folder, file, **keywords):
    with zipfile.ZipFile(file, "w", **keywords) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return file


def test_a_zip_is_read_like_a_folder(tmp_path, monkeypatch):
    write_scan(tmp_path / "study" / "scan" / "deep")
    (tmp_path / "study" / "a.nrrd").write_bytes(b"x")
    file = zipped(tmp_path / "study", tmp_path / "a.ZIP", compression=zipfile.ZIP_DEFLATED)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    check_scan(file, ("set aside: 1 file that is no DICOM (a.nrrd)",))
    assert not list(scratch.iterdir())


def test_a_zip_is_known_by_its_bytes(tmp_path):
    check_scan(zipped(write_scan(tmp_path / "scan"), tmp_path / "export"))


def test_slices_in_a_zip_are_named_as_there(tmp_path):
    file = write_scan(tmp_path / "study" / "scan") / "3.dcm"
    file.write_bytes(file.read_bytes()[:-9])
    told = refusal(zipped(tmp_path / "study", tmp_path / "a.zip"))
    assert told.startswith("scan/3.dcm is cut off")


def test_names_in_a_zip_lead_nowhere(tmp_path):
    write_scan(tmp_path / "scan")
    file = tmp_path / "inner" / "a.zip"
    file.parent.mkdir()
    names = ["../0.dcm", "/0.dcm", "//0.dcm", "C:\\0.dcm", "a/../../0.dcm"]
    with zipfile.ZipFile(file, "w") as packed:
        for k, name in enumerate(names):
            packed.writestr(zipfile.ZipInfo(name), (tmp_path / "scan" / f"{k}.dcm").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    check_scan(file)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_zips_are_refused(tmp_path):
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:-30], bytes(flipped)):
        file.write_bytes(data)
        assert refusal(file).startswith(f"{file} is a damaged zip archive: ")


def test_encrypted_zips_are_refused(tmp_path):
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    data = bytearray(file.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(data)
    assert "is encrypted: unpack it first" in refusal(file)


def test_unknown_compression_is_refused(tmp_path):
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    data = bytearray(file.read_bytes())
    at = data.index(b"PK\1\2") + 10
    data[at : at + 2] = (97).to_bytes(2, "little")
    data[8:10] = (97).to_bytes(2, "little")
    file.write_bytes(data)
    assert refusal(file).startswith(f"cannot unpack {file}: ")


def test_zips_that_would_fill_the_disk_are_refused(tmp_path, monkeypatch):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "zeros.dcm").write_bytes(b"\0" * 300_000)
    file = zipped(tmp_path / "scan", tmp_path / "a.zip", compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archive, "HARMLESS_BYTES", 100_000)
    assert "times when unpacked: it holds no CT" in refusal(file)
    monkeypatch.setattr(archive, "MAX_FILES", 0)
    assert "at most 8 GiB and 0 files when unpacked, got 0.0 GiB and 1 files" in refusal(file)
    monkeypatch.setattr(archive, "MAX_FILES", 10)
    monkeypatch.setattr(archive, "MAX_RATIO", 10_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert "has only 0.0 GiB left" in refusal(file)


def test_a_zip_of_another_image_is_refused(tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "ct.nrrd").write_bytes(b"NRRD0004")
    file = zipped(tmp_path / "scan", tmp_path / "a.zip")
    assert f"no DICOM series in {file}; it holds 1 file that is no DICOM (ct.nrrd)" in refusal(file)
