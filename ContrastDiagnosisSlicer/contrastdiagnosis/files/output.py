"""Writing results: the whole file or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from safetensors import SafetensorError

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import sitk_from_array

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
"""No .mhd or .nhdr: two files cannot take the place of two others at once."""

RESULT_SUFFIXES = (".json", ".html", *IMAGE_SUFFIXES)

UNFINISHED = ".unfinished-"
"""Folders of what is being written; one that a kill left is removed by a later writing."""

FORGOTTEN_S = 86400
"""Age of an unfinished folder that no process can still be filling."""


def check_writable(file: Path | None) -> None:
    """Refuses an output place before any work is lost.

    Raises:
        InputError: The folder cannot be made or written to, or the name cannot be one.
    """
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _look_for(file)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {_short(file)}: {_reason(error)}") from error
    if file.is_dir():
        raise InputError(f"cannot write {file}: it is a folder")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path | None]) -> None:
    """Refuses output places before any work is lost.

    Args:
        outputs: By the name that the user knows them by; None is not wanted.
        inputs: Files that are read, or folders with such files; None is not given.

    Raises:
        InputError: As `check_writable`; two outputs are one file; or one would overwrite an input.
    """
    places: dict[Path, str] = {}
    for name, file in outputs.items():
        if file is None:
            continue
        check_writable(file)
        place = file.resolve()
        if place in places:
            raise InputError(f"{name} and {places[place]} would both be written to {file}")
        places[place] = name
        for given in inputs:
            if given is not None and _overwrites(file, given):
                raise InputError(f"cannot write {name} to {file}: it is part of the input {given}")


def _overwrites(file: Path, given: Path) -> bool:
    """Whether an output is an input, one of its files, or the other half of its pair of files."""
    if not (file.exists() and given.exists()):  # What is missing is told by its reader.
        return False
    if file.samefile(given):
        return True
    if file.name.endswith(RESULT_SUFFIXES):  # What was written there before may be written again.
        return False
    if given.is_dir():
        return given.resolve() in file.resolve().parents
    # Voxels of .mhd, .nhdr and .hdr lie in files of their own, named in the header.
    beside = given.suffix.lower() in (".mhd", ".nhdr", ".hdr", ".img")
    return beside and file.resolve().parent == given.resolve().parent


def check_image_name(file: Path | None) -> None:
    """Refuses a name that no image format has, before any work is lost.

    Raises:
        InputError: The suffix is none of `IMAGE_SUFFIXES`.
    """
    if file is not None and not file.name.endswith(IMAGE_SUFFIXES):
        raise InputError(f"cannot write {file}: its name must end in {', '.join(IMAGE_SUFFIXES)}")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place to write a file at, which replaces `file` once the block has ended well.

    It lies in a folder of its own that nobody else can have made or can write into, so that neither
    a second writer nor a planted link is in the way. After a power cut, too, there is the old file
    or the new one. A link at `file` is replaced, not followed.

    Args:
        file: What will be there; the yielded path has the same suffixes.

    Raises:
        InputError: The disk is full or not writable; what stood there before still does.
    """
    try:
        forget_unfinished(file.parent)
        with tempfile.TemporaryDirectory(
            prefix=UNFINISHED, dir=file.parent, ignore_cleanup_errors=True
        ) as folder:
            draft = Path(folder) / f"draft{''.join(file.suffixes[-2:])[-20:]}"
            yield draft
            make_durable(draft)
            # Of a file that is replaced its owner has said who may read it.
            known = file.is_file() and not file.is_symlink()
            set_mode(draft, file.stat().st_mode & 0o777 if known else usual_mode(Path(folder)))
            draft.replace(file)
        make_durable(file.parent)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {_short(file)}: {_reason(error)}") from error


def write_file(file: Path, data: bytes) -> None:
    """Writes a file.

    Raises:
        InputError: The disk is full or not writable; what stood there before still does.
    """
    with replacing(file) as draft:
        draft.write_bytes(data)


def write_image(file: Path, array: NDArray, ijk_to_ras: NDArray[np.float64]) -> None:
    """Writes (k, j, i) voxels as NRRD, NIfTI or MetaImage, by the file's name.

    Raises:
        InputError: The format is unknown, or the disk is full or not writable; what stood there
            before still does.
    """
    check_image_name(file)
    try:
        with replacing(file) as draft:
            sitk.WriteImage(sitk_from_array(array, ijk_to_ras), str(draft), useCompression=True)
            # ITK's NIfTI writer does not notice a full disk: only what reads back was written.
            if not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(draft))), array):
                raise OSError("the file did not read back as it was written")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot write {_short(file)}: {reason}") from error


def make_durable(place: Path) -> None:
    """Brings a file to the disk, or what a folder says of its files."""
    folder = place.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folders.
    opened = os.open(place, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(opened)
    except OSError:
        if not folder:  # Some file systems have no such thing for folders.
            raise
    finally:
        os.close(opened)


def set_mode(file: Path, mode: int) -> None:
    """Says who may read a file, where the file system knows such a thing (CIFS, FAT may not)."""
    with suppress(OSError):
        file.chmod(mode)


def usual_mode(folder: Path) -> int:
    """Who may read new files here; some writers (safetensors) let their owner alone."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        plain = Path(made) / "plain"
        plain.touch()
        return plain.stat().st_mode & 0o777


def forget_unfinished(folder: Path) -> None:
    """Removes what a killed writer left, long after any could still be writing."""
    for left in folder.glob(f"{UNFINISHED}*"):
        try:
            if time.time() - left.lstat().st_mtime > FORGOTTEN_S and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue


def _look_for(file: Path) -> None:
    """Asks the file system whether a name can be one."""
    try:
        file.lstat()
    except FileNotFoundError:
        return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _short(file: Path) -> str:
    """A path that can be shown: of a name that is too long, its beginning."""
    text = str(file)
    return text if len(text) <= 300 else f"{text[:200]}... ({len(text)} characters)"
