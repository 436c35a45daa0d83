"""A rewritten bundle takes the place of an older one; a kill at any step loses nothing.

All new files are made in a draft inside the bundle's folder. Renaming the draft to `NEXT` is the
one step that decides: before it the old bundle stands, after it the new one, though its files still
have to move to their places. Whoever comes next, to read or to write, moves what is left to move.
What else lies in the folder, such as the user's pictures of the cases, is never touched.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import (
    UNFINISHED,
    forget_unfinished,
    make_durable,
    set_mode,
    usual_mode,
)

NEXT = ".next"

GONE = ".gone"
"""Suffix of an empty file in a draft: what has this name without it shall not be there any more."""

WRITERS_MET = 100
"""Rewritings of one bundle by others that a writer finishes before it gives up."""


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A folder inside a bundle's folder to make its files in; gone after the block.

    Raises:
        InputError: The disk is full, or the place cannot be written to.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        forget_unfinished(folder)
        with tempfile.TemporaryDirectory(
            prefix=UNFINISHED, dir=folder, ignore_cleanup_errors=True
        ) as made:
            draft = Path(made) / "bundle"
            draft.mkdir()
            yield draft
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {folder}: {reason}") from error
    finally:
        if new:  # A failure leaves no empty folder.
            with suppress(OSError):
                folder.rmdir()


def swap_in(draft: Path, folder: Path, last: str, gone: Collection[str] = ()) -> None:
    """Puts all files of a draft in the places of the older ones.

    Args:
        draft: Inside `draft_of(folder)`, complete.
        folder: The bundle's.
        last: The file that says which files belong together.
        gone: Files of an older bundle that the new one does not have.
    """
    for name in gone:
        (draft / f"{name}{GONE}").touch()
    mode = usual_mode(draft.parent)
    for file in draft.iterdir():
        make_durable(file)
        set_mode(file, mode)
    make_durable(draft)
    for tries in range(WRITERS_MET):
        finish_swap(folder, last)
        try:
            draft.rename(folder / NEXT)
            break
        except OSError:
            if tries == WRITERS_MET - 1 or not swap_pending(folder):
                raise
    make_durable(folder)
    finish_swap(folder, last)


def swap_pending(folder: Path) -> bool:
    """Whether a decided rewriting still has files to move."""
    return (folder / NEXT).is_dir()


def finish_swap(folder: Path, last: str) -> None:
    """Moves what a decided rewriting, cut off or of another process, has left to move.

    Raises:
        InputError: The folder cannot be written to.
    """
    pending = folder / NEXT
    if not swap_pending(folder):
        return
    try:
        with suppress(FileNotFoundError):  # Another process does the same.
            for name in sorted(os.listdir(pending), key=lambda name: name == last):
                with suppress(FileNotFoundError):
                    if name.endswith(GONE):
                        (folder / name.removesuffix(GONE)).unlink(missing_ok=True)
                        (pending / name).unlink()
                    else:
                        (pending / name).replace(folder / name)
            make_durable(folder)
            pending.rmdir()
    except OSError as error:
        if swap_pending(folder) and not os.listdir(pending):
            return
        raise InputError(
            f"{folder} was being rewritten when that was cut off; to finish it the folder must be"
            f" writable: {error.strerror or error}"
        ) from error
