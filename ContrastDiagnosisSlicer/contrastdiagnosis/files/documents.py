"""Text, JSON and tables that people bring; whatever is wrong with one is told in a sentence."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from contrastdiagnosis.errors import InputError


def read_text(file: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: It cannot be read, or is in another encoding.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file} is not in UTF-8 (line {line}); save it as UTF-8, in Excel as 'CSV UTF-8'"
        ) from error


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: It cannot be read, is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(read_text(file))
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{file} is damaged: its JSON is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from error


def read_table(file: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV table with its number of line each; empty lines are left out.

    Args:
        file: Comma-separated, with a header.
        columns: Those that there must be; others may be there too.

    Raises:
        InputError: It cannot be read, lacks columns, or a row is longer or shorter than the header.
    """
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        header = [name or "" for name in reader.fieldnames or ()]
        if missing := sorted(set(columns) - set(header)):
            hint = ""
            if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
                hint = "; fields must be separated by commas"
            raise InputError(f"{file} lacks the columns {', '.join(missing)}{hint}")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{file}, line {reader.line_num}: wanted {len(header)} fields as in the header"
                )
            rows.append((reader.line_num, dict(row)))
        return rows
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}, is damaged: {error}") from error
