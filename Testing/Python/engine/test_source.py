"""Where cases come from: scales, the rule of the label, `ratings.json`, and what a bundle says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle, save_bundle
from contrastdiagnosis.bundle.info import document_of_info
from contrastdiagnosis.cases.case_folder import read_case_folder, read_case_source
from contrastdiagnosis.cases.library import (
    CASE_COLUMNS,
    CENTER_COLUMNS,
    Case,
    CaseLibrary,
    read_cases,
    table_columns,
    write_cases,
)
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.source import (
    TAKEN,
    UNDECIDED,
    CaseSource,
    Finding,
    RatingScale,
    source_from_document,
)
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.errors import InputError

from engine.test_case_folder import write

SUSPICION = RatingScale("suspicion", "Suspicion", 0, 10, "none at all", "beyond doubt")
DENSITY = RatingScale("density", "Density", 1, 3, "hazy", "dense as bone")
MADE = CaseSource(
    "Made up nodules", "Made", (SUSPICION, DENSITY), "suspicion", 6,
    (Finding("dense", "density", at_least=2),), "Nobody, 2026.",
)  # fmt: skip


def document(**changes):
    return {**json.loads(json.dumps(asdict(MADE))), **changes}


def test_malignancy_of_lidc_stays_to_the_last_digit():
    random = np.random.default_rng(0)
    means = np.concatenate(
        [random.integers(1, 6, (4000, n)).mean(axis=1) for n in (1, 2, 3, 4, 7)]
        + [random.uniform(1, 5, 20_000), [np.nextafter(3, 0), 3, np.nextafter(3, 9)]]
    )
    assert np.array_equal(LIDC.malignancy_of(means), means)
    assert np.isnan(LIDC.malignancy_of(np.nan))


def test_the_threshold_of_every_source_is_the_middle():
    told = MADE.malignancy_of([0, 3, 6, 8, 10])
    assert told.tolist() == [1, 2, UNDECIDED, 4, 5]
    assert MADE.malignancy_of(np.nextafter(6, 9)) > UNDECIDED > MADE.malignancy_of(5.999)
    assert np.isnan(replace(MADE, malignancy="").malignancy_of([1.0, 7.0])).all()


def test_the_ratings_of_lidc_are_those_of_its_form():
    """Armato et al., Med Phys 2011;38:915, table: 1 to 5, but structure and calcification."""
    ends = {s.name: (s.lowest, s.highest) for s in LIDC.scales}
    assert ends.pop("internalStructure") == (1, 4) and ends.pop("calcification") == (1, 6)
    assert set(ends.values()) == {(1, 5)} and len(ends) == 7
    LIDC.scale("internalStructure").check([5])
    with pytest.raises(ValueError, match="margin must lie between 1 and 5, got 6"):
        LIDC.scale("margin").check([3, 6])
    assert SUSPICION.share(0) == 0 and SUSPICION.share(5) == 0.5 and SUSPICION.share(10) == 1


def test_a_source_survives_its_document():
    for made in (MADE, LIDC):
        assert source_from_document(json.loads(json.dumps(asdict(made)))) == made
    bare = source_from_document({"name": "Masks alone", "short_name": "Masks"})
    assert bare.scales == () and not bare.malignancy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": {}}, "scales must be a list, got {}"),
        ({"scales": [5]}, "an item of scales must be a table of names and values, got 5"),
        ({"scales": [{"name": "x"}]}, "an item of scales lacks title, lowest"),
        ({"colour": "red"}, "a source of cases has no colour; there are name, short_name"),
        ({"short_name": 3}, "short_name must be a text, got 3"),
        ({"citation": None}, "citation must be a text, got None"),
        ({"malignancy": "doubt"}, r"malignancy must be one of the ratings .*got 'doubt'"),
        ({"malignant_above": "6"}, "malignant_above must be a number, got '6'"),
        ({"malignant_above": 10}, "must lie within the scale of suspicion, between 0 and 10"),
        ({"findings": [{"name": "x", "rating": "y", "at_least": 1}]}, "needs a scale of y"),
        ({"findings": [{"name": "x", "rating": "density"}]}, "one of at_least and at_most"),
        ({"scales": [asdict(DENSITY)] * 2}, "ratings must have different names, got density twice"),
        ({"scales": [asdict(DENSITY) | {"name": "two words"}]}, "up to 40 letters, digits"),
        ({"scales": [asdict(DENSITY) | {"name": "fold"}]}, "a rating cannot be called fold"),
        ({"scales": [asdict(DENSITY) | {"lowest": 3}]}, "scale of density must rise, got 3 to 3"),
        ({"scales": [asdict(DENSITY) | {"highest": True}]}, "highest of density must be a number"),
    ],
)
def test_a_wrong_ratings_json_is_told_in_a_sentence(tmp_path, changes, message):
    folder = write(tmp_path)
    (folder / "ratings.json").write_text(json.dumps(document(**changes)))
    with pytest.raises(InputError, match=f"ratings.json does not describe .*{message}"):
        read_case_folder(folder)


def test_a_damaged_ratings_json_is_told(tmp_path, capsys):
    folder = write(tmp_path)
    (folder / "ratings.json").write_text("{")
    assert main(["cases", "add-pixels", "--from", str(folder)]) == 2
    assert "ratings.json is damaged" in capsys.readouterr().err
    (folder / "ratings.json").write_text("[]")
    with pytest.raises(InputError, match="must be a table of names and values, got \\[\\]"):
        read_case_source(folder)


HEADER = "file,patient_id,cluster,n_readers,suspicion_readers,density,malignancy_readers\n"


def test_a_folder_is_read_by_its_own_scales(tmp_path):
    folder = write(tmp_path / "made", HEADER, "a.nii.gz,P1,0,4,0 7 10 9,2,99\n")
    (folder / "ratings.json").write_text(json.dumps(document()))
    (nodule,) = read_case_folder(folder)
    # A column that is none of its ratings says nothing, whatever it is called elsewhere.
    assert nodule.ratings == {"suspicion": (0, 7, 10, 9), "density": (2,)}
    assert nodule.case_source == MADE and nodule.source == "made"
    assert nodule.malignancy == pytest.approx(UNDECIDED + 2 * (6.5 - 6) / 4)
    assert nodule.malignancy_by_reader.tolist() == [1, 3.5, 5, 4.5]
    assert nodule.rated_by([DENSITY]) == {"density": (2,)}
    assert nodule.rated_by([replace(DENSITY, highest=5), *LIDC.scales]) == {}


def test_a_value_beside_the_scale_is_told_with_its_line(tmp_path):
    folder = write(tmp_path, HEADER, "a.nii.gz,P1,0,4,0 7 11,2,3\n")
    (folder / "ratings.json").write_text(json.dumps(document()))
    with pytest.raises(InputError, match="line 2: suspicion must lie between 0 and 10, got 11"):
        read_case_folder(folder)


def test_a_folder_may_have_no_ratings_at_all(tmp_path):
    folder = write(tmp_path, "file,patient_id\n", "a.nii.gz,P1\n")
    assert read_case_source(folder) == LIDC
    (folder / "ratings.json").write_text(json.dumps({"name": "Masks", "short_name": "Masks"}))
    (nodule,) = read_case_folder(folder)
    assert nodule.ratings == {} and np.isnan(nodule.malignancy)
    assert not len(nodule.malignancy_by_reader)


def made_cases():
    return [
        Case(f"c{n}", f"p{n}", n % 2 == 0, 8.0, {"suspicion": 2.5 + n, "density": 2.0}, f"1.{n}")
        for n in range(6)
    ]


def test_the_table_of_cases_has_the_ratings_of_its_source(tmp_path):
    file, cases = tmp_path / "cases.csv", made_cases()
    write_cases(file, cases, MADE)
    assert read_cases(file, MADE) == cases
    assert file.read_text().splitlines()[0] == (
        "case_id,patient_id,label,diameter_mm,suspicion,density,series_uid,center_r_mm,"
        "center_a_mm,center_s_mm,source"
    )
    with pytest.raises(InputError, match="lacks the columns calcification"):
        read_cases(file, LIDC)
    file.write_text(file.read_text().replace(",2.5,2.0", ",2.5,4.0"))
    with pytest.raises(InputError, match="line 2: density must lie between 1 and 3, got 4"):
        read_cases(file, MADE)
    fixed = {*CASE_COLUMNS, *CENTER_COLUMNS, "series_uid", "source"}
    assert fixed == set(table_columns(replace(MADE, scales=(), findings=(), malignancy="")))
    assert fixed <= TAKEN


def test_a_bundle_says_whose_ratings_its_cases_have(bundle, tmp_path):
    library = CaseLibrary(made_cases(), bundle.library.embedding[:6])
    info = replace(bundle.info, case_source=MADE)
    save_bundle(tmp_path / "made", info, bundle.network, library, bundle.indicator.matched)
    assert load_bundle(tmp_path / "made").info.case_source == MADE
    told = json.loads((tmp_path / "made" / "bundle.json").read_text())["bundle"]
    assert told["case_source"] == document()
    assert "mean rating of the readers above 6" in (tmp_path / "made" / "MODEL_CARD.md").read_text()


def test_a_bundle_of_lidc_is_written_as_ever(bundle, bundle_folder):
    assert "case_source" not in document_of_info(bundle.info)
    assert "case_source" not in (bundle_folder / "bundle.json").read_text()
    assert load_bundle(default_bundle_folder()).info.case_source == LIDC


def test_a_bundle_needs_a_rule_of_the_label(bundle, tmp_path):
    info = replace(bundle.info, case_source=replace(MADE, malignancy="", malignant_above=0))
    library = CaseLibrary(made_cases(), bundle.library.embedding[:6])
    with pytest.raises(InputError, match="must say which rating tells malignancy"):
        save_bundle(tmp_path / "no", info, bundle.network, library, bundle.indicator.matched)


def test_the_list_of_cases_names_the_rating_that_labels_them(bundle, tmp_path, capsys):
    library = CaseLibrary(made_cases(), bundle.library.embedding[:6])
    info = replace(bundle.info, case_source=MADE)
    save_bundle(tmp_path / "made", info, bundle.network, library, bundle.indicator.matched)
    assert main(["cases", "list", "--bundle", str(tmp_path / "made")]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "label", "mm", "suspicion", "pixels", "series"]
    assert first.split()[3] == "2.50"
