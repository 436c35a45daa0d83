"""The notebooks run from the first cell to the last, and say what they promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SAYS = {
    "diagnosis.ipynb": ["malignant", "no nodule", "without the spiculation", "kB of HTML"],
    "training.ipynb": ["fold 2", "diameter alone", "balls", "Research use only"],
}


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Bootstraps of made nodules mean nothing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("contrastdiagnosis_training.objectives.metrics.BOOTSTRAPS", 50)
        patched.setattr("contrastdiagnosis_training.objectives.metrics.TREES", 20)
        yield


def cells(name: str, kind: str) -> list[str]:
    document = json.loads((NOTEBOOKS / name).read_text())
    return ["".join(c["source"]) for c in document["cells"] if c["cell_type"] == kind]


def test_every_notebook_is_run():
    assert {file.name for file in NOTEBOOKS.glob("*.ipynb")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_runs(name, capsys):
    scope: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(cells(name, "code"), start=1):
        exec(compile(source, f"{name}, cell {number}", "exec"), scope)
    printed = capsys.readouterr().out
    for words in SAYS[name]:
        assert words in printed


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_is_committed_without_outputs_and_says_what_it_is_for(name):
    document = json.loads((NOTEBOOKS / name).read_text())
    assert not [c for c in document["cells"] if c.get("outputs") or c.get("execution_count")]
    text = "\n".join(cells(name, "markdown"))
    assert "Research use only, not for clinical use" in text
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (NOTEBOOKS / link).exists(), link
