"""`read_scan_image`: whatever the user names, read by the module that knows its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom import is_dicom, read_dicom
from contrastdiagnosis.imaging.reading.files import read_file
from contrastdiagnosis.imaging.reading.scan_image import HU_RANGE, ScanImage, has_wide_padding


def read_scan_image(path: Path, series_uid: str | None = None) -> ScanImage:
    """The image in a NRRD, NIfTI, MetaImage or DICOM file, a folder or a zip of DICOM files.

    Args:
        path: The file or folder.
        series_uid: Which DICOM series to take where there are several.

    Raises:
        InputError: There is nothing, it is damaged, or its geometry is not told.
    """
    try:
        if not path.exists():
            raise InputError(f"no file or folder at {path}")
        # Reading a pipe or a device would wait or never end, and cannot be begun anew.
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"wanted a file or folder, got a pipe or device: {path}")
        scan = read_dicom(path, series_uid) if is_dicom(path) else read_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return replace(scan, image=_within_16_bits(scan.image))


def _within_16_bits(image: sitk.Image) -> sitk.Image:
    """The image, its padding no further off than any voxel: wide numbers mark it by their ends."""
    if not has_wide_padding(sitk.GetArrayViewFromImage(image)):
        return image
    return sitk.Clamp(image, image.GetPixelID(), *HU_RANGE)
