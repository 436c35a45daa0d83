"""Every figure of the shipped model card names a command that there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
from contrastdiagnosis_training.commands.main import Command

CARD = Path(__file__).parents[3] / "Resources" / "Bundles" / "lidc" / "MODEL_CARD.md"
CLASSES = {subcommand.name: cls for cls, subcommand in map(get_args, get_args(Command))}


def sections() -> dict[str, str]:
    """The card's text by its headings."""
    parts = re.split(r"^## ", CARD.read_text(), flags=re.MULTILINE)[1:]
    return dict(part.split("\n", 1) for part in parts)


@pytest.mark.parametrize("name", ["Measured", "Concepts", "What is not judged"])
def test_every_part_with_metrics_names_its_command(name):
    """Each table has its command in front of it or behind it, before the next table."""
    text = sections()[name]
    tables = len(re.findall(r"^\|---", text, flags=re.MULTILINE))
    assert tables and len(re.findall(r"contrastdiagnosis-train", text)) >= tables


def test_the_commands_are_there_with_their_options():
    commands = re.findall(r"`contrastdiagnosis-train ([^`]+)`", CARD.read_text())
    assert len(commands) >= 4
    for command in commands:
        name, *options = command.split()
        known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(CLASSES[name])}
        assert set(options) <= known, command
