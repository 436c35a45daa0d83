"""The arrows between the layers point one way (README, "Where things are")."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLICER = {"slicer", "qt", "vtk", "ctk", "mrml", "SlicerWrapper", "PythonQt"}
LAYERS = {
    "ContrastDiagnosisSlicer/contrastdiagnosis": SLICER
    | {"ContrastDiagnosisLib", "contrastdiagnosis_training"},
    "training/contrastdiagnosis_training": SLICER | {"ContrastDiagnosisLib"},
    "ContrastDiagnosisSlicer/ContrastDiagnosisLib": {
        "torch", "monai", "contrastdiagnosis", "contrastdiagnosis_training",
    },
}  # fmt: skip
"""What the files of a folder must not import."""

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
        "if True:\n    from contrastdiagnosis_training.fit import Fit",
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
