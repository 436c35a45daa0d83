"""The door: what can be read at all, and that no program downstream meets wilder numbers."""

from __future__ import annotations

import os

import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.door import read_scan_image
from contrastdiagnosis.imaging.reading.scan_image import HU_RANGE
from contrastdiagnosis.imaging.volume import read_volume
from contrastdiagnosis.service.requests import read_request, request_body

from engine.test_dicom_phantom import ct_slice, write_scan


def refusal(path):
    with pytest.raises(InputError) as error:
        read_scan_image(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["pipe", "pipe.dcm", "pipe.zip", "pipe.nii.gz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path / name).startswith("wanted a file or folder, got a pipe or device")


def test_names_that_no_disk_takes_are_refused(tmp_path):
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    assert refusal(tmp_path / "gone").startswith("no file or folder at ")


def test_a_disk_that_fails_is_told_with_the_slice(tmp_path, monkeypatch):
    write_scan(tmp_path)
    open_file = type(tmp_path).open

    class Scratched:
        def __init__(self, stream, from_byte):
            self.stream, self.from_byte = stream, from_byte

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def read(self, size=-1):
            if self.stream.tell() >= self.from_byte:
                raise OSError(5, "Input/output error")
            return self.stream.read(size)

    pixels_at = (tmp_path / "3.dcm").stat().st_size - len(ct_slice(np.zeros((8, 9))).PixelData)
    for from_byte in (0, 200, pixels_at):

        def scratched(path, *arguments, from_byte=from_byte, **keywords):
            stream = open_file(path, *arguments, **keywords)
            return Scratched(stream, from_byte) if path.name == "3.dcm" else stream

        with monkeypatch.context() as patched:
            patched.setattr(type(tmp_path), "open", scratched)
            assert refusal(tmp_path) == "cannot read 3.dcm: Input/output error"


def padded(tmp_path, dtype, value):
    hu = np.random.default_rng(0).integers(-1000, 400, (40, 60, 60)).astype(dtype)
    hu[:, :20] = value
    image = sitk.GetImageFromArray(hu)
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    return tmp_path / "ct.nrrd"


@pytest.mark.parametrize(
    ("dtype", "value", "kept"),
    [
        (np.int16, -32768, -32768),
        (np.int32, -100_000, HU_RANGE[0]),
        (np.int32, 66_000, HU_RANGE[1]),
        (np.int32, 62_512, 62_512),
        (np.int64, -(2**40), HU_RANGE[0]),
        (np.float32, -3.4e38, HU_RANGE[0]),
        (np.float32, 3.4e38, HU_RANGE[1]),
        (np.float64, -1e300, HU_RANGE[0]),
    ],
)
def test_whatever_pads_a_scan_the_server_takes_it(tmp_path, dtype, value, kept):
    path = padded(tmp_path, dtype, value)
    volume = read_volume(path)
    assert volume.hu.dtype == dtype
    assert (volume.hu[:, :20] == kept).all()
    read_request(request_body(volume, (-30.0, -30, 20)))


@pytest.mark.parametrize("share", [0.0001, 0.1])
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_scattered_wide_numbers_are_damage_and_no_padding(tmp_path, share, suffix):
    """Padding is one number, or one at each end; damaged voxels hold whatever came."""
    random = np.random.default_rng(0)
    hu = random.integers(-1000, 400, (40, 60, 60)).astype(np.float32)
    where = random.random(hu.shape) < share
    hu[where] = 10 ** random.uniform(5, 9, where.sum())
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / f"ct{suffix}"))
    with pytest.raises(InputError, match=r"voxels hold \d+ different numbers from .* damaged"):
        read_volume(tmp_path / f"ct{suffix}")


def test_padding_at_both_ends_is_padding(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 400, (40, 60, 60)).astype(np.float32)
    hu[:, :10], hu[:, -10:] = -1e6, 1e6
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "ct.nrrd"))
    read = read_volume(tmp_path / "ct.nrrd").hu
    assert (read[:, :10] == HU_RANGE[0]).all() and (read[:, -10:] == HU_RANGE[1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_taken_for_padding(tmp_path, value):
    with pytest.raises(InputError, match="got 48000 NaN or infinite voxels"):
        read_volume(padded(tmp_path, np.float32, value))
