"""The atlas: what each prototype of the concepts looks like."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.concepts.cells import CELL_VOXELS
from contrastdiagnosis.concepts.head import Concept
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_table
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY

COLUMNS = (
    "concept", "prototype", "case_id", "cell_k", "cell_j", "cell_i", "similarity", "hits", "kept",
)  # fmt: skip
"""Header of `atlas.csv`."""


@dataclass(frozen=True)
class Prototype:
    """One prototype, shown by the training nodule that comes nearest to it."""

    concept: str
    number: int
    """Place among the concept's prototypes."""
    case_id: str
    """The nodule with the largest cosine (the argmin in Eq. 11 of arXiv:2503.06873 is a slip)."""
    cell_kji: tuple[int, int, int]
    """The cell of its patch that is most alike."""
    similarity: float
    """That cosine."""
    hits: int
    """For how many cases that show the concept this prototype has the highest score."""
    kept: bool = True
    """Whether it takes part; a clinician may have removed it."""


def write_atlas(file: Path, atlas: Sequence[Prototype]) -> None:
    """Writes `atlas.csv`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in atlas:
        writer.writerow(
            [p.concept, p.number, p.case_id, *p.cell_kji, f"{p.similarity:.6f}", p.hits, +p.kept]
        )
    write_file(file, stream.getvalue().encode())


def read_atlas(file: Path, concepts: Sequence[Concept], count: int) -> tuple[Prototype, ...]:
    """The prototypes of `atlas.csv`, concept by concept.

    Args:
        file: The table.
        concepts: Those of the head.
        count: Prototypes a concept.

    Raises:
        InputError: The table is damaged, or is not of these concepts.
    """
    table = read_table(file, COLUMNS)
    try:
        rows = [_prototype(row) for _, row in table]
    except ValueError as error:
        raise InputError(f"{file} is no atlas with the columns {', '.join(COLUMNS)}") from error
    wanted = [(c.name, n) for c in concepts for n in range(count)]
    if [(p.concept, p.number) for p in rows] != wanted:
        raise InputError(
            f"{file} must hold {count} prototypes of each of"
            f" {', '.join(c.name for c in concepts)}, in this order"
        )
    grid = np.array(DEFAULT_GEOMETRY.shape) // CELL_VOXELS
    for p in rows:
        cell = np.array(p.cell_kji)
        if not (np.isfinite(p.similarity) and (cell >= 0).all() and (cell < grid).all()):
            raise InputError(
                f"{file}: {p.concept} {p.number} needs a finite similarity and a cell within"
                f" {grid.tolist()}, got {p.similarity} and {list(p.cell_kji)}"
            )
    return tuple(rows)


def _prototype(row: dict[str, str]) -> Prototype:
    return Prototype(
        concept=row["concept"],
        number=int(row["prototype"]),
        case_id=row["case_id"],
        cell_kji=(int(row["cell_k"]), int(row["cell_j"]), int(row["cell_i"])),
        similarity=float(row["similarity"]),
        hits=int(row["hits"]),
        kept=bool(int(row["kept"])),
    )


def kept_mask(atlas: Sequence[Prototype], shape: tuple[int, int]) -> NDArray[np.float32]:
    """(K, M): 1 for prototypes that take part."""
    return np.array([p.kept for p in atlas], dtype=np.float32).reshape(shape)
