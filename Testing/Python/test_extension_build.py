"""The extension configured, built and installed with a fake Slicer, and `make slicer`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_packaging import BUNDLE, MODULE_FOLDER, ROOT, files_below, wanted_lists

BUILT_MODULES = "lib/Slicer-5.12/qt-scripted-modules"
"""Where the fake Slicer puts modules, like the real one."""

FAKE_SLICER = {
    "SlicerConfig.cmake": """
        foreach(name USE_FILE EXTENSION_GENERATE_CONFIG EXTENSION_CPACK)
          set(Slicer_${name} "${CMAKE_CURRENT_LIST_DIR}/${name}.cmake")
        endforeach()
        """,
    "USE_FILE.cmake": """
        set(BUILD_TESTING ON)
        enable_testing()
        set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "@BUILT_MODULES@")
        set(modules "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")

        function(slicerMacroBuildScriptedModule)
          cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
          if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
            message(FATAL_ERROR "wrong arguments: ${ARGN}")
          endif()
          foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
            if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}" OR file MATCHES "^/|[.][.]/")
              message(FATAL_ERROR "no file below the module: ${file}")
            endif()
            configure_file("${file}" "${modules}/${file}" COPYONLY)
          endforeach()
          install(DIRECTORY "${modules}/" DESTINATION "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
          file(APPEND "${CMAKE_BINARY_DIR}/record" "module ${MY_NAME} ${MY_WITH_GENERIC_TESTS}\\n")
        endfunction()

        function(slicer_add_python_unittest)
          cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
          if(MY_UNPARSED_ARGUMENTS OR NOT IS_ABSOLUTE "${MY_SCRIPT}")
            message(FATAL_ERROR "wrong arguments: ${ARGN}")
          endif()
          get_filename_component(name "${MY_SCRIPT}" NAME_WE)
          add_test(NAME "py_${MY_TESTNAME_PREFIX}${name}" COMMAND true)
          file(APPEND "${CMAKE_BINARY_DIR}/record"
            "test ${MY_TESTNAME_PREFIX}${name} ${MY_SCRIPT} ${MY_SLICER_ARGS}\\n")
        endfunction()
        """,
    "EXTENSION_GENERATE_CONFIG.cmake": "",
    "EXTENSION_CPACK.cmake": """
        file(APPEND "${CMAKE_BINARY_DIR}/record" "extension ${EXTENSION_DEPENDS}\\n")
        """,
}
"""What the extension uses of Slicer's build system: checks and records what it is given."""

CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The extension configured, built and installed with a fake Slicer; record beside it."""
    if CMAKE is None:
        pytest.skip("cmake is not installed (pip install cmake)")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "slicer").mkdir()
    for name, source in FAKE_SLICER.items():
        (folder / "slicer" / name).write_text(source.replace("@BUILT_MODULES@", BUILT_MODULES))
    no_compiler = [
        f"-DCMAKE_{language}_COMPILER{setting}"
        for language in ("C", "CXX")
        for setting in (f"={shutil.which('true')}", "_FORCED=ON")
    ]
    build, prefix = folder / "build", folder / "installed"
    where = [f"-DSlicer_DIR={folder / 'slicer'}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    where += [f"-DContrastDiagnosis_TEST_ENGINE={sys.executable}"]
    for step in (
        ["-S", ROOT, "-B", build, *where, *no_compiler],
        ["--build", build],
        ["--install", build],
    ):
        done = subprocess.run([CMAKE, *step], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_build_registers_the_module_and_its_tests(installed):
    record = (installed / "build" / "record").read_text().splitlines()
    tests = []
    for name in "ContrastDiagnosis", "ContrastDiagnosisAtlas":
        file = MODULE_FOLDER / f"{name}.py"
        assert file.is_file()
        tests += [f"test {name} {file}", f"test nomainwindow_{name} {file} --no-main-window"]
    wanted = ["module ContrastDiagnosis TRUE", *tests, "extension PyTorch"]
    assert [line.strip() for line in record] == wanted


def test_ctest_tells_slicer_which_engine_to_test_with(installed):
    registered = (installed / "build" / "Testing" / "CTestTestfile.cmake").read_text()
    assert registered.count(f"CONTRASTDIAGNOSIS_ENGINE={sys.executable}") == 4


def test_the_installed_module_is_the_tree_and_the_bundle(installed):
    wanted = wanted_lists()
    bundle = [f"Resources/Bundles/lidc/{file}" for file in wanted["MODULE_BUNDLE_FILES"]]
    files = sorted([*wanted["MODULE_PYTHON_SCRIPTS"], *wanted["MODULE_PYTHON_RESOURCES"], *bundle])
    for place in "build", "installed":
        assert files_below(installed / place / BUILT_MODULES) == files


def test_a_bundle_file_that_is_gone_is_copied_again(installed):
    assert CMAKE
    copy = installed / "build" / BUILT_MODULES / "Resources/Bundles/lidc/cases.csv"
    copy.unlink()
    subprocess.run([CMAKE, "--build", installed / "build"], check=True, capture_output=True)
    assert copy.read_bytes() == (BUNDLE / "cases.csv").read_bytes()


def test_the_installed_engine_finds_and_loads_its_bundle(installed):
    folder = installed / "installed" / BUILT_MODULES
    program = (
        "import contrastdiagnosis; from contrastdiagnosis.bundle.bundle import *;"
        "from contrastdiagnosis import report; folder = default_bundle_folder();"
        "print(contrastdiagnosis.__file__); print(folder); print(load_bundle(folder).info.name)"
    )
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env=environment, cwd=installed,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(folder / "contrastdiagnosis" / "__init__.py"),
        str(folder / "Resources" / "Bundles" / "lidc"),
        "lidc",
    ]


# --- Starting Slicer -------------------------------------------------------------------------


@pytest.fixture
def fake_slicer(tmp_path) -> Path:
    """A program that notes each call's arguments; it fails where FAIL_ON is one of them."""
    program = tmp_path / "a folder" / "Slicer"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" end >> "{tmp_path}/calls"\n'
        f'echo "$CONTRASTDIAGNOSIS_ENGINE" >> "{tmp_path}/engines"\n'
        f'echo "$SLICER_SIDE_TESTS" >> "{tmp_path}/tests"\n'
        'for a in "$@"; do [ "$a" != "$FAIL_ON" ] || exit 3; done\n'
    )
    program.chmod(0o755)
    return program


