"""The arrows between the layers point one way (README, "Where things are")."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLICER = {"slicer", "qt", "vtk", "ctk", "mrml", "SlicerWrapper", "PythonQt"}
LAYERS = {
    "ContrastDiagnosisSlicer/contrastdiagnosis": SLICER
    | {"ContrastDiagnosisLib", "contrastdiagnosis_training"},
    "training/contrastdiagnosis_training": SLICER | {"ContrastDiagnosisLib"},
    "ContrastDiagnosisSlicer/ContrastDiagnosisLib": {
        "torch", "monai", "safetensors", "contrastdiagnosis_training",
    },
}  # fmt: skip
"""What the files of a folder must not import."""

ROOMS = {
    "ContrastDiagnosisSlicer/contrastdiagnosis": (
        "errors", "protocol", "imaging", "files", "model", "cases", "maps", "concepts", "trust",
        "bundle", "diagnosis", "report", "service", "commands", "__main__",
    ),
    "ContrastDiagnosisSlicer/ContrastDiagnosisLib": (
        "Engine", "Scene", "Session", "Panels", "SamplePhantom", "SelfTest",
    ),
    "training/contrastdiagnosis_training": (
        "progress", "data", "objectives", "network", "runs", "peers", "pretraining",
        "concept_head", "evaluation", "bundle_export", "commands",
    ),
}  # fmt: skip
"""Of a package, the lowest first: a room uses only itself and those before it."""

FILES = [(folder, file) for folder in LAYERS for file in sorted((ROOT / folder).rglob("*.py"))]


def imported(source: str) -> set[str]:
    """Top-level names of all modules that a source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
            "import_module",
        ):
            names |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("folder", "file"), FILES, ids=[str(f.relative_to(ROOT)) for _, f in FILES]
)
def test_a_file_imports_nothing_of_the_layers_above(folder, file):
    assert not imported(file.read_text()) & LAYERS[folder]


