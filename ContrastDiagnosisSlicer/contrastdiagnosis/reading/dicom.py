"""CTs in DICOM: a folder, a single file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.reading.scan_image import ScanImage


def is_dicom(path: Path) -> bool:
    """Whether `read_dicom` is the one to read it: a folder, a zip, or a DICOM file."""
    return path.is_dir()


def read_dicom(path: Path, series_uid: str | None = None) -> ScanImage:
    """The CT series in a folder of DICOM files.

    Args:
        path: The folder.
        series_uid: Which series to take where there are several.

    Raises:
        InputError: There is no series, more than one, or its slices are no CT volume.
    """
    uid, image = _read_dicom_folder(path, series_uid)
    return ScanImage(image, uid)


def _read_dicom_folder(folder: Path, series_uid: str | None) -> tuple[str, sitk.Image]:
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not found:
        below = sorted(f.name for f in folder.iterdir() if f.is_dir())
        hint = f"; it holds the folders {', '.join(below[:5])}: name one of them" if below else ""
        raise InputError(f"no DICOM series in {folder}{hint}")
    files_of = {
        uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found
    }
    if series_uid is None and len(found) > 1:
        listing = "\n".join(f"  {uid}  ({len(files_of[uid])} slices)" for uid in found)
        told = f"{folder} holds {len(found)} series; name one:\n{listing}"
        raise InputError(told, setting="series")
    uid = series_uid or found[0]
    if uid not in files_of:
        raise InputError(f"no series {uid} in {folder}; it holds {', '.join(found)}")
    files = files_of[uid]
    if len(files) > 1:
        _check_slices(files)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        return uid, reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot read the DICOM series {uid} in {folder}: {reason}") from error


def _check_slices(files: Sequence[str]) -> None:
    """Refuses a series whose slices are not CT, not parallel, or not equally spaced."""
    positions: list[NDArray] = []
    normal = np.zeros(3)
    reader = sitk.ImageFileReader()
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        modality = (
            reader.GetMetaData("0008|0060").strip() if reader.HasMetaDataKey("0008|0060") else "CT"
        )
        if modality != "CT":
            raise InputError(f"wanted a CT series, got modality {modality} in {file}")
        slice_normal = np.reshape(reader.GetDirection(), (3, 3))[:, 2]
        if not positions:
            normal = slice_normal
        elif np.abs(normal - slice_normal).max() > 1e-3:
            raise InputError(f"the slices are not parallel: {file} is turned against {files[0]}")
        positions.append(np.array(reader.GetOrigin()[:3]))
    _check_tilt(np.array(positions), normal)
    along = np.sort(np.array(positions) @ normal)
    steps = np.diff(along)
    step = float(np.median(steps))
    if steps.min() < 0.01:
        at = along[int(steps.argmin())]
        raise InputError(
            f"two slices lie at the same position ({at:.2f} mm along the scan): the folder mixes"
            " several reconstructions or time points of one series"
        )
    # DICOM rounds positions to 0.01-0.1 mm; a missing slice doubles a step.
    uneven = np.flatnonzero(np.abs(steps - step) > max(0.1, 0.1 * step))
    if len(uneven):
        first = int(uneven[0])
        raise InputError(
            f"the slices are not equally spaced: {len(uneven)} of {len(steps)} gaps differ from"
            f" the usual {step:.2f} mm; the first is {steps[first]:.2f} mm after"
            f" {along[first]:.2f} mm along the scan. Slices are missing or unordered"
        )


def _check_tilt(positions: NDArray, normal: NDArray) -> None:
    """Refuses slices that are shifted against each other: readers would stack them upright."""
    along = positions @ normal
    aside = positions - along[:, None] * normal
    drift_mm = float(np.linalg.norm(aside - aside[0], axis=1).max())
    if drift_mm > 0.5:
        degrees = np.degrees(np.arctan2(drift_mm, np.ptp(along)))
        raise InputError(
            f"the scan was taken with a tilted gantry: its slices are shifted against each other by"
            f" up to {drift_mm:.1f} mm ({degrees:.0f} degrees). Resample it to an upright grid"
            " first; 3D Slicer offers that when it loads the series"
        )
