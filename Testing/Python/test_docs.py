"""The pages for readers: what they name is there."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from test_layers import ROOMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = [ROOT / "ContrastDiagnosisSlicer", ROOT / "training" / "contrastdiagnosis_training"]
PAGES = [
    *sorted(DOCS.glob("*.md")),
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "training/README.md")
    ),
]
page = pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(file: Path) -> set[str]:
    return {anchor(h) for h in re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)}


@cache
def names_in(file: Path) -> set[str]:
    """Functions, classes, fields and constants that a module defines, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


def modules(name: str) -> list[Path]:
    """Files of this name, or of this end of a path, such as imaging/patch.py."""
    return [f for folder in FOLDERS for f in folder.rglob("*.py") if f"/{f}".endswith(f"/{name}")]


@page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not place or place in anchors(file), target


@page
def test_named_code_is_there(page):
    """`file.py` and `file.py: name`, such as in docs/methods.md."""
    for file, names in re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", page.read_text()):
        found = modules(file) or [f for f in [ROOT / file] if f.is_file()]
        assert found or list(ROOT.glob(f"Testing/**/{file}")), file
        for name in filter(None, names.split(".")):
            assert any(name in names_in(f) for f in found), f"{file}: {names}"


def test_sections_that_the_code_cites_are_there():
    """By number, as in "docs/methods.md 6.5", with those of tests after a colon."""
    numbers = set(
        re.findall(r"^#+ (\d(?:\.\d)?) ", (DOCS / "methods.md").read_text(), re.MULTILINE)
    )
    cited = 0
    for folder in (*FOLDERS, ROOT / "Testing" / "Python"):
        for file in folder.rglob("*.py"):
            for places in re.findall(
                r"docs/methods\.md\s+((?:\d(?:\.\d)?(?:, )?)+)", file.read_text()
            ):
                cited += 1
                assert set(filter(None, places.split(", "))) <= numbers, f"{file.name}: {places}"
    assert cited > 30


def test_what_is_outside_the_repository_is_not_cited():
    for folder in FOLDERS:
        for file in folder.rglob("*.py"):
            assert not re.search(r"METHODS \d|DESIGN\.md|shared/", file.read_text()), file.name


@pytest.mark.parametrize("folder", list(ROOMS))
def test_the_picture_of_the_rooms_shows_them_all(folder):
    picture = (DOCS / "rooms.svg").read_text()
    column = picture[picture.index(f": {Path(folder).name}<") :]
    rooms = [r for r in reversed(ROOMS[folder]) if (ROOT / folder / r).is_dir()]
    shown = re.findall(r'font-weight="600">(\w+)<', column)[: len(rooms)]
    assert sorted(shown) == sorted(rooms)


def test_the_page_of_the_server_tells_every_route_document_and_field(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "http_tables", raising=False)
    from http_tables import PLACE, on_page_markdown, openapi_document

    document = openapi_document()
    page = on_page_markdown((DOCS / "api" / "http.md").read_text())
    assert PLACE not in page
    tables = page[page.index("## Routes") :]
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"| `{method.upper()} {path}` |" in tables
    headings = set(re.findall(r"^### (\w+)$", tables, re.MULTILINE))
    assert headings == set(document["components"]["schemas"])
    for name, schema in document["components"]["schemas"].items():
        part = tables[tables.index(f"### {name}\n") :].partition("\n### ")[0]
        assert re.findall(r"^\| `(\w+)`", part, re.MULTILINE) == list(schema["properties"])
    linked = set(re.findall(r"\]\(#(\w+)\)", tables))
    assert linked <= {heading.lower() for heading in headings}
    for line in tables.splitlines():
        assert not line.startswith("|") or line.count(" | ") in (2, 3, 5), line


def test_every_page_is_in_the_contents():
    contents = (ROOT / "mkdocs.yml").read_text()
    for file in DOCS.rglob("*.md"):
        assert str(file.relative_to(DOCS)) in contents
