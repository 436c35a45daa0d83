"""Examples in docstrings say what really comes out."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ContrastDiagnosisSlicer/contrastdiagnosis", "training/contrastdiagnosis_training")


def modules_with_examples() -> list[str]:
    """Dotted names of the modules of engine and training that hold a `>>>`."""
    return [
        ".".join(file.relative_to((ROOT / package).parent).with_suffix("").parts)
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if ">>> " in file.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_hold(name, capsys):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed, capsys.readouterr().out


def test_both_packages_have_examples():
    names = modules_with_examples()
    assert {name.split(".")[0] for name in names} == {Path(p).name for p in PACKAGES}


def test_a_wrong_example_is_seen(capsys):
    def wrong():
        """
        >>> 1 + 1
        3
        """

    runner = doctest.DocTestRunner()
    (example,) = doctest.DocTestFinder().find(wrong, "wrong", globs={})
    assert runner.run(example).failed == 1
    assert "Expected:\n    3" in capsys.readouterr().out
