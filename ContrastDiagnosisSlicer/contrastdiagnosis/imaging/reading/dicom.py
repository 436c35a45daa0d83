"""CTs in DICOM: a folder, a zip archive, a single file."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.archive import is_zip, unpack_zip
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile, is_dicom_file
from contrastdiagnosis.imaging.reading.dicom_folder import list_files, open_files
from contrastdiagnosis.imaging.reading.dicom_frames import Frame, check_frames, frames_of
from contrastdiagnosis.imaging.reading.dicom_hounsfield import hounsfield, hounsfield_volume
from contrastdiagnosis.imaging.reading.dicom_kinds import count_kinds, sort_out
from contrastdiagnosis.imaging.reading.dicom_lost import may_be_lost, refuse_lost
from contrastdiagnosis.imaging.reading.dicom_pixels import PixelReader
from contrastdiagnosis.imaging.reading.dicom_series import (
    Series,
    choose_series,
    group_series,
)
from contrastdiagnosis.imaging.reading.dicom_stack import Stack, stack_frames
from contrastdiagnosis.imaging.reading.dicom_values import text
from contrastdiagnosis.imaging.reading.scan_image import MIN_SLICES, ScanImage


def is_dicom(path: Path) -> bool:
    """Whether `read_dicom` is the one to read it: a folder, a zip, or a DICOM file."""
    return path.is_dir() or is_dicom_file(path) or is_zip(path)


def read_dicom(path: Path, series_uid: str | None = None) -> ScanImage:
    """The CT series in a folder and all below it, in a zip archive or in a DICOM file.

    Args:
        path: The folder or file. A file of one slice is refused: its neighbours belong to it.
        series_uid: Which series to take where there are several.

    Raises:
        InputError: There is no CT series, more than one, one that is incomplete or damaged, or
            one whose geometry is not told.
    """
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # pydicom's doubts about the wording of elements: what matters is checked here.
        warnings.simplefilter("ignore", UserWarning)
        if path.is_dir():
            files = list_files(path)
        elif is_zip(path):
            files = unpack_zip(path, Path(folder))
        else:
            files = [(path, path.name)]
        try:
            return _read_files(files, path, series_uid)
        except MemoryError as error:
            raise InputError(f"there is not enough memory to read {path}: {error}") from error


def _read_files(
    files: Sequence[tuple[Path, str]], shown: Path, series_uid: str | None
) -> ScanImage:
    found = open_files(files)
    if not found.dicom:
        raise InputError(f"no DICOM series in {shown}{_instead(found.strangers, shown)}")
    slices, aside = sort_out(_of_series(found.dicom, series_uid))
    if not slices:
        raise InputError(f"wanted a CT series, got {_came(aside)} in {shown}")
    series = group_series(slices)
    chosen = choose_series(series, series_uid, shown)
    suspects = may_be_lost(chosen, found.dicom)
    left_out = [*found.strangers, *(file.name for file in suspects)]
    stack, image = _read_series(chosen, _few(left_out))
    refuse_lost(stack, chosen, suspects)
    aside["duplicate slice"] = stack.n_duplicates
    aside[f"series of fewer than {MIN_SLICES} slices"] = len(series) - 1
    return ScanImage(image, chosen.uid, _notices(aside, found.strangers))


def _of_series(files: Sequence[DicomFile], uid: str | None) -> Sequence[DicomFile]:
    """The files of a series, with those that are too damaged to tell theirs; all if none is its."""
    uid_of = {file: text(file.header, "SeriesInstanceUID") for file in files}
    if uid is None or uid not in uid_of.values():
        return files
    return [file for file in files if uid_of[file] == uid or not (uid_of[file] or file.pixel_bytes)]


def _read_series(series: Series, left_out: str) -> tuple[Stack, sitk.Image]:
    frames = frames_of(series.files)
    check_frames(frames)
    with tempfile.TemporaryDirectory() as scratch:
        reader = PixelReader(Path(scratch))

        def identical(one: Frame, other: Frame) -> bool:
            return np.array_equal(hounsfield(one, reader), hounsfield(other, reader))

        stack = stack_frames(frames, identical, left_out)
        image = sitk.GetImageFromArray(hounsfield_volume(stack.frames, reader))
    image.SetOrigin(stack.origin_mm.tolist())
    image.SetSpacing(stack.spacing_mm)
    image.SetDirection(stack.direction.ravel().tolist())
    return stack, image


def _came(aside: Counter[str]) -> str:
    kinds = list(aside)
    alone = len(kinds) == 1 and kinds[0].isupper()
    return f"modality {kinds[0]}" if alone else count_kinds(aside)


def _instead(strangers: Sequence[str], shown: Path) -> str:
    if shown.name.upper() == "DICOMDIR":
        return ": it is an index of other files; name the folder that it lies in"
    if not strangers:
        return ""
    images = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
    named = any(name.lower().endswith(images) for name in strangers)
    hint = "; name the file itself to read it" if named else ""
    return f"; it holds {_no_dicom(strangers)}{hint}"


def _notices(aside: Counter[str], strangers: Sequence[str]) -> tuple[str, ...]:
    told = [count_kinds(+aside)] if +aside else []
    if strangers:
        told.append(_no_dicom(strangers))
    return (f"set aside: {', '.join(told)}",) if told else ()


def _no_dicom(names: Sequence[str]) -> str:
    files = "file that is" if len(names) == 1 else "files that are"
    return f"{len(names)} {files} no DICOM ({_few(names)})"


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["and others"] if len(names) > 3 else [])])
