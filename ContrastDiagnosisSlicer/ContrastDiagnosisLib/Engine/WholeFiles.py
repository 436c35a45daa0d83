"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A place to write at, which replaces `file` once the block has ended well.

    It lies in a folder that nobody else can write into; its name tells the format as the file's
    does.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; what stood there stays.
    """
    with tempfile.TemporaryDirectory(
        prefix=".unfinished-", dir=file.parent, ignore_cleanup_errors=True
    ) as folder:
        draft = Path(folder) / f"draft{file.suffix}"
        yield draft
        with draft.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, file)