def make(*arguments: str, fail_on: str = "nothing") -> subprocess.CompletedProcess:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "SLICER")
    }
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT, capture_output=True, text=True, env=environment | {"FAIL_ON": fail_on},
    )  # fmt: skip


def calls(program: Path) -> list[list[str]]:
    lines = (program.parents[1] / "calls").read_text().splitlines()
    ends = [i for i, line in enumerate(lines) if line == "end"]
    return [lines[a + 1 : b] for a, b in zip([-1, *ends], ends, strict=False)]


SIDE_TESTS = sorted(
    file.name
    for file in (ROOT / "Testing" / "Python" / "slicer_side").glob("test_*.py")
    if file.name not in ("test_headless.py", "test_there.py")
)
"""They run in Slicer too."""

MODULE_PATHS = ["--additional-module-paths", str(MODULE_FOLDER)]
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_make_slicer_starts_slicer_with_the_modules(fake_slicer):
    done = make("slicer", f"SLICER={fake_slicer}")
    assert done.returncode == 0, done.stderr
    assert calls(fake_slicer) == [MODULE_PATHS]


@needs_make
def test_make_slicer_test_runs_every_module_with_and_without_window(fake_slicer):
    done = make("slicer-test", f"SLICER={fake_slicer}")
    assert done.returncode == 0, done.stderr
    wanted = []
    for file in sorted(MODULE_FOLDER.glob("*.py")) or [MODULE_FOLDER / "ContrastDiagnosis.py"]:
        code = f"import slicer.testing; slicer.testing.runUnitTest([], '{file.stem}')"
        for window in [], ["--no-main-window"]:
            wanted.append(
                ["--no-splash", "--testing", *window, *MODULE_PATHS, "--python-code", code]
            )
    in_slicer = calls(fake_slicer)
    assert in_slicer[: len(wanted)] == wanted
    script = str(ROOT / "Testing" / "slicer_side_tests.py")
    side = ["--no-splash", "--testing", *MODULE_PATHS, "--python-script", script]
    assert in_slicer[len(wanted) :] == len(SIDE_TESTS) * [side]
    lines = (fake_slicer.parents[1] / "engines").read_text().splitlines()
    assert set(lines) == {str(ROOT / ".venv" / "bin" / "python")}
    tests = (fake_slicer.parents[1] / "tests").read_text().split()
    assert [Path(name).name for name in tests] == SIDE_TESTS


