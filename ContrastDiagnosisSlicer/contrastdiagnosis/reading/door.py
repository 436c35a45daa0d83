"""`read_scan_image`: whatever the user names, read by the module that knows its kind."""

from __future__ import annotations

from pathlib import Path

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading.dicom import is_dicom, read_dicom
from contrastdiagnosis.reading.files import read_file
from contrastdiagnosis.reading.scan_image import ScanImage


def read_scan_image(path: Path, series_uid: str | None = None) -> ScanImage:
    """The image in a NRRD, NIfTI, MetaImage or DICOM file, a folder or a zip of DICOM files.

    Args:
        path: The file or folder.
        series_uid: Which DICOM series to take where there are several.

    Raises:
        InputError: There is nothing, it is damaged, or its geometry is not told.
    """
    if not path.exists():
        raise InputError(f"no file or folder at {path}")
    if is_dicom(path):
        return read_dicom(path, series_uid)
    return read_file(path)
