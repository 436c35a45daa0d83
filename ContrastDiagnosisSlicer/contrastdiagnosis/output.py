"""Writing results: the whole file or nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.volume import sitk_from_array


def check_writable(file: Path | None) -> None:
    """Refuses an output place before any work is lost.

    Raises:
        InputError: The folder cannot be made or written to.
    """
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error
    if file.is_dir():
        raise InputError(f"cannot write {file}: it is a folder")


IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def check_image_name(file: Path | None) -> None:
    """Refuses a name that no image format has, before any work is lost.

    Raises:
        InputError: The suffix is none of `IMAGE_SUFFIXES`.
    """
    if file is not None and not file.name.endswith(IMAGE_SUFFIXES):
        raise InputError(f"cannot write {file}: its name must end in {', '.join(IMAGE_SUFFIXES)}")


def write_file(file: Path, data: bytes) -> None:
    """Writes a file.

    Raises:
        InputError: The disk is full or not writable; what stood there before still does.
    """
    partial = file.with_name(f".partial-{file.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error


def write_image(file: Path, array: NDArray, ijk_to_ras: NDArray[np.float64]) -> None:
    """Writes (k, j, i) voxels as NRRD, NIfTI or MetaImage, by the file's name.

    Raises:
        InputError: The format is unknown, or the disk is full or not writable; what stood there
            before still does.
    """
    partial = file.with_name(f".partial-{file.name}")
    try:
        sitk.WriteImage(sitk_from_array(array, ijk_to_ras), str(partial), useCompression=True)
        # ITK's NIfTI writer does not notice a full disk: only what reads back was written.
        if not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(partial))), array):
            raise OSError("the file did not read back as it was written")
        partial.replace(file)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot write {file}: {reason}") from error