def used_rooms(source: str, package: str) -> set[str]:
    """Rooms of a package that a source imports from, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # A room itself may be what is imported: from contrastdiagnosis import trust.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {p[1] for p in parts if p[0] == package and len(p) > 1}


@pytest.mark.parametrize("folder", ROOMS)
def test_every_room_has_its_place_in_the_order(folder):
    found = {f.stem for f in (ROOT / folder).glob("*.py")} | {
        f.parent.name for f in (ROOT / folder).glob("*/__init__.py")
    }
    assert found - {"__init__"} == set(ROOMS[folder])


@pytest.mark.parametrize(
    ("folder", "file"),
    [(folder, file) for folder, file in FILES if folder in ROOMS],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else None,
)
def test_a_room_uses_only_rooms_below_it(folder, file):
    order = ROOMS[folder]
    room = file.relative_to(ROOT / folder).with_suffix("").parts[0]
    above = set(order[order.index(room) + 1 :]) if room in order else set(order)
    assert not used_rooms(file.read_text(), Path(folder).name) & above


@pytest.mark.parametrize(
    "source",
    [
        "from contrastdiagnosis.report.screen import render_report",
        "from contrastdiagnosis import report",
        "def f():\n    import contrastdiagnosis.report.screen",
    ],
)
def test_a_room_above_is_seen(source):
    assert used_rooms(source, "contrastdiagnosis") == {"report"}


@pytest.mark.parametrize(
    ("folder", "file"), FILES, ids=[str(f.relative_to(ROOT)) for _, f in FILES]
)
def test_slicer_imports_the_protocol_of_the_engine_and_nothing_else(folder, file):
    if folder.endswith("ContrastDiagnosisLib"):
        assert used_rooms(file.read_text(), "contrastdiagnosis") <= {"protocol", "errors"}


LIDC = "contrastdiagnosis.cases.lidc"
KNOW_LIDC = {
    "ContrastDiagnosisSlicer/contrastdiagnosis/cases/lidc.py",
    # What is not said to be another source's is LIDC-IDRI's: a folder, a bundle.
    "ContrastDiagnosisSlicer/contrastdiagnosis/cases/case_folder.py",
    "ContrastDiagnosisSlicer/contrastdiagnosis/bundle/info.py",
    # The default recipe is the one that the shipped bundle was trained by.
    "training/contrastdiagnosis_training/network/recipe.py",
}
FORM = {"subtlety", "internalStructure", "calcification", "lobulation", "spiculation", "texture"}
"""Ratings of LIDC-IDRI whose names stand for nothing else here, unlike margin or malignancy."""


def assumes_lidc(source: str) -> bool:
    """Whether a source imports LIDC-IDRI as a source of cases, or names its ratings."""
    nodes = list(ast.walk(ast.parse(source)))
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    asked = [
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith((".mean_rating", "ratings.get"))
        and isinstance(node.args[0], ast.Constant)
    ]
    return LIDC in modules or bool(FORM & {t for t in texts if isinstance(t, str)}) or bool(asked)


@pytest.mark.parametrize(
    ("folder", "file"), FILES, ids=[str(f.relative_to(ROOT)) for _, f in FILES]
)
def test_nothing_but_its_own_file_and_the_doors_knows_lidc(folder, file):
    if str(file.relative_to(ROOT)) not in KNOW_LIDC:
        assert not assumes_lidc(file.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "from contrastdiagnosis.cases.lidc import LIDC",
        "def f():\n    import contrastdiagnosis.cases.lidc",
        "x = row['spiculation']",
        "x = nodule.mean_rating('malignancy')",
        "x = case.ratings.get('malignancy', 0)",
    ],
)
def test_an_assumption_of_lidc_is_seen(source):
    assert assumes_lidc(source)


def test_those_that_may_know_lidc_are_there():
    assert all(assumes_lidc((ROOT / file).read_text()) for file in KNOW_LIDC)


def test_the_protocol_needs_numpy_alone():
    code = (
        "import sys; before = set(sys.modules);"
        "import importlib, pkgutil, contrastdiagnosis.protocol as room;"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__)];"
        "[importlib.import_module(f'contrastdiagnosis.protocol.{name}') for name in names];"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"contrastdiagnosis", "numpy"}


SERVER = {"answers", "app", "connections", "documents", "nodule_documents", "openapi", "problems"}
"""Modules of the room `service` that need the extra `server`."""


def test_only_serving_needs_what_the_server_needs():
    """`contrastdiagnosis diagnose` must run without the extra."""
    code = (
        "import sys, importlib, pkgutil, contrastdiagnosis as package;"
        "sys.modules |= dict.fromkeys(('fastapi', 'pydantic', 'starlette', 'uvicorn'));"
        "names = [m.name for m in pkgutil.walk_packages(package.__path__, 'contrastdiagnosis.')];"
        f"spared = {{f'contrastdiagnosis.service.{{n}}' for n in {sorted(SERVER)}}};"
        "assert spared < set(names), spared - set(names);"
        "spared.add('contrastdiagnosis.__main__');"
        "[importlib.import_module(n) for n in names if n not in spared]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("folder", list(LAYERS)[:2])
def test_the_layers_are_found(folder):
    assert sum(name == folder for name, _ in FILES) > 10


def test_the_networks_stay_in_the_engine():
    """A network is defined once, in the engine."""
    for folder, file in FILES:
        if folder != "ContrastDiagnosisSlicer/contrastdiagnosis":
            bases = [
                ast.unparse(base)
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.ClassDef)
                for base in node.bases
            ]
            assert not {"Module", "nn.Module", "torch.nn.Module"} & set(bases), file


@pytest.mark.parametrize(
    "source",
    [
        "import slicer",
        "import vtk.util.numpy_support as s",
        "from qt import QLabel",
        "def f():\n    import slicer.util",
        "if True:\n    from contrastdiagnosis_training.commands.fit import Fit",
        "import importlib\nimportlib.import_module('slicer')",
        "__import__('vtk')",
    ],
)
def test_a_forbidden_import_is_seen(source):
    assert imported(source) & LAYERS["ContrastDiagnosisSlicer/contrastdiagnosis"]


def test_what_only_looks_like_one_is_not():
    source = (
        "from . import slicer\nimport vtkless\n'import qt'\nfrom contrastdiagnosis import cases"
    )
    assert imported(source) == {"vtkless", "contrastdiagnosis"}
