"""`contrastdiagnosis revise`: both predictions printed, the corrected one kept, mistakes told."""

from __future__ import annotations

import json

import pytest
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.commands.diagnose import Diagnose
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.commands.revise import Revise, comparison
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.volume import read_volume
from contrastdiagnosis.protocol.revision import Box, Revision

from engine.conftest import NODULE, write_tiny_bundle

RAS = [str(x) for x in NODULE.center_ras_mm]
LOOK = ["--look", *RAS, "20", "18", "12"]
DOCUMENT = {
    "boxes": [{"center_ras_mm": [66, -4, 8], "size_mm": [9, 9, 9], "look": False,
               "concept": "spiculated"}],
    "rejected": ["ill-defined margin"],
    "mode": "zero",
    "elsewhere": 0.4,
}  # fmt: skip


@pytest.fixture
def outputs(tmp_path):
    return {"--json": tmp_path / "out" / "d.json", "--report": tmp_path / "out" / "d.html"}


@pytest.fixture
def revise(ct, bundle_folder, outputs):
    """Runs `contrastdiagnosis revise` on the phantom; everything is to be written."""

    def run(*arguments, bundle=bundle_folder):
        files = [str(part) for pair in outputs.items() for part in pair]
        fixed = ["revise", str(ct), "--ras", *RAS, "--bundle", str(bundle), "--device", "cpu"]
        return main([*fixed, *files, *map(str, arguments)])

    return run


def test_before_and_after_are_printed_and_the_revision_is_written(
    revise, outputs, capsys, ct, bundle
):
    assert revise(*LOOK, "--reject", "calcified") == 0
    text = capsys.readouterr().out
    told = json.loads(outputs["--json"].read_text())
    before, after = told["concepts_before_revision"], told["concepts"]
    assert before["revision"]["boxes"] == [] and after["revision"]["rejected"] == ["calcified"]
    box = after["revision"]["boxes"][0]
    assert box["center_ras_mm"] == list(NODULE.center_ras_mm)
    assert box["size_mm"] == [20, 18, 12] and box["look"] and box["concept"] is None
    line = next(t for t in text.splitlines() if t.startswith("concepts together"))
    assert f"{before['probability']:.2f} -> " in line and f"{after['probability']:.2f}" in line
    assert f"{before['logit']:+.2f} -> {after['logit']:+.2f}" in line
    assert any(t.startswith("calcified") and "rejected" in t for t in text.splitlines())
    assert "Research use only" in text and f"wrote {outputs['--json']}" in text
    assert "Corrected by hand" in outputs["--report"].read_text()
    diagnoser = Diagnoser(bundle, "cpu")
    volume = read_volume(ct)
    expected = diagnoser.revise(
        diagnoser.diagnose(volume, NODULE.center_ras_mm), volume,
        Revision((Box(NODULE.center_ras_mm, (20, 18, 12), True),), ("calcified",)),
    )  # fmt: skip
    assert after["logit"] == pytest.approx(expected.concepts.logit, abs=1e-9)


def test_a_file_gives_what_the_server_takes_and_options_add_to_it(revise, outputs, tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(DOCUMENT))
    assert revise("--boxes", file) == 0
    read = json.loads(outputs["--json"].read_text())["concepts"]["revision"]
    assert read["rejected"] == ["ill-defined margin"]
    assert (read["mode"], read["elsewhere"]) == ("zero", 0.4)
    assert read["boxes"][0]["concept"] == "spiculated" and not read["boxes"][0]["look"]
    options = ["--mode", "absent_median", "--elsewhere", "0", *LOOK]
    assert revise("--boxes", file, "--reject", "calcified", "ill-defined margin", *options) == 0
    both = json.loads(outputs["--json"].read_text())["concepts"]["revision"]
    assert both["rejected"] == ["ill-defined margin", "calcified"]
    assert (both["mode"], both["elsewhere"]) == ("absent_median", 0.0)
    assert [box["look"] for box in both["boxes"]] == [False, True]


