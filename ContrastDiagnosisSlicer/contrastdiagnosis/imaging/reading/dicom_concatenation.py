"""Concatenations: multi-frame objects that were stored in several files, none of them missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_file import DicomFile
from contrastdiagnosis.imaging.reading.dicom_values import text, whole


@dataclass(frozen=True)
class _Part:
    """A file of a concatenation, DICOM PS3.3 C.7.6.16.2.2.4."""

    file: DicomFile
    number: int | None
    total: int | None
    offset: int | None


def check_concatenations(files: Iterable[DicomFile]) -> None:
    """Refuses multi-frame objects that were stored in several files of which some are missing.

    Raises:
        InputError: As said.
    """
    of_uid: dict[str, list[_Part]] = {}
    for file in files:
        part = _Part(
            file,
            whole(file.header, "InConcatenationNumber", file.name),
            whole(file.header, "InConcatenationTotalNumber", file.name),
            whole(file.header, "ConcatenationFrameOffsetNumber", file.name),
        )
        uid = text(file.header, "ConcatenationUID")
        if uid or (part.number, part.total, part.offset) != (None, None, None):
            of_uid.setdefault(uid, []).append(part)
    for uid, parts in of_uid.items():
        _check_parts(parts, uid)


def _check_parts(parts: Sequence[_Part], uid: str) -> None:
    numbers, offsets = [part.number for part in parts], [part.offset for part in parts]
    first = parts[0].file.name
    total = max(part.total or 0 for part in parts)
    if None in numbers and None in offsets and total != 1:
        raise InputError(
            f"{first} is a part of a scan, but it is not told which one (In-concatenation Number),"
            " so it is not known whether others are missing"
        )
    came = set(numbers) - {None}
    spans = {(part.offset, part.file.n_frames) for part in parts if part.offset is not None}
    n_here = max(len(came), len(spans), 1)
    wanted = max(total, *(number or 0 for number in numbers))
    complete = None in numbers or came == set(range(1, wanted + 1))
    if not complete or wanted > n_here:
        least = "" if total else "at least "
        raise InputError(
            f"the scan was stored in {least}{wanted} parts, of which {n_here} are here"
        )
    if None not in offsets:
        _check_spans(sorted(spans), first)
    if uid and total != 1 and n_here == 1:
        raise InputError(f"{first} is one part of a scan of which the others are not here")


def _check_spans(spans: Sequence[tuple[int, int]], first: str) -> None:
    end = 0
    for offset, n_frames in spans:
        if offset != end:
            raise InputError(
                f"the scan was stored in parts that do not follow each other (the first is"
                f" {first}): wanted one from frame {end + 1}, got one from frame {offset + 1}"
            )
        end += n_frames
