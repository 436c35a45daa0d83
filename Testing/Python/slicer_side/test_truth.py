"""No Qt or VTK object is tested for truth: to PythonQt an empty layout is false."""

from __future__ import annotations

import ast
import re

import pytest

from slicer_side.conftest import MODULES

FILES = sorted([*MODULES.glob("*.py"), *(MODULES / "ContrastDiagnosisLib").rglob("*.py")])

WORDS = """
    node volume widget layout display segment segmentation composite manager process browser
    database hierarchy legend renderer view window reply timer box panel button label camera
    cursor transform image pixmap
"""
OBJECTS = set(WORDS.split())
"""Last words of names that stand for objects of Qt, CTK, VTK or MRML."""


def asked_for_truth(tree):
    """What an `if`, `not`, `and`, `or`, `while` or conditional expression asks the truth of."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield node.test
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.comprehension):
            yield from node.ifs


def name_of(expression):
    """The last name of `a`, `a.b`, `(a := ...)`; empty for anything else."""
    if isinstance(expression, ast.NamedExpr):
        expression = expression.target
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_no_object_is_tested_for_truth(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    for expression in asked_for_truth(tree):
        words = re.findall("[A-Z]?[a-z]+", name_of(expression))
        if words and words[-1].lower() in OBJECTS:
            found.append(f"{file.name}:{expression.lineno}: {ast.unparse(expression)}")
    assert not found, found
