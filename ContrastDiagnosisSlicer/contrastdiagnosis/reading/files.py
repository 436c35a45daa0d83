"""Image files: NRRD, NIfTI and MetaImage."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading.scan_image import ScanImage


def read_file(path: Path) -> ScanImage:
    """The image in a file.

    Raises:
        InputError: The file is damaged or of an unknown format.
    """
    try:
        return ScanImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"cannot read {path} as NRRD, NIfTI, MetaImage or DICOM: {reason}"
        ) from error
