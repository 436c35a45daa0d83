"""Image files: known by content; whatever is none is named; counts of bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading import files as files_module
from contrastdiagnosis.imaging.reading.files import read_file
from contrastdiagnosis.imaging.reading.image_header import (
    ImageHeader,
    corner_gap_mm,
    mm_per,
    numbers_of,
)
from contrastdiagnosis.imaging.reading.stored_bytes import (
    GZIP,
    GZIP_OR_ZLIB,
    check_plain,
    check_stored,
    check_text,
    first_bytes,
    unpacked_size,
)
from contrastdiagnosis.imaging.volume import read_volume

HU = (np.arange(120).reshape(4, 5, 6) * 7 - 900).astype(np.int16)


def image():
    made = sitk.GetImageFromArray(HU)
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((11, -22, 33.5))
    made.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    return made


def same(found, wanted):
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))
    np.testing.assert_allclose(found.GetOrigin(), wanted.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.GetSpacing(), wanted.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(found.GetDirection(), wanted.GetDirection(), atol=1e-5)


def refused(path, match):
    with pytest.raises(InputError, match=match) as error:
        read_file(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(error.value)


SUFFIXES = [".nrrd", ".nhdr", ".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd"]


@pytest.mark.parametrize(
    ("suffix", "compressed"),
    [*((suffix, False) for suffix in SUFFIXES), (".nrrd", True), (".mha", True), (".mhd", True)],
)
def test_every_format_that_itk_writes_is_read(tmp_path, suffix, compressed, capfd):
    path = tmp_path / f"ct.of.patient 1{suffix}"
    sitk.WriteImage(image(), str(path), compressed)
    scan = read_file(path)
    same(scan.image, image())
    assert (scan.series_uid, scan.notices) == ("", ())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".dcm", "", ".img.nrrd"])
@pytest.mark.parametrize("written", [".nrrd", ".mha"])
def test_nrrd_and_metaimage_are_known_by_content(tmp_path, written, suffix):
    sitk.WriteImage(image(), str(tmp_path / f"ct{written}"))
    path = (tmp_path / f"ct{written}").rename(tmp_path / f"scan{suffix}")
    same(read_file(path).image, image())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_what_a_file_holds_counts_more_than_its_name(tmp_path, suffix):
    sitk.WriteImage(image(), str(tmp_path / f"ct{suffix}"))
    same(read_file((tmp_path / f"ct{suffix}").rename(tmp_path / "ct.img")).image, image())


def test_packed_nrrd_and_other_packed_files_are_refused(tmp_path):
    sitk.WriteImage(image(), str(tmp_path / "ct.nrrd"))
    packed = tmp_path / "ct.nrrd.gz"
    packed.write_bytes(gzip.compress((tmp_path / "ct.nrrd").read_bytes()))
    refused(packed, "compressed by gzip and holds no NIfTI: unpack it first")
    refused(packed.rename(tmp_path / "ct.nii.gz"), "holds no NIfTI")
    sitk.WriteImage(image(), str(tmp_path / "ct.mha"))
    packed = tmp_path / "ct.mha.gz"
    packed.write_bytes(gzip.compress((tmp_path / "ct.mha").read_bytes()))
    refused(packed, "compressed by gzip and holds no NIfTI: unpack it first")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"not an image", "text"),
        (b"NRRD", "text"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"II*\0", "a TIFF picture"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04", "a zip"),
        (b"<!DOCTYPE html>", "HTML or XML"),
        (bz2.compress(b"a"), "bzip2"),
        (b"\0" * 128 + b"DICM", "a DICOM file where none is read"),
        (b"\0\1\2\3" * 300, "an unknown format"),
    ],
)
@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".png"])
def test_what_is_none_of_them_is_named(tmp_path, content, kind, suffix):
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(content)
    refused(path, f"wanted NRRD, NIfTI, MetaImage or DICOM, got {kind}$")


def test_other_formats_of_itk_are_refused(tmp_path):
    """They tell no directions, or no position."""
    for suffix in (".vtk", ".tif"):
        sitk.WriteImage(sitk.Cast(image(), sitk.sitkUInt16), str(tmp_path / f"ct{suffix}"))
        refused(tmp_path / f"ct{suffix}", "wanted NRRD, NIfTI, MetaImage or DICOM, got ")


def test_a_file_that_may_not_be_opened_is_named(tmp_path):
    refused(tmp_path, "Is a directory|Permission denied")
    refused(tmp_path / "gone.nrrd", "No such file")


def test_the_header_wins_where_itk_puts_the_image_elsewhere(tmp_path, monkeypatch):
    """SimpleITK up to 2.5.5 mirrors NRRD in LAS."""
    sitk.WriteImage(image(), str(tmp_path / "ct.nrrd"))
    read = files_module._read_voxels

    def misread(file, header):
        found = read(file, header)
        found.SetOrigin((0, 0, 0))
        found.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
        return found

    monkeypatch.setattr(files_module, "_read_voxels", misread)
    same(read_file(tmp_path / "ct.nrrd").image, image())


def test_sizes_that_itk_and_the_header_disagree_on_are_refused(tmp_path, monkeypatch):
    sitk.WriteImage(image(), str(tmp_path / "ct.nrrd"))
    read = files_module.read_nrrd_header

    def misread(path):
        header = read(path)
        return ImageHeader((6, 4, 5), header.ijk_to_lps, header.itk_reader)

    monkeypatch.setattr(files_module, "read_nrrd_header", misread)
    refused(tmp_path / "ct.nrrd", r"tells of \(6, 4, 5\) voxels, got \(6, 5, 4\)")


def test_the_way_to_a_volume_is_the_same_from_every_format(tmp_path):
    wanted = read_volume_of(tmp_path, ".nrrd")
    for suffix in SUFFIXES[1:]:
        found = read_volume_of(tmp_path, suffix)
        np.testing.assert_array_equal(found.hu, wanted.hu)
        np.testing.assert_allclose(found.ijk_to_ras, wanted.ijk_to_ras, atol=1e-4)
    nibabel_affine = nibabel.load(tmp_path / "ct.nii").affine
    np.testing.assert_allclose(wanted.ijk_to_ras, nibabel_affine, atol=1e-4)


def read_volume_of(folder, suffix):
    sitk.WriteImage(image(), str(folder / f"ct{suffix}"))
    return read_volume(folder / f"ct{suffix}")


NOISE = np.random.default_rng(0).bytes(3_000_000)


@pytest.mark.parametrize("data", [NOISE, b"", b"a", bytes(20_000_000)])
def test_packed_bytes_are_counted(data):
    packed = gzip.compress(data, 1)
    assert unpacked_size(io.BytesIO(packed), GZIP, len(data)) == len(data)
    assert unpacked_size(io.BytesIO(packed * 3 + b"\0" * 9), GZIP, 1 << 40) == 3 * len(data)
    assert unpacked_size(io.BytesIO(zlib.compress(data, 1)), GZIP_OR_ZLIB, 1 << 40) == len(data)


def test_a_bomb_is_not_unpacked_to_its_end():
    packed = gzip.compress(bytes(50_000_000), 9)
    assert 1000 < unpacked_size(io.BytesIO(packed), GZIP, 1000) < 10_000_000


def test_members_may_end_anywhere():
    """Also where a piece that is read at once ends."""
    for size in (1_048_500, 1_048_576 - 23, 1_048_575 - 23, 1_048_574 - 23):
        first = gzip.compress(NOISE[:size], 0)
        packed = first + gzip.compress(b"abc")
        assert unpacked_size(io.BytesIO(packed), GZIP, 1 << 40) == size + 3


@pytest.mark.parametrize("cut", [1, 8, 9, 1000, 2_900_000])
def test_cut_data_is_refused_wherever_it_ends(cut):
    packed = gzip.compress(NOISE, 1)[:-cut]
    with pytest.raises(InputError, match="breaks off: the file is cut short"):
        unpacked_size(io.BytesIO(packed), GZIP, 1 << 40)


def test_only_the_told_bytes_are_unpacked():
    packed = zlib.compress(b"abc")
    stream = io.BytesIO(packed + b"more")
    assert unpacked_size(stream, GZIP_OR_ZLIB, 99, packed=len(packed)) == 3
    stream.seek(0)
    with pytest.raises(InputError, match="ends before the bytes that its header tells of"):
        unpacked_size(stream, GZIP_OR_ZLIB, 99, packed=len(packed) + 1)


def test_the_first_bytes_are_those_of_the_content(tmp_path):
    plain, packed = tmp_path / "a", tmp_path / "b"
    plain.write_bytes(b"0123456789")
    packed.write_bytes(gzip.compress(b"0123456789"))
    for path in (plain, packed):
        assert first_bytes(path, 4) == b"0123"
        assert first_bytes(path, 40) == b"0123456789"


@pytest.mark.parametrize(
    ("found", "match"), [(9, "got 9"), (-3, "got 0"), (11, "header does not belong")]
)
def test_too_few_and_too_many_bytes_are_refused(found, match):
    check_stored(10, 10)
    with pytest.raises(InputError, match=match):
        check_stored(found, 10)


@pytest.mark.parametrize("tail", [b"", b"\n", bytes(5000), b"\0\0 \r\n"])
def test_blank_padding_passes_behind_a_header_and_nowhere_else(tail):
    check_plain(io.BytesIO(b"0123456789" + tail), 10, 1, padded=True)
    if tail:
        with pytest.raises(InputError, match="header does not belong"):
            check_plain(io.BytesIO(b"0123456789" + tail), 10, 1, padded=False)


@pytest.mark.parametrize("tail", [b"a", b"\0" * 99 + b"a", bytes(1 << 17)])
def test_more_voxels_are_no_padding(tail):
    with pytest.raises(InputError, match="header does not belong"):
        check_plain(io.BytesIO(b"0123456789" + tail), 10, 1, padded=True)


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r\n", b"\0\0", b"\0\0\0\0\n"])
def test_padding_is_whole_voxels_and_a_line_end(tail):
    for first in (b"01", b"\n1"):
        check_plain(io.BytesIO(first + b"23456789" + tail), 10, 2, padded=True)
    if tail.strip(b"\r\n"):
        with pytest.raises(InputError, match="header does not belong"):
            check_plain(io.BytesIO(b"0123456789\0" + tail), 10, 2, padded=True)


@pytest.mark.parametrize("before", [b"\n", b"\r\n", b"\n\n", b"\0"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
def test_bytes_before_the_voxels_are_no_padding_behind_them(tmp_path, suffix, before):
    """The last voxel, 0 to 255 or 0, then seems to be padding."""
    made = image()
    made[5, 4, 3] = 40 if len(before) == 1 else 0
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(made, str(path))
    whole = path.read_bytes()
    head = len(whole) - HU.nbytes
    path.write_bytes(whole[:head] + before + whole[head:])
    refused(path, "does not belong to its voxels" if len(before) == 1 else "a blank line stands")


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        (b"1 2 32767 -32768", "i2"),
        (b"1 2 65535 0", "u2"),
        (b"1.0 2. +3 -4", "i2"),
        (b"1e3 .5 -1 nan", "f4"),
    ],
)
def test_text_that_fits_passes(text, dtype):
    check_text(text, 4, np.dtype(dtype))


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        (b"99999", "i2"),
        (b"-1", "u2"),
        (b"128", "i1"),
        (b"1.5", "i2"),
        (b"1e3", "i2"),
        (b"nan", "i2"),
        (b"1_0", "i2"),
        (b"1_0", "f4"),
        (b"abc", "f4"),
        (b"0x10", "i2"),
    ],
)
def test_text_that_itk_would_wrap_or_cut_is_refused(text, dtype):
    with pytest.raises(InputError, match=f"values that are no {np.dtype(dtype).name} numbers"):
        check_text(b"7 " + text, 2, np.dtype(dtype))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
def test_a_transfer_as_text_is_seen(tmp_path, suffix):
    """It writes two bytes for every one that is a line's end, and shifts all that follow."""
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image(), str(path))
    whole = path.read_bytes()
    head = len(whole) - HU.nbytes
    path.write_bytes(whole[: head + 9] + b"\r" + whole[head + 9 :])
    refused(path, "header does not belong to its voxels")


def test_the_gap_is_that_of_the_farthest_corner():
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    assert corner_gap_mm(np.eye(4), turned, (11, 1, 1)) == pytest.approx(10 * np.sqrt(2))
    assert corner_gap_mm(np.eye(4), np.eye(4), (11, 7, 5)) == 0


def test_numbers_and_units():
    np.testing.assert_array_equal(numbers_of("1 -2e1 .5", 3, "x"), [1, -20, 0.5])
    with pytest.raises(InputError, match="wanted a finite number as x, got 'a'"):
        numbers_of("a", 1, "x")
    assert mm_per("Metres") == 1000
    with pytest.raises(InputError, match="lengths are in 'px', wanted mm"):
        mm_per("px")
