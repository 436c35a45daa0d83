"""Folders and archives of DICOM: what is read, what is set aside and told, what is refused."""

from __future__ import annotations

import os
import shutil
import zipfile

import numpy as np
import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading import archive
from contrastdiagnosis.imaging.reading.dicom import read_dicom
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
    for name in ("README.txt", ".DS_Store", "Thumbs.db", "report.pdf", "1.dcm.json", ".hidden"):
        (tmp_path / name).write_bytes(b"not of interest, but long enough to hold the magic" * 5)
    (tmp_path / "._1.dcm").write_bytes(b"\0\5\x16\7" + b"notes of macOS" * 20)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "0.dcm").write_bytes(b"")
    check_scan(tmp_path)


def test_files_of_unknown_use_are_told(tmp_path):
    write_scan(tmp_path)
    for name in ("a.nrrd", "b.nii.gz", "c", "d.zip"):
        (tmp_path / name).write_bytes(b"something")
    told = "set aside: 4 files that are no DICOM (a.nrrd, b.nii.gz, c, and others)"
    check_scan(tmp_path, (told,))


def refusal_beside_scan(folder, name, data):
    """What is said of a scan beside which a file lies."""
    write_scan(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return refusal(folder)


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
    assert f"{name} {message}" in refusal_beside_scan(tmp_path, name, data)


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
    assert f"{name} {message}" in refusal_beside_scan(tmp_path, name, data)


def test_a_packed_slice_without_suffix_is_known_by_its_neighbours(tmp_path):
    write_scan(tmp_path, suffix="")
    (tmp_path / "5.gz").write_bytes(b"\x1f\x8b")
    assert refusal(tmp_path) == "5.gz is packed: unpack it first"


NAMES = {
    "hex": "{:08X}",
    "letters": "slice_{}",
    "folder": "{:x}/image.x",
    "copy": "IM{:03}",
}


def write_named(folder, name):
    """Five slices with names of such a kind; the last one of them is told."""
    for k in range(5):
        number = chr(97 + k) * 2 if "slice" in name else (k + 3) * 0x1F2E3D
        file = save(ct_slice(ct()[k], STEP_MM * k), folder / name.format(number))
    return file


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\xff\0\1" * 50])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_slice_of_any_name_is_refused(tmp_path, kind, data, packed):
    file = write_named(tmp_path / "scan", NAMES[kind])
    file.write_bytes(data)
    told = refusal(zipped(tmp_path / "scan", tmp_path / "a.zip") if packed else tmp_path)
    assert str(file.relative_to(tmp_path / "scan")) in told
    assert ("is no DICOM file" if data else "is empty") in told


@pytest.mark.parametrize("name", ["4.bak", "4 (1)", "Copy of 4.xdcm", "more/anything"])
@pytest.mark.parametrize("data", [b"", b"\0" * 500])
def test_what_is_empty_or_all_zeros_is_refused_by_any_name(tmp_path, name, data):
    write_scan(tmp_path, ct()[:4])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path).startswith(f"{name} is ")


def test_an_error_page_in_place_of_a_slice_is_known_by_its_hexadecimal_name(tmp_path):
    file = write_named(tmp_path, "{:08X}")
    file.write_text("<html>404</html>")
    assert refusal(tmp_path).startswith(f"{file.name} is no DICOM file")


def test_text_beside_slices_without_suffix_is_told(tmp_path):
    write_named(tmp_path, "IM{:03}")
    (tmp_path / "README").write_text("Made by a scanner.\n")
    check_scan(tmp_path, ("set aside: 1 file that is no DICOM (README)",))


