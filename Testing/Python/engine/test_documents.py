"""Text, JSON and tables of people: other encodings, marks, shapes and values are told."""

from __future__ import annotations

import json

import pytest
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.cases.library import read_cases, table_columns
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json, read_table, read_text

HEADER = "file,patient_id,malignancy_readers,n_readers,fold\r\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


def test_a_byte_order_mark_is_no_part_of_the_first_column(file):
    file.write_bytes(("\ufeffname,n\r\nMüller,1\r\n\r\nb,2\r\n").encode())
    assert read_table(file, ["name"]) == [
        (2, {"name": "Müller", "n": "1"}),
        (4, {"name": "b", "n": "2"}),
    ]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_another_encoding_is_named_with_its_remedy(file, encoding):
    file.write_bytes("name\nx\nMüller\n".encode(encoding))
    with pytest.raises(
        InputError, match=r"is not in UTF-8 \(line \d\); save it as UTF-8, in Excel"
    ):
        read_table(file, ["name"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the columns name, other"),
        ("name;other\nx;y\n", "lacks .*; fields must be separated by commas"),
        ("name\tother\n", "separated by commas"),
        ("name,other\nx\n", "line 2: wanted 2 fields"),
        ("name,other\nx,y\nx,y,z\n", "line 3: wanted 2 fields"),
        ('name,other\n"' + "x" * 200_000 + '",y\n', "is damaged: field larger"),
    ],
)
def test_a_table_of_another_shape_is_told(file, text, message):
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(file, ["name", "other"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff{}", "is not in UTF-8"),
        (b"{", "is damaged: "),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 5000, "is damaged: "),
    ],
)
def test_damaged_json_is_told(file, content, message):
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(file)


def test_no_file_and_a_folder_are_told(file, tmp_path):
    for path in (file, tmp_path):
        with pytest.raises(InputError, match=f"cannot read {path}: "):
            read_text(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.nii.gz,P0,99,4,0", "line 2: malignancy must lie between 1 and 5, got 99"),
        ("a.nii.gz,P0,3 nan,4,0", "line 2: malignancy must lie between 1 and 5, got nan"),
        ("a.nii.gz,P0,0,4,0", "malignancy must lie between 1 and 5, got 0"),
        ("a.nii.gz,P0,viel,4,0", "line 2: could not convert"),
        ("a.nii.gz,P0,3,nan,0", "wanted a whole number, got nan"),
        ("a.nii.gz,P0,3,4,inf", "wanted a whole number, got inf"),
        ("../a.nii.gz,P0,3,4,0", "file must be the name of one within image/"),
        ("/etc/passwd,P0,3,4,0", "file must be the name of one within image/"),
        ("..\\a.nii.gz,P0,3,4,0", "file must be the name of one within image/"),
        (",P0,3,4,0", "file must be the name of one within image/"),
        ("a b.nii.gz,P0,3,4,0", "line 2: case id 'a b' cannot name a file"),
    ],
)
def test_values_of_nodules_that_cannot_be_are_told(tmp_path, row, message):
    for folder in ("image", "votes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").touch()
    (tmp_path / "nodules.csv").write_text(HEADER + row)
    with pytest.raises(InputError, match=message):
        read_case_folder(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("diameter_mm", "nan", "diameter_mm must lie between 0 and 500, got nan"),
        ("diameter_mm", "-3", "diameter_mm must lie between 0 and 500, got -3"),
        ("diameter_mm", "1e9", "diameter_mm must lie between 0 and 500"),
        ("malignancy", "99", "malignancy must lie between 1 and 5, got 99"),
        ("texture", "inf", "texture must lie between 1 and 5, got inf"),
        ("case_id", "../../etc/passwd", "case id '../../etc/passwd' cannot name a file"),
        ("case_id", "x" * 201, "cannot name a file"),
        ("center_r_mm", "nan", "the centre must be finite"),
        ("label", "2", "label must be 0 or 1"),
    ],
)
def test_values_of_cases_that_cannot_be_are_told(bundle_folder, file, column, value, message):
    first, second, *rest = (bundle_folder / "cases.csv").read_text().splitlines()
    fields = dict(zip(table_columns(LIDC), second.split(","), strict=True))
    fields |= dict.fromkeys(("center_r_mm", "center_a_mm", "center_s_mm"), "1.0")
    fields[column] = value
    file.write_text("\n".join([first, ",".join(fields.values()), *rest]))
    with pytest.raises(InputError, match=f"line 2: {message}|line 2: .*{message}"):
        read_cases(file, LIDC)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 100_000])
def test_a_bundle_that_cannot_be_read_ends_in_2_and_a_sentence(tmp_path, capsys, content):
    (tmp_path / "bundle.json").write_bytes(content)
    assert main(["bundle", "verify", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "bundle.json" in said


def test_no_link_stands_for_a_file_of_a_bundle(own_bundle_folder, tmp_path, capsys):
    inside, outside = own_bundle_folder / "cases.csv", tmp_path / "elsewhere.csv"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert main(["bundle", "verify", str(own_bundle_folder)]) == 2
    assert "is a link; a bundle holds its own files" in capsys.readouterr().err
    assert json.loads((own_bundle_folder / "bundle.json").read_text())
