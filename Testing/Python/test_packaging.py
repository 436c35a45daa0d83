"""What Slicer's build system and the Extensions Index read: files, metadata, requirements."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MODULE_FOLDER = ROOT / "ContrastDiagnosisSlicer"
RESOURCES = MODULE_FOLDER / "Resources"
BUNDLE = ROOT / "Resources" / "Bundles" / "lidc"
INDEX_FILE = ROOT / "Resources" / "ExtensionsIndex" / "ContrastDiagnosis.json"
RAW_URL = "https://raw.githubusercontent.com/contrastdiagnosis/SlicerContrastDiagnosis/main/"

# --- Reading CMake ---------------------------------------------------------------------------

TOKEN = re.compile(
    r"""
    (?P<comment> \#\[(?P<c>=*)\[.*?\](?P=c)\] | \#[^\n]* )
  | \[(?P<b>=*)\[\n?(?P<bracket>.*?)\](?P=b)\]
  | "(?P<quoted>(?:\\.|[^"\\])*)"
  | (?P<mark>[()])
  | (?P<word>[^\s()"\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def cmake_commands(source: str) -> list[tuple[str, list[str]]]:
    """Commands and their arguments, with what `set` gave to variables put in for `${...}`."""
    variables: dict[str, list[str]] = {}
    commands: list[tuple[str, list[str]]] = []
    depth, name = 0, ""
    for token in TOKEN.finditer(source):
        kind, text = token.lastgroup, token[token.lastgroup]
        if kind == "mark":
            depth += 1 if text == "(" else -1
            if text == "(" and depth == 1:
                commands.append((name.lower(), []))
            if text == ")" and depth == 0 and commands[-1][0] == "set":
                variables[commands[-1][1][0]] = commands[-1][1][1:]
        elif depth == 0 and kind == "word":
            name = text
        elif kind != "comment":
            commands[-1][1].extend(expanded(text, kind, variables))
    if depth:
        raise ValueError("the parentheses of the CMake file do not close")
    return commands


def expanded(text: str, kind: str, variables: dict[str, list[str]]) -> list[str]:
    """The arguments that one argument becomes; variables set elsewhere stay as they are written."""
    whole = re.fullmatch(r"\$\{(\w+)\}", text)
    if kind == "bracket":
        return [text]
    if kind == "word" and whole:
        return variables.get(whole[1], [text])
    known = {variable: ";".join(values) for variable, values in variables.items()}
    return [re.sub(r"\$\{(\w+)\}", lambda match: known.get(match[1], match[0]), text)]


def cmake_list(source: str, variable: str) -> list[str]:
    """What a variable is set to."""
    settings = [args for name, args in cmake_commands(source) if name == "set"]
    found = [values for name, *values in settings if name == variable]
    assert len(found) == 1, f"wanted one set({variable} ...), found {len(found)}"
    return found[0]


def keyword_arguments(args: list[str], *keywords: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    key = ""
    for arg in args:
        if arg in keywords:
            key = arg
            found[key] = []
        else:
            found[key].append(arg)
    return found


def test_cmake_is_read_as_cmake_reads_it():
    source = """
    # set(A commented out)
    #[[ set(A in a
    bracket) ]]
    set(NAME Module)
    SET(A ${NAME}.py  # set(A no)
      "two words" [=[raw ${NAME}]=] )
    set(B ${A} "${NAME} (x)" ${unknown})
    if(NOT (X AND Y))
    endif()
    """
    commands = cmake_commands(source)
    assert cmake_list(source, "A") == ["Module.py", "two words", "raw ${NAME}"]
    assert cmake_list(source, "B")[3:] == ["Module (x)", "${unknown}"]
    assert [name for name, _ in commands] == ["set", "set", "set", "if", "endif"]
    with pytest.raises(ValueError, match="do not close"):
        cmake_commands("set(A b")


# --- The lists of files ----------------------------------------------------------------------


def files_below(folder: Path) -> list[str]:
    """Everything that a module consists of, relative to its folder."""
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(
        file.as_posix()
        for file in found
        if file.name != "CMakeLists.txt"
        and not any(part == "__pycache__" or part.startswith(".") for part in file.parts)
    )


def wanted_lists(module_folder: Path = MODULE_FOLDER, bundle: Path = BUNDLE) -> dict[str, list]:
    """What each list of the module's CMakeLists.txt should hold."""
    files = files_below(module_folder)
    return {
        "MODULE_PYTHON_SCRIPTS": [file for file in files if file.endswith(".py")],
        "MODULE_PYTHON_RESOURCES": [file for file in files if not file.endswith(".py")],
        "MODULE_BUNDLE_FILES": sorted(file.name for file in bundle.iterdir() if file.is_file()),
    }


def check_lists(source: str, wanted: dict[str, list[str]]) -> None:
    """Fails with the lines to paste where a list is not the tree's."""
    complaints = []
    for variable, files in wanted.items():
        listed = cmake_list(source, variable)
        if sorted(listed) != files:
            missing, gone = sorted(set(files) - set(listed)), sorted(set(listed) - set(files))
            lines = "\n".join([f"set({variable}", *(f"  {file}" for file in files), "  )"])
            complaints.append(f"not listed: {missing}; not there: {gone}; paste\n\n{lines}\n")
    if complaints:
        pytest.fail("ContrastDiagnosisSlicer/CMakeLists.txt: " + "\n".join(complaints), False)


def module_cmake() -> str:
    return (MODULE_FOLDER / "CMakeLists.txt").read_text()


def test_the_lists_are_the_tree():
    check_lists(module_cmake(), wanted_lists())


def test_the_lists_reach_slicer():
    (arguments,) = [a for n, a in cmake_commands(module_cmake()) if "scriptedmodule" in n]
    keys = "NAME", "SCRIPTS", "RESOURCES", "WITH_GENERIC_TESTS"
    given = keyword_arguments(arguments, *keys)
    assert set(given) == set(keys)
    assert given["NAME"] == ["ContrastDiagnosis"]
    assert given["SCRIPTS"] == cmake_list(module_cmake(), "MODULE_PYTHON_SCRIPTS")
    assert given["RESOURCES"] == cmake_list(module_cmake(), "MODULE_PYTHON_RESOURCES")


@pytest.mark.parametrize("file", ["ContrastDiagnosisLib/New.py", "Resources/UI/New.ui"])
def test_a_file_that_is_not_listed_is_named_with_the_lines_to_paste(tmp_path, file):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    source = "set(MODULE_PYTHON_SCRIPTS)\nset(MODULE_PYTHON_RESOURCES)\nset(MODULE_BUNDLE_FILES)"
    with pytest.raises(pytest.fail.Exception, match=rf"not listed: .*\n\nset.*\n  {file}\n  \)"):
        check_lists(source, wanted_lists(tmp_path, tmp_path))


def test_a_listed_file_that_is_not_there_is_named(tmp_path):
    source = "set(MODULE_PYTHON_SCRIPTS Gone.py)\nset(MODULE_PYTHON_RESOURCES)"
    wanted = {"MODULE_PYTHON_SCRIPTS": [], "MODULE_PYTHON_RESOURCES": []}
    with pytest.raises(pytest.fail.Exception, match=r"not there: \['Gone.py'\]"):
        check_lists(source, wanted)


def test_the_wheel_holds_the_same_bundle():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert sorted(Path(file).name for file in included) == wanted_lists()["MODULE_BUNDLE_FILES"]


def test_beside_the_packages_lie_modules_only():
    """Slicer takes every Python file directly in the folder for a module."""
    for file in MODULE_FOLDER.glob("*.py"):
        wanted = rf"^class {file.stem}\(.*ScriptedLoadableModule\):"
        assert re.search(wanted, file.read_text(), re.MULTILINE), f"{file.name} is no module"
        assert (RESOURCES / "Icons" / f"{file.stem}.png").is_file()


# --- What the Extensions Index and the Extensions Manager read -------------------------------


def extension_metadata() -> dict[str, str]:
    """Values as the Extensions Index finds them: literal, quoted, on one line."""
    source = (ROOT / "CMakeLists.txt").read_text()
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"]+)"\)', source, re.MULTILINE))


def test_the_metadata_are_complete_and_literal():
    metadata = extension_metadata()
    wanted = {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert set(metadata) == wanted
    for key, value in metadata.items():
        # ";" would make a list of it.
        assert not set("$;\\\n") & set(value), f"EXTENSION_{key} is not literal"
    assert "not for clinical use" in metadata["DESCRIPTION"]
    assert cmake_commands((ROOT / "CMakeLists.txt").read_text())[1] == (
        "project",
        [INDEX_FILE.stem],
    )


def test_the_extension_wizard_finds_its_mark():
    source = (ROOT / "CMakeLists.txt").read_text()
    assert re.search(r"^add_subdirectory\(\w+\)\n## NEXT_MODULE$", source, re.MULTILINE)


def test_the_icon_and_the_screenshots_are_in_the_repository():
    metadata = extension_metadata()
    urls = [metadata["ICONURL"], *metadata["SCREENSHOTURLS"].split()]
    assert len(urls) >= 2
    for url in urls:
        assert url.startswith(RAW_URL)
        with Image.open(ROOT / url.removeprefix(RAW_URL)) as picture:
            assert picture.format == "PNG"
            if url == metadata["ICONURL"]:
                assert picture.size == (128, 128)
                assert picture.mode == "RGBA"


def test_the_entry_for_the_extensions_index_fits_its_schema():
    """Keys and types of slicer-extension-catalog-entry-schema 1.0.2, and the index's own checks."""
    entry = json.loads(INDEX_FILE.read_text())
    assert list(entry) == sorted(entry)
    assert re.fullmatch(r"https://.*/slicer-extension-catalog-entry-schema-v1.0.2.json#",
                        entry.pop("$schema"))  # fmt: skip
    kinds = {key: type(value) for key, value in entry.items()}
    assert kinds == {
        "build_dependencies": list,
        "build_subdirectory": str,
        "category": str,
        "scm_revision": str,
        "scm_url": str,
        "tier": int,
    }
    assert 1 <= entry["tier"] <= 5
    assert entry["build_dependencies"] == extension_metadata()["DEPENDS"].split()
    assert entry["scm_url"] == extension_metadata()["HOMEPAGE"]
    assert entry["scm_url"].rsplit("/", 1)[1].startswith("Slicer")
    assert not INDEX_FILE.stem.lower().startswith("slicer")


def test_there_is_a_licence():
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_repository_stays_below_the_limit_of_the_extensions_index():
    """100 MB, a fresh clone's .git included."""
    files = git("ls-files", "-co", "--exclude-standard", "-z").split("\0")
    size = sum((ROOT / file).stat().st_size for file in files if file and (ROOT / file).is_file())
    size += int(git("rev-list", "--disk-usage", "--objects", "HEAD"))
    assert size < 100 * 2**20


# --- Dependencies ----------------------------------------------------------------------------


def test_the_requirements_are_the_projects_without_torch():
    """Slicer's reader takes whole lines: no comment may follow a requirement."""
    lines = (RESOURCES / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    wanted = [line for line in wanted if not re.match(r"torch\b", line)]
    listed = [line for line in lines if not line.startswith("#")]
    assert sorted(listed) == sorted(wanted), "paste\n\n" + "\n".join(sorted(wanted, key=str.lower))
    for line in listed:
        assert re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?>=[\d.]+", line), f"{line} is no lower bound"
    assert any("PyTorch" in line for line in lines if line.startswith("#"))
