"""Writing: the whole file or nothing, whoever else writes, and never over what is read."""

from __future__ import annotations

import os
import stat
import threading

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import (
    UNFINISHED,
    check_outputs,
    check_writable,
    replacing,
    write_file,
    write_image,
)

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def names(folder):
    return sorted(f.name for f in folder.iterdir())


def test_two_writers_of_one_file_are_both_right(tmp_path):
    file, wrong = tmp_path / "d.json", []
    texts = [bytes([65 + n]) * 200_000 for n in range(8)]

    def write(text):
        try:
            for _ in range(10):
                write_file(file, text)
                assert file.read_bytes() in texts
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert names(tmp_path) == ["d.json"]


def test_no_link_is_followed(tmp_path):
    """Neither one planted where a draft might be, nor one at the file's own place."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    file = tmp_path / "out" / "d.json"
    file.parent.mkdir()
    (file.parent / ".partial-d.json").symlink_to(secret)
    file.symlink_to(secret)
    write_file(file, b"new")
    write_image(file.parent / "m.nrrd", VOXELS, np.eye(4))
    assert secret.read_text() == "mine"
    assert file.read_bytes() == b"new" and not file.is_symlink()


def test_a_failure_leaves_what_stood_there(tmp_path, monkeypatch):
    file = tmp_path / "d.json"
    file.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*d\.json: No space left on device"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old" and names(tmp_path) == ["d.json"]


def test_who_may_read_a_file_stays_and_new_ones_are_as_usual(tmp_path):
    private, new, usual = (tmp_path / name for name in ("private", "new.nii.gz", "usual"))
    private.write_text("old")
    private.chmod(0o600)
    write_file(private, b"x")
    write_image(new, VOXELS, np.eye(4))
    usual.touch()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_file_that_its_owner_may_not_write_is_replaced_all_the_same(tmp_path, monkeypatch):
    """What is opened to be made durable is still open to its writer: root would not notice."""
    file, opened = tmp_path / "d.json", os.open
    file.write_text("old")
    file.chmod(0o444)

    def as_a_user(path, flags, *more, **options):
        if flags & os.O_RDWR and os.path.exists(path) and not os.stat(path).st_mode & 0o200:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", as_a_user)
    write_file(file, b"new")
    assert file.read_bytes() == b"new" and stat.S_IMODE(file.stat().st_mode) == 0o444


def test_what_a_kill_left_goes_once_it_is_old(tmp_path):
    old, young, foreign = (tmp_path / n for n in (UNFINISHED + "a", UNFINISHED + "b", ".other"))
    for folder in (old, young, foreign):
        folder.mkdir()
        (folder / "draft").touch()
        os.utime(folder, (0, 0) if folder != young else None)
    write_file(tmp_path / "d.json", b"x")
    assert names(tmp_path) == sorted([young.name, foreign.name, "d.json"])


@pytest.mark.parametrize("length", [251, 4000])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, length):
    file = tmp_path / ("n" * length + ".json")
    with pytest.raises(InputError, match="cannot write .*name too long") as caught:
        check_writable(file)
    assert len(str(caught.value)) < 500


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    for file in (tmp_path / ("n" * 250 + ".json"), tmp_path / ("n" * 248 + ".nii.gz")):
        check_writable(file)
    write_file(tmp_path / ("n" * 250 + ".json"), b"x")
    write_image(tmp_path / ("n" * 248 + ".nii.gz"), VOXELS, np.eye(4))
    assert len(names(tmp_path)) == 2


def test_two_outputs_of_one_file_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    places = {"the JSON": tmp_path / "d", "the report": tmp_path / "link" / "d"}
    with pytest.raises(InputError, match="the report and the JSON would both be written to"):
        check_outputs(places, [])


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_no_output_overwrites_the_ct(tmp_path, suffix):
    ct, linked = tmp_path / f"ct{suffix}", tmp_path / f"linked{suffix}"
    write_image(ct, VOXELS, np.eye(4))
    os.link(ct, linked)
    for mask in (ct, linked, tmp_path / "." / ct.name):
        with pytest.raises(InputError, match="cannot write the mask to .* part of the input"):
            check_outputs({"the mask": mask}, [ct])
    check_outputs({"the mask": tmp_path / f"mask{suffix}"}, [ct])


def test_the_voxels_beside_a_header_are_part_of_the_input(tmp_path):
    ct = tmp_path / "ct.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(ct))
    assert (tmp_path / "ct.raw").exists()
    with pytest.raises(InputError, match="part of the input"):
        check_outputs({"the report": tmp_path / "ct.raw"}, [ct])
    (tmp_path / "r.html").touch()  # Of the last time.
    check_outputs({"the report": tmp_path / "r.html"}, [ct])


def test_no_slice_of_a_series_is_overwritten_but_results_beside_it_are(tmp_path):
    for name in ("IM1", "IM2.dcm", "d.json"):
        (tmp_path / name).touch()
    for name in ("IM1", "IM2.dcm"):
        with pytest.raises(InputError, match="part of the input"):
            check_outputs({"the report": tmp_path / name}, [tmp_path])
    check_outputs({"the JSON": tmp_path / "d.json", "the report": tmp_path / "r"}, [tmp_path])


def test_a_block_that_fails_replaces_nothing(tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"old")

    def interrupted():
        with replacing(file) as draft:
            draft.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_bytes() == b"old" and names(tmp_path) == ["model"]


def test_formats_of_two_files_are_not_offered(tmp_path):
    with pytest.raises(InputError, match="its name must end in"):
        write_image(tmp_path / "m.mhd", VOXELS, np.eye(4))
    assert names(tmp_path) == []


def test_a_file_system_without_modes_is_written_to_as_well(tmp_path, monkeypatch):
    """As CIFS and FAT are mounted: chmod fails there."""

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_file(tmp_path / "d.json", b"x")
    write_image(tmp_path / "m.nrrd", VOXELS, np.eye(4))
    assert names(tmp_path) == ["d.json", "m.nrrd"]


def test_an_input_that_is_missing_is_told_by_its_reader(tmp_path):
    """Not by a traceback of the check, where the output of an earlier run is there."""
    earlier = tmp_path / "old.json"
    earlier.write_text("{}")
    check_outputs({"the report": earlier}, [tmp_path / "missing.nrrd"])