def test_boxes_may_stand_behind_one_option_or_several(ct):
    """None may get lost, whichever way it is written."""
    first, second = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (7.0, 7.0, 7.0, 8.0, 8.0, 8.0)
    together = Revise(Diagnose(ct), look=((first, second),), ignore=((first,),)).revision()
    apart = Revise(Diagnose(ct), look=((first,), (second,)), ignore=((first,),)).revision()
    assert together == apart
    assert [box.look for box in together.boxes] == [True, True, False]
    assert together.boxes[1].center_ras_mm == (7, 7, 7) and together.elsewhere == 0.2


def test_repeated_options_add_up(revise, outputs):
    assert revise(*LOOK, *LOOK, "--ignore", *RAS, 30, 30, 30, "--reject", "calcified") == 0
    read = json.loads(outputs["--json"].read_text())["concepts"]
    assert [box["look"] for box in read["revision"]["boxes"]] == [True, True, False]
    assert read["remarks"] == []


def test_remarks_are_printed(revise, capsys):
    assert revise("--ignore", *RAS, 1, 1, 1) == 0
    assert 'note: an "ignore here" box covers no whole cell' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to revise: give --look, --ignore, --reject or --boxes"),
        (("--mode", "zero", "--elsewhere", "0.5"), "nothing to revise"),
        (("--look", "900", "0", "0", "5", "5", "5"), "lies outside the volume"),
        (("--look", *RAS, "5", "-5", "5"), "a box must have positive sides"),
        (("--look", *RAS, "5", "nan", "5"), "a box needs 3 centre"),
        (("--reject", "cavitated"), "no concept is called cavitated; there are spiculated"),
        ((*LOOK, "--elsewhere", "2"), "elsewhere must lie between 0 and 1"),
        (("--boxes", "/nowhere.json"), "cannot read /nowhere.json: No such file"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(revise, outputs, capsys, arguments, message):
    assert revise(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err and "wrote" not in captured.out
    assert not any(file.exists() for file in outputs.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: "),
        ("\udcff", "is not in UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "wanted a JSON object for revision"),
        ('{"box": []}', "the revision holds unknown fields: ['box']"),
        ('{"rejected": "calcified"}', "rejected must be a list of texts"),
        ('{"boxes": [{"center_ras_mm": [0, 0, NaN], "size_mm": [1, 1, 1], "look": true}]}',
         "center_ras_mm must be 3 numbers"),
        ("{}", "nothing to revise"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_boxes_is_told(revise, outputs, capsys, tmp_path, text, message):
    file = tmp_path / "boxes.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert revise("--boxes", file) == 2
    assert message in capsys.readouterr().err
    assert not any(f.exists() for f in outputs.values())


def test_a_bundle_without_concepts_is_told(revise, outputs, capsys, tmp_path):
    plain = write_tiny_bundle(tmp_path / "plain", with_concepts=False)
    assert load_bundle(plain).concepts is None
    assert revise("--reject", "calcified", bundle=plain) == 2
    assert "the bundle tiny has no concepts to revise" in capsys.readouterr().err
    assert not any(file.exists() for file in outputs.values())


def test_a_box_of_five_numbers_is_refused(revise, capsys):
    with pytest.raises(SystemExit) as exit_:
        revise("--look", *RAS, "5", "5")
    assert exit_.value.code == 2
    assert "--look" in capsys.readouterr().err


def test_the_comparison_names_every_concept(bundle, phantom):
    diagnoser = Diagnoser(bundle, "cpu")
    diagnosis = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)
    revised = diagnoser.revise(diagnosis, phantom.volume, Revision((), ("spiculated",)))
    lines = list(comparison(diagnosis.concepts, revised.concepts))
    assert len(lines) == 2 + len(diagnosis.concepts.concepts)
    assert f"{diagnosis.concepts.presence[0]:.2f} -> rejected" in lines[1]
    assert lines[2].count(f"{diagnosis.concepts.presence[1]:.2f}") == 2