@needs_make
@pytest.mark.parametrize("target", ["slicer-test", "slicer-story"])
def test_make_tells_slicer_which_engine_to_test_with(fake_slicer, target):
    done = make(target, f"SLICER={fake_slicer}", f"ENGINE={sys.executable}", "STORY_OUT=/tmp/s")
    assert done.returncode == 0, done.stderr
    engines = (fake_slicer.parents[1] / "engines").read_text().splitlines()
    assert set(engines) == {sys.executable}


@needs_make
@pytest.mark.parametrize("target", ["slicer-test", "slicer-story"])
def test_an_engine_without_its_packages_is_refused(fake_slicer, tmp_path, target):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = make(target, f"SLICER={fake_slicer}", f"ENGINE={python}")
    assert done.returncode != 0
    assert "no Python with the engine's packages" in done.stderr
    assert not (fake_slicer.parents[1] / "calls").exists()


@needs_make
@pytest.mark.parametrize("fail_on", ["--testing", "--no-main-window"])
def test_make_slicer_test_fails_if_one_run_fails_and_still_does_the_others(fake_slicer, fail_on):
    done = make("slicer-test", f"SLICER={fake_slicer}", fail_on=fail_on)
    assert done.returncode != 0
    assert "failed in Slicer:" in done.stderr
    assert "(--no-main-window)" in done.stderr
    both = "ContrastDiagnosis ContrastDiagnosis ("
    assert (both in done.stderr) == (fail_on == "--testing")
    modules = max(1, len(list(MODULE_FOLDER.glob("*.py"))))
    assert len(calls(fake_slicer)) == 2 * modules + len(SIDE_TESTS)


@needs_make
@pytest.mark.parametrize("target", ["slicer", "slicer-test"])
@pytest.mark.parametrize("what", ["nothing", "folder", "file", "missing"])
def test_a_slicer_that_cannot_run_is_refused_with_what_to_type(tmp_path, target, what):
    (tmp_path / "file").write_text("no program")
    given = {"nothing": "", "folder": tmp_path, "file": tmp_path / "file", "missing": "no/Slicer"}
    done = make(target, f"SLICER={given[what]}")
    assert done.returncode != 0
    assert f"make {target} SLICER=/path/to/Slicer" in done.stderr
    assert (f"'{given[what]}' is not a program" in done.stderr) == (what != "nothing")


# --- Other targets ---------------------------------------------------------------------------


@needs_make
def test_an_audit_that_could_not_look_is_no_success(tmp_path):
    """pip-audit ends with 0 where no package was found, unless it is strict."""
    python, audit = tmp_path / "bin" / "python", tmp_path / "bin" / "pip-audit"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho torch==2.4.0+cpu\n")
    audit.write_text('#!/bin/sh\nfor a in "$@"; do [ "$a" != --strict ] || exit 1; done\n')
    for program in python, audit:
        program.chmod(0o755)
    (tmp_path / ".ready").touch()
    done = make("audit", f"VENV={tmp_path}", f"--old-file={tmp_path / '.ready'}")
    assert done.returncode != 0
    assert (tmp_path / "installed.txt").read_text() == "torch==2.4.0\n"
    audit.write_text("#!/bin/sh\nexit 0\n")
    python.write_text("#!/bin/sh\nexit 1\n")
    done = make("audit", f"VENV={tmp_path}", f"--old-file={tmp_path / '.ready'}")
    assert done.returncode != 0, "nothing was listed"
