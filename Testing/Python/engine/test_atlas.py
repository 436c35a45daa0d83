"""The atlas: what is written comes back, what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.concepts.atlas import COLUMNS, Prototype, kept_mask, read_atlas, write_atlas
from contrastdiagnosis.errors import InputError

from engine.conftest import CONCEPTS, PROTOTYPES


def made():
    random = np.random.default_rng(0)
    return tuple(
        Prototype(
            concept.name,
            m,
            f'case "{k}", {m}',
            tuple(int(x) for x in random.integers(0, 8, 3)),
            round(float(random.uniform(-1, 1)), 6),
            int(random.integers(0, 1000)),
            (k + m) % 3 != 0,
        )
        for k, concept in enumerate(CONCEPTS)
        for m in range(PROTOTYPES)
    )


@pytest.fixture
def file(tmp_path):
    write_atlas(tmp_path / "atlas.csv", made())
    return tmp_path / "atlas.csv"


def test_an_atlas_comes_back_as_it_was_written(file):
    assert read_atlas(file, CONCEPTS, PROTOTYPES) == made()
    assert file.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_what_takes_part_is_told_as_a_table(file):
    mask = kept_mask(made(), (3, 4))
    assert mask.shape == (3, 4) and mask.dtype == np.float32
    for k, m in np.ndindex(3, 4):
        assert mask[k, m] == ((k + m) % 3 != 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, rows[-1]],
        lambda rows: [rows[0], rows[2], rows[1], *rows[3:]],
        lambda rows: [rows[0]],
        lambda rows: [row.replace("spiculated", "spiky") for row in rows],
    ],
)
def test_an_atlas_of_other_prototypes_is_refused(file, edit):
    file.write_text("\n".join(edit(file.read_text().splitlines())))
    with pytest.raises(
        InputError,
        match=r"atlas.csv must hold 4 prototypes of each of spiculated, ill-defined margin, calc",
    ):
        read_atlas(file, CONCEPTS, PROTOTYPES)


def test_an_atlas_of_another_head_is_refused(file):
    with pytest.raises(InputError, match="must hold 5 prototypes of each of"):
        read_atlas(file, CONCEPTS, PROTOTYPES + 1)
    with pytest.raises(
        InputError, match="of each of spiculated, ill-defined margin, in this order"
    ):
        read_atlas(file, CONCEPTS[:2], PROTOTYPES)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_refused(file, column):
    file.write_text(file.read_text().replace(column, "x", 1))
    with pytest.raises(InputError, match=f"lacks the columns {column}"):
        read_atlas(file, CONCEPTS, PROTOTYPES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "one"),
        ("cell_kji", ("", 1, 2)),
        ("cell_kji", (1.5, 1, 2)),
        ("hits", "many"),
    ],
)
def test_a_value_that_is_no_number_is_refused(file, name, value):
    atlas = list(made())
    atlas[4] = replace(atlas[4], **{name: value})
    write_atlas(file, atlas)
    with pytest.raises(InputError, match="is no atlas with the columns"):
        read_atlas(file, CONCEPTS, PROTOTYPES)


@pytest.mark.parametrize(
    "change",
    [
        {"similarity": float("nan")},
        {"similarity": float("inf")},
        {"cell_kji": (8, 0, 0)},
        {"cell_kji": (0, -1, 0)},
        {"cell_kji": (0, 0, 10**12)},
    ],
)
def test_a_prototype_that_cannot_be_shown_is_refused(file, change):
    atlas = list(made())
    atlas[4] = replace(atlas[4], **change)
    write_atlas(file, atlas)
    with pytest.raises(
        InputError,
        match=r"ill-defined margin 0 needs a finite similarity and a cell within \[8, 8, 8\], got",
    ):
        read_atlas(file, CONCEPTS, PROTOTYPES)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'"' + b"x" * 200_000, b"concept\n" + b"x"])
def test_a_damaged_table_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(
        InputError, match="lacks the columns|is damaged|is not in UTF-8|must hold 4 prototypes"
    ):
        read_atlas(file, CONCEPTS, PROTOTYPES)
    file.unlink()
    with pytest.raises(InputError, match="cannot read"):
        read_atlas(file, CONCEPTS, PROTOTYPES)
