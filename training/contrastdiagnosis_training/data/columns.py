"""Tables of one row a nodule as .npz files: dataclasses whose fields are arrays."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable, write_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def save_columns(table: DataclassInstance, file: Path) -> None:
    """Writes every field, without pickle; an older file is replaced only by a whole one."""
    stream = io.BytesIO()
    columns = {f.name: getattr(table, f.name) for f in fields(table)}
    np.savez_compressed(stream, allow_pickle=False, **columns)
    check_writable(file)
    write_file(file, stream.getvalue())


def load_columns(kind: type[T], file: Path) -> T:
    """Reads what `save_columns` wrote.

    Raises:
        InputError: There is no such file, or it is of another kind of table.
    """
    if not file.is_file():
        raise InputError(f"{file} is not there: the run that writes it is another one, or stopped")
    with np.load(file, allow_pickle=False) as columns:
        missing = [f.name for f in fields(kind) if f.name not in columns]
        if missing:
            raise InputError(
                f"{file} is no table of {kind.__name__}: it lacks {', '.join(missing)}; it is of an"
                " older or another kind of run"
            )
        return kind(**{f.name: columns[f.name] for f in fields(kind)})


def kept_columns(kind: type[T], folder: Path, made_from: object, make: Callable[[], T]) -> T:
    """A table that is made once, and kept under what it is made from.

    Args:
        kind: Of the table.
        folder: Where it is kept; made if it is not there.
        made_from: All that decides what is in it, as JSON can tell it.
        make: Makes it.
    """
    key = json.dumps([kind.__name__, made_from]).encode()
    file = folder / f"{hashlib.sha256(key).hexdigest()[:32]}.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        save_columns(make(), file)
    return load_columns(kind, file)