@pytest.mark.parametrize(("suffix", "name"), [(".dcm", "4.dcm.txt"), ("", "4.txt")])
def test_a_suffix_behind_that_of_a_slice_hides_no_damage(tmp_path, suffix, name):
    write_scan(tmp_path, suffix=suffix)
    (tmp_path / f"4{suffix}").rename(tmp_path / name)
    check_scan(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    assert refusal(tmp_path).startswith(f"{name} is no DICOM file")


def test_a_slice_that_is_named_like_notes_of_macos_is_read(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "4.dcm").rename(tmp_path / "._4.dcm")
    check_scan(tmp_path)
    (tmp_path / "._4.dcm").write_bytes(b"\0" * 100)
    assert refusal(tmp_path).startswith("._4.dcm is no DICOM file")


PACKED = {
    "rest.zip": b"PK\3\4",
    "rest.rar": b"Rar!\x1a\7\1\0",
    "rest.7z": b"7z\xbc\xaf\x27\x1c",
    "rest.tgz": b"\x1f\x8b\x08",
    "rest.tar": b"4.dcm".ljust(257, b"\0") + b"ustar",
}


@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_beside_slices_may_hold_others(tmp_path, name):
    write_scan(tmp_path / "scan")
    (tmp_path / "scan" / name).write_bytes(PACKED[name] + b"x" * 500)
    told = f"{name} is packed: unpack it first"
    assert refusal(tmp_path / "scan") == told
    assert refusal(zipped(tmp_path / "scan", tmp_path / "a.zip")) == told


def test_packed_images_of_other_formats_are_no_slices(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8b" + b"x" * 500)
    check_scan(tmp_path, ("set aside: 1 file that is no DICOM (a.nii.gz)",))


def test_what_is_left_out_is_named_where_slices_are_missing(tmp_path):
    write_scan(tmp_path, changes={2: {"SeriesInstanceUID": OTHER}})
    (tmp_path / "notes").write_text("text")
    told = refusal(tmp_path)
    assert told.endswith("Slices are missing or unordered; left out: notes, 2.dcm")


@pytest.mark.parametrize("drive", [0, 1])
def test_files_without_numbers_on_their_disk_are_read(tmp_path, monkeypatch, drive):
    write_scan(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path)
    stat = type(tmp_path).stat

    def unnumbered(path, **keywords):
        told = list(stat(path, **keywords))
        return os.stat_result([told[0], 0, drive, *told[3:]])

    monkeypatch.setattr(type(tmp_path), "stat", unnumbered)
    check_scan(tmp_path)


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


# --- slices that are lost to another series or kind -----------------------------------------------


def lost(name, told):
    return (
        f"{name} lies where the scan could have a slice but has none, and {told}, but is not told"
        " to be a CT slice of it: correct its header, or take it away if it is none"
    )


@pytest.mark.parametrize("series_uid", [None, SERIES])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({4: {"SeriesInstanceUID": None}}, lost("4.dcm", "tells no Series Instance UID")),
        ({4: {"SeriesInstanceUID": OTHER}}, lost("4.dcm", "has another series UID")),
        (
            {k: {"SeriesInstanceUID": OTHER} for k in (0, 1)},
            lost("1.dcm", "has another series UID"),
        ),
        (
            {k: {"SeriesInstanceUID": f"{OTHER}.{k}"} for k in (1, 3)},
            lost("3.dcm", "has another series UID"),
        ),
    ],
)
def test_slices_of_another_series_that_continue_the_scan_are_refused(
    tmp_path, changes, message, series_uid
):
    write_scan(tmp_path, changes=changes)
    assert refusal(tmp_path, series_uid=series_uid) == message


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "PT"},
        {"SOPClassUID": STORAGE + "4"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SamplesPerPixel": 3, "PixelData": b"\0" * 216},
    ],
)
@pytest.mark.parametrize("slices", [(4,), (1, 3)])
@pytest.mark.parametrize("series_uid", [None, SERIES])
def test_slices_marked_as_another_kind_are_refused(tmp_path, elements, slices, series_uid):
    write_scan(tmp_path, changes=dict.fromkeys(slices, elements))
    told = lost(f"{slices[0]}.dcm", "has the UID of the series")
    assert refusal(tmp_path, series_uid=series_uid) == told


@pytest.mark.parametrize(
    "elements",
    [
        {"ImagePositionPatient": [-10, -20, 4 * STEP_MM]},
        {"ImagePositionPatient": [-10, -20, 9 * STEP_MM]},
        {"ImagePositionPatient": [-10, -20, 2.5 * STEP_MM]},
        {"ImagePositionPatient": [-50, -20, 5 * STEP_MM]},
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"PixelSpacing": [0.5, 0.5]},
        {"Rows": 9, "Columns": 8},
        {"StudyInstanceUID": "1.2.3.4"},
        {"FrameOfReferenceUID": "1.2.3.4"},
    ],
)
def test_other_images_that_do_not_continue_the_scan_are_set_aside(tmp_path, elements):
    write_scan(tmp_path)
    save(ct_slice(ct()[0], 5 * STEP_MM, series=OTHER, **elements), tmp_path / "few")
    check_scan(tmp_path, ("set aside: 1 series of fewer than 3 slices",))


def test_a_picture_of_a_slice_that_is_there_is_set_aside(tmp_path):
    write_scan(tmp_path)
    picture = ct_slice(ct()[0], 2 * STEP_MM, SamplesPerPixel=3, PixelData=b"\0" * 216)
    save(picture, tmp_path / "picture")
    check_scan(tmp_path, ("set aside: 1 secondary capture",))


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


@pytest.mark.parametrize("wide", [False, True])
def test_a_zip_that_lists_fewer_files_than_it_tells_is_refused(tmp_path, monkeypatch, wide):
    """The comment of an entry reaches over the next: zipfile passes that over in silence."""
    if wide:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    data = bytearray(file.read_bytes())
    assert (b"PK\6\6" in data) == wide
    if wide:  # as where there are more than 65535
        at = data.rindex(b"PK\5\6")
        data[at + 8 : at + 12] = b"\xff" * 4
        file.write_bytes(data)
    check_scan(file)
    last = data.rindex(b"PK\1\2")
    entry = data.rindex(b"PK\1\2", 0, last)
    data[entry + 32] = last - entry
    file.write_bytes(data)
    told = "it tells of 5 files but lists 4"
    assert refusal(file) == f"{file} is a damaged zip archive: {told}"


def test_a_file_without_a_name_in_a_zip_is_refused(tmp_path):
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    data = bytearray(file.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 28] = 0
    data[entry + 32] = len("0.dcm")  # as a comment, so that the next entry is found
    file.write_bytes(data)
    assert refusal(file).startswith(f"{file} is a damaged zip archive: ")


@pytest.mark.parametrize("name", [".", "./", "/", "..", "//"])
def test_files_of_no_real_name_in_a_zip_are_told(tmp_path, name):
    file = zipped(write_scan(tmp_path / "scan"), tmp_path / "a.zip")
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr(zipfile.ZipInfo(name), b"text")
    check_scan(file, (f"set aside: 1 file that is no DICOM ({name})",) if name != ".." else ())


def test_a_slice_in_a_zip_that_is_named_as_a_folder_is_read(tmp_path):
    write_scan(tmp_path / "scan")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for k in range(5):
            data = (tmp_path / "scan" / f"{k}.dcm").read_bytes()
            packed.writestr(zipfile.ZipInfo(f"{k}.dcm/" if k == 4 else f"{k}.dcm"), data)
    check_scan(tmp_path / "a.zip")


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
    told = refusal(file)
    assert f"no DICOM series in {file}; it holds 1 file that is no DICOM (ct.nrrd)" in told
    assert told.endswith("; name the file itself to read it")
