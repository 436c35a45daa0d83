"""The command line: results on disk, errors without tracebacks, nothing half-written."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import contrastdiagnosis
import numpy as np
import pytest
import SimpleITK as sitk
from contrastdiagnosis.bundle.bundle import (
    CONCEPTS_FILE,
    INFO_FILE,
    default_bundle_folder,
    load_bundle,
    sha256,
)
from contrastdiagnosis.commands.diagnose import Diagnose
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.imaging.volume import sitk_from_array, volume_from_sitk
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text

from engine.conftest import NODULE, write_tiny_bundle
from engine.test_volume import write_dicom
from engine.users import OWN_PATH

RAS = [str(x) for x in NODULE.center_ras_mm]
ENGINE = Path(contrastdiagnosis.__file__).parent


@pytest.fixture
def diagnose(ct, bundle_folder):
    """Runs `contrastdiagnosis diagnose` on the phantom."""

    def run(*arguments, point=("--ras", *RAS)):
        return main(
            ["diagnose", str(ct), *point, "--bundle", str(bundle_folder), *map(str, arguments)]
        )

    return run


def test_a_diagnosis_is_printed_and_written(diagnose, tmp_path, capsys, phantom):
    out = [tmp_path / "deep" / name for name in ("d.json", "d.html", "mask.nii.gz")]
    assert diagnose("--json", out[0], "--report", out[1], "--mask", out[2], "--device", "cpu") == 0
    text = capsys.readouterr().out
    assert "nearest cases:" in text
    assert "Research use only" in text
    assert len(json.loads(out[0].read_text())["cases"]) == 6
    assert "</html>" in out[1].read_text()
    mask = volume_from_sitk(sitk.ReadImage(str(out[2])))
    assert mask.hu.shape == phantom.volume.hu.shape
    np.testing.assert_allclose(mask.ijk_to_ras, phantom.volume.ijk_to_ras, atol=1e-3)
    assert sorted(f.name for f in (tmp_path / "deep").iterdir()) == [
        "d.html",
        "d.json",
        "mask.nii.gz",
    ]


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"contrastdiagnosis {contrastdiagnosis.__version__}\n"


def test_maps_are_written_on_the_cts_own_grid(diagnose, tmp_path, phantom):
    folder = tmp_path / "maps"
    assert diagnose("--maps", folder, "--json", tmp_path / "d.json", "--device", "cpu") == 0
    names = [f"case{n}_{s}.nrrd" for n in range(1, 7) for s in ("different", "similar")]
    assert sorted(f.name for f in folder.iterdir()) == names
    told = json.loads((tmp_path / "d.json").read_text())["cases"]
    for number, case in enumerate(told, start=1):
        for sign in ("similar", "different"):
            image = volume_from_sitk(sitk.ReadImage(str(folder / f"case{number}_{sign}.nrrd")))
            assert image.hu.shape == phantom.volume.hu.shape
            np.testing.assert_allclose(image.ijk_to_ras, phantom.volume.ijk_to_ras, atol=1e-3)
            empty = case["maps"]["highest"]["query"][sign] == 0
            assert image.hu.any() != empty
            assert image.hu.min() >= 0 and image.hu.max() <= 1


def test_a_damaged_picture_of_an_example_leaves_nothing_behind(
    ct, own_bundle_folder, tmp_path, capsys
):
    atlas = load_bundle(own_bundle_folder).concepts.atlas
    (own_bundle_folder / "pixels").mkdir()
    for case_id in {p.case_id for p in atlas}:
        (own_bundle_folder / "pixels" / f"{case_id}.safetensors").write_bytes(b"x")
    out = [tmp_path / "d.json", tmp_path / "d.html"]
    files = ["--json", str(out[0]), "--report", str(out[1])]
    bundle = ["--bundle", str(own_bundle_folder)]
    assert main(["diagnose", str(ct), "--ras", *RAS, *bundle, *files]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not any(file.exists() for file in out)


def test_without_report_or_maps_nothing_is_explained(diagnose, tmp_path):
    assert diagnose("--json", tmp_path / "d.json") == 0
    assert "maps" not in json.loads((tmp_path / "d.json").read_text())["cases"][0]


def test_the_three_ways_to_name_a_point_agree(diagnose, tmp_path, phantom):
    r, a, s = NODULE.center_ras_mm
    ijk = phantom.volume.ijk_from_ras(NODULE.center_ras_mm)
    points = [("--ras", r, a, s), ("--lps", -r, -a, s), ("--ijk", *ijk)]
    answers = []
    for n, point in enumerate(points):
        assert diagnose("--json", tmp_path / f"{n}.json", point=[str(p) for p in point]) == 0
        answers.append(json.loads((tmp_path / f"{n}.json").read_text()))
    assert answers[0]["point_ras_mm"] == answers[1]["point_ras_mm"]
    np.testing.assert_allclose(answers[0]["point_ras_mm"], answers[2]["point_ras_mm"], atol=0.02)
    assert answers[0]["probability"] == answers[1]["probability"]


@pytest.mark.parametrize(
    ("arguments", "point", "message"),
    [
        ((), (), "wanted one of --ras, --lps and --ijk, got 0"),
        ((), ("--ras", *RAS, "--ijk", "1", "2", "3"), "got 2"),
        ((), ("--ras", "900", "0", "0"), "lies outside the volume"),
        (("--bundle", "/nowhere"), ("--ras", *RAS), "wanted a bundle folder"),
    ],
)
def test_mistakes_are_told_in_one_line(diagnose, capsys, arguments, point, message):
    assert diagnose(*arguments, point=point) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("contrastdiagnosis: ")
    assert "Traceback" not in error


def test_cuda_asked_for_and_absent_is_told(diagnose, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert diagnose("--device", "cuda") == 2
    assert "finds no CUDA device" in capsys.readouterr().err


def test_an_unreadable_ct_is_told(bundle_folder, capsys, tmp_path):
    (tmp_path / "ct.nrrd").write_text("no")
    assert (
        main(["diagnose", str(tmp_path / "ct.nrrd"), "--ras", *RAS, "--bundle", str(bundle_folder)])
        == 2
    )
    assert "cannot read" in capsys.readouterr().err


def test_the_command_line_names_the_option_that_mends_a_ct(
    phantom, bundle_folder, tmp_path, capsys
):
    file = tmp_path / "stored.nii.gz"
    stored = (phantom.volume.hu + 1024).clip(0).astype(np.uint16)
    sitk.WriteImage(sitk_from_array(stored, phantom.volume.ijk_to_ras), str(file))
    arguments = ["diagnose", str(file), "--ras", *RAS, "--bundle", str(bundle_folder)]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "add -1024 to its voxels" in told
    assert told.endswith("\nThe option for it is --hu-offset.\n")
    assert main([*arguments, "--hu-offset", "-1024"]) == 0


def used_by(module: str, found: set[str]) -> set[str]:
    """The engine's modules, as paths, that one of them imports, itself included, at last."""
    if module not in found and (ENGINE / f"{module}.py").is_file():
        found.add(module)
        for node in ast.walk(ast.parse((ENGINE / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                used_by(node.module.removeprefix("contrastdiagnosis.").replace(".", "/"), found)
    return found


def sentences(module: str) -> list[str]:
    """The strings of a module that are no docstrings."""
    tree = ast.parse((ENGINE / f"{module}.py").read_text())
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
    ]


@pytest.mark.parametrize("module", sorted(used_by("service/app", set())))
def test_what_the_server_may_say_names_no_option(module):
    """Slicer's panel shows it to users who have no command line."""
    assert not [text for text in sentences(module) if re.search(r"--[a-z]", text)]


def test_the_servers_modules_are_found_and_the_commands_are_none_of_them():
    found = used_by("service/app", set())
    wanted = ("imaging/volume", "diagnosis/diagnoser", "bundle/bundle", "protocol/tensors")
    assert {*wanted, "service/requests", "concepts/concept_prediction"} <= found
    assert not [module for module in found if module.startswith("commands/")]
    assert "wanted one of --ras, --lps and --ijk, got " in sentences("commands/diagnose")


def test_every_setting_that_mends_an_error_is_an_option():
    sources = "".join((ENGINE / f"{m}.py").read_text() for m in used_by("service/app", set()))
    named = set(re.findall(r'setting="(\w+)"', sources))
    assert {"hu_offset", "series"} <= named <= {field.name for field in fields(Diagnose)}


def test_a_place_that_cannot_be_written_is_told_before_the_work(diagnose, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert diagnose("--maps", tmp_path / "file") == 2
    assert "cannot write" in capsys.readouterr().err
    for target in (tmp_path / "file" / "d.json", tmp_path, "/proc/d.json"):
        assert diagnose("--json", target) == 2
        captured = capsys.readouterr()
        assert f"cannot write {target}" in captured.err
        assert "nearest cases" not in captured.out


def test_a_mask_of_no_known_format_is_told_before_the_work(diagnose, capsys, tmp_path):
    assert diagnose("--mask", tmp_path / "mask.png", "--json", tmp_path / "d.json") == 2
    assert "its name must end in .nii.gz, .nii, .nrrd" in capsys.readouterr().err
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize("option", ["--json", "--report", "--mask"])
def test_a_full_disk_leaves_what_was_there(ct, bundle_folder, tmp_path, option):
    """The kernel stops the write at 100 bytes; what stood there before still stands."""
    target = tmp_path / ("out.nii.gz" if option == "--mask" else "out.txt")
    target.write_text("before")
    code = (
        "import resource, signal, sys\n"
        "from contrastdiagnosis.commands.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [
        "diagnose",
        str(ct),
        "--ras",
        *RAS,
        "--bundle",
        str(bundle_folder),
        option,
        str(target),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2, done.stderr
    assert f"cannot write {target}" in done.stderr
    assert "Traceback" not in done.stderr
    assert target.read_text() == "before"
    assert [f.name for f in tmp_path.iterdir()] == [target.name]


def test_a_reader_that_stops_early_loses_nothing(ct, bundle_folder, tmp_path):
    """`contrastdiagnosis diagnose ... | head -1`."""
    target = tmp_path / "d.json"
    arguments = ["diagnose", ct, "--ras", *RAS, "--bundle", bundle_folder, "--json", target]
    command = [sys.executable, "-u", "-m", "contrastdiagnosis.commands.main", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait() == 0, error
    assert error == b""
    assert json.loads(target.read_text())["cases"]


def test_a_sound_bundle_is_verified(bundle_folder, capsys):
    assert main(["bundle", "verify", str(bundle_folder)]) == 0
    assert "tiny 1 is sound" in capsys.readouterr().out


def test_a_damaged_bundle_is_not(own_bundle_folder, capsys):
    (own_bundle_folder / "model.safetensors").write_bytes(b"x")
    assert main(["bundle", "verify", str(own_bundle_folder)]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.fixture
def pruning_file(own_bundle_folder, tmp_path):
    """Writes a pruning file of the bundle."""

    def write(removed, notes=None, head=None):
        sha = head or sha256(own_bundle_folder / CONCEPTS_FILE)
        file = tmp_path / "pruning.json"
        file.write_text(pruning_text(Pruning(sha, tuple(removed), notes or {})))
        return file

    return write


@pytest.fixture
def prune(own_bundle_folder, capsys):
    """Runs `contrastdiagnosis bundle prune`; gives its exit status and what it said."""

    def run(file, out, folder=own_bundle_folder):
        status = main(["bundle", "prune", str(folder), "--pruning", str(file), "--out", str(out)])
        return status, "".join(capsys.readouterr())

    return run


def test_a_bundle_is_pruned(prune, pruning_file, own_bundle_folder, tmp_path):
    notes = {("spiculated", 1): "a vessel", ("calcified", 0): "kept, but odd"}
    file = pruning_file([("spiculated", 1), ("calcified", 3)], notes)
    before = {f.name: f.read_bytes() for f in own_bundle_folder.iterdir()}
    status, told = prune(file, tmp_path / "new")
    assert status == 0, told
    atlas = load_bundle(own_bundle_folder).concepts.atlas
    assert f"removed spiculated 1, like {atlas[1].case_id}: a vessel\n" in told
    assert f"removed calcified 3, like {atlas[11].case_id}\n" in told
    assert "uses 10 of 12 prototypes" in told and "pictures" not in told
    pruned = load_bundle(tmp_path / "new")
    gone = [(p.concept, p.number) for p in pruned.concepts.atlas if not p.kept]
    assert gone == [("spiculated", 1), ("calcified", 3)]
    assert main(["bundle", "verify", str(tmp_path / "new")]) == 0
    assert {f.name: f.read_bytes() for f in own_bundle_folder.iterdir()} == before


def test_pruning_says_that_pictures_stay_behind(prune, pruning_file, own_bundle_folder, tmp_path):
    (own_bundle_folder / "pixels").mkdir()
    status, told = prune(pruning_file([("spiculated", 1)]), tmp_path / "new")
    assert status == 0
    assert "pictures of cases were not copied: contrastdiagnosis cases add-pixels" in told


@pytest.mark.parametrize(
    ("removed", "head", "message"),
    [
        ([("spiculated", 1)], "0" * 64, "was made for another bundle"),
        ([("spiculated", n) for n in range(4)], None, "removes all prototypes of spiculated"),
        ([("spiculated", 9)], None, "names the prototype ('spiculated', 9)"),
        ([], None, "removes no prototype that the bundle still uses"),
    ],
)
def test_a_pruning_that_cannot_be_is_told(prune, pruning_file, tmp_path, removed, head, message):
    status, told = prune(pruning_file(removed, head=head), tmp_path / "new")
    assert status == 2
    assert message in told and "Traceback" not in told
    assert sorted(f.name for f in tmp_path.iterdir()) == ["pruning.json", "tiny"]


def test_pruning_never_replaces_a_folder(prune, pruning_file, own_bundle_folder, tmp_path):
    file = pruning_file([("spiculated", 1)])
    (tmp_path / "link").symlink_to(own_bundle_folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for out in (own_bundle_folder, tmp_path / "link", own_bundle_folder / "new"):
        status, told = prune(file, out)
        assert status == 2 and "the bundle that is pruned must stay" in told
    for out in (tmp_path / "mine", tmp_path, file):
        status, told = prune(file, out)
        assert status == 2 and f"cannot write {out}: it exists already" in told
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert main(["bundle", "verify", str(own_bundle_folder)]) == 0


def test_a_bundle_without_concepts_cannot_be_pruned(prune, pruning_file, tmp_path):
    plain = write_tiny_bundle(tmp_path / "plain", with_concepts=False)
    status, told = prune(pruning_file([]), tmp_path / "new", plain)
    assert status == 2 and "the bundle tiny has no concepts to prune" in told


@pytest.mark.parametrize(("label", "count"), [("all", 40), ("malignant", 14), ("benign", 26)])
def test_cases_are_listed(bundle_folder, capsys, label, count):
    assert main(["cases", "list", "--bundle", str(bundle_folder), "--label", label]) == 0
    assert f"{count} of 40 cases" in capsys.readouterr().out


def write_case_folder(folder, phantom, patient="P3"):
    """A case folder of one nodule, marked by three readers."""
    for part in ("image", "votes"):
        (folder / part).mkdir(parents=True)
    affine = phantom.volume.ijk_to_ras
    for part, array in (
        ("image", phantom.volume.hu),
        ("votes", 3 * phantom.masks[0].full().astype(np.uint8)),
    ):
        sitk.WriteImage(sitk_from_array(array, affine), str(folder / part / "a.nii.gz"))
    (folder / "nodules.csv").write_text(
        "file,patient_id,cluster,series_uid,n_readers,malignancy_mean,malignancy_readers\n"
        f"a.nii.gz,{patient},1,1.2.3,3,4.0,4 4 4\n"
    )
    return folder


def test_pixels_are_added_from_a_case_folder(own_bundle_folder, phantom, tmp_path, capsys):
    folder = write_case_folder(tmp_path / "cases", phantom)
    assert (
        main(["cases", "add-pixels", "--from", str(folder), "--bundle", str(own_bundle_folder)])
        == 0
    )
    assert "pixels of 1 of 40 cases" in capsys.readouterr().out
    pixels = load_bundle(own_bundle_folder).pixels.read("P3_1")
    assert pixels.mask.any()
    assert pixels.intensity[pixels.mask].mean() > 0.6
    assert main(["bundle", "verify", str(own_bundle_folder)]) == 0


def test_pixels_of_strangers_are_refused(own_bundle_folder, phantom, tmp_path, capsys):
    folder = write_case_folder(tmp_path / "cases", phantom, patient="Q")
    assert (
        main(["cases", "add-pixels", "--from", str(folder), "--bundle", str(own_bundle_folder)])
        == 2
    )
    assert "holds none of the bundle's 40 cases; case ids look like P0_0" in capsys.readouterr().err
    assert not (own_bundle_folder / "pixels").exists()


def test_the_demo_refuses_a_nodule_it_does_not_have(capsys):
    assert main(["demo", "--nodule", "9"]) == 2
    assert "nodule must be 0 to 3, got 9" in capsys.readouterr().err


def test_the_demo_diagnoses_its_phantom(tmp_path, capsys):
    """The main job on the default bundle, as `make demo` runs it."""
    assert main(["demo", "--out", str(tmp_path), "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "diagnosis.json").read_text())
    assert summary["bundle"]["name"] == "lidc"
    assert summary["nodule"]["found"]
    assert 12 < summary["nodule"]["long_axis_mm"] < 30
    assert summary["verdict"] == "malignant"
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_a_majority_bundle_tells_the_share_of_its_voters(tmp_path, capsys):
    """The default bundle with another rule, which is all that bundle.json tells of it."""
    folder = shutil.copytree(default_bundle_folder(), tmp_path / "b")
    document = json.loads((folder / INFO_FILE).read_text())
    document["bundle"]["vote"] |= {"k": 5, "form": "majority"}
    (folder / INFO_FILE).write_text(json.dumps(document))
    arguments = ["demo", "--nodule", "3", "--bundle", str(folder), "--out", str(tmp_path)]
    assert main([*arguments, "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "diagnosis.json").read_text())
    vote, listed = summary["vote"], [c["label"] == "malignant" for c in summary["cases"][:5]]
    # A split vote: by closeness the five would weigh differently.
    assert 0 < sum(listed) < 5
    assert vote == {
        "form": "majority", "malignant": sum(listed), "cases": 5, "share": sum(listed) / 5,
    }  # fmt: skip
    calibration = load_bundle(folder).info.calibration
    assert summary["probability"] == pytest.approx(calibration.probability(sum(listed) / 5), 1e-3)
    told = f"{sum(listed)} of 5</b> nearest cases are malignant; each counts alike:"
    html = (tmp_path / "report.html").read_text()
    assert f"{told} {100 * sum(listed) / 5:.0f} %." in html
    assert "weighted" not in html
    assert f"{sum(listed)} of 5 nearest cases are malignant" in capsys.readouterr().out


def test_the_ct_is_never_overwritten_and_no_file_is_written_twice(
    bundle_folder, ct, tmp_path, capsys, phantom
):
    """Refused before the work, whatever else is asked for; nothing is written."""
    own, before = tmp_path / "ct.nrrd", ct.read_bytes()
    shutil.copy(ct, tmp_path / f"copy{''.join(ct.suffixes)}")
    image = sitk.ReadImage(str(ct))
    sitk.WriteImage(image, str(own))
    point = [str(x) for x in NODULE.center_ras_mm]
    fixed = ["diagnose", str(own), "--ras", *point, "--bundle", str(bundle_folder)]
    written, twice = own.read_bytes(), str(tmp_path / "d.json")
    for asked, message in (
        (["--mask", str(own)], "part of the input"),
        (["--report", str(own)], "part of the input"),
        (["--json", str(bundle_folder / "bundle.json")], "part of the input"),
        (["--report", str(bundle_folder / "cases.csv")], "part of the input"),
        (["--json", twice, "--report", twice], "would both be written to"),
        (["--json", str(tmp_path / ("n" * 260))], "name too long"),
    ):
        assert main([*fixed, *asked]) == 2
        assert message in capsys.readouterr().err
    assert own.read_bytes() == written and ct.read_bytes() == before
    assert not Path(twice).exists()
    load_bundle(bundle_folder)


def in_a_process(code, **environment):
    fixed = {name: value for name, value in os.environ.items() if name not in USER_NAMES}
    return subprocess.run(
        [sys.executable, "-c", code], env=fixed | environment, capture_output=True, timeout=120
    )


USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


def test_a_user_without_a_name_is_one_too():
    """As in a container that runs as any uid; MONAI asks for the name when it is imported."""
    done = in_a_process(
        "import pwd\n"
        "def nobody(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = nobody\n"
        "import contrastdiagnosis.model.network, contrastdiagnosis_training.objectives.losses"
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("program", ["contrastdiagnosis", "contrastdiagnosis_training"])
def test_a_terminal_that_lacks_letters_shows_the_rest(tmp_path, program):
    place = str(tmp_path / "Lungenrundherd ✓ 結節")
    asked = ["bundle", "verify", place]
    if program.endswith("training"):
        asked = ["evaluate", "--crossfit", place]
    code = f"from {program}.commands.main import main; import sys; sys.exit(main({asked!r}))"
    done = in_a_process(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONPATH=OWN_PATH)
    assert done.returncode == 2
    assert b"Lungenrundherd ? ??" in done.stderr and b"Traceback" not in done.stderr


def test_an_anonymous_report_names_neither_the_file_nor_its_series(
    bundle_folder, tmp_path, capsys, phantom
):
    """As a DICOM folder is named: what it tells of the patient stays out of everything."""
    uid, folder = "1.2.826.0.1.3680043.8.498.77", tmp_path / "MILLER^ANNA"
    write_dicom(folder, phantom.volume.hu, 2.5 * np.arange(len(phantom.volume.hu)), uid)
    fixed = ["diagnose", str(folder), "--ijk", "90", "75", "30", "--bundle", str(bundle_folder)]
    told = {}
    for name, more in (("open", []), ("anonymous", ["--anonymous"])):
        files = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        assert main([*fixed, *more, "--json", str(files[0]), "--report", str(files[1])]) == 0
        said = capsys.readouterr().out.partition("wrote ")[0]
        told[name] = said + "".join(file.read_text() for file in files)
    assert uid in told["open"] and "MILLER" in told["open"]
    assert uid not in told["anonymous"] and "MILLER" not in told["anonymous"]
    assert (
        json.loads((tmp_path / "anonymous.json").read_text())["probability"]
        == (json.loads((tmp_path / "open.json").read_text())["probability"])
    )
