"""`make attack` at a small size: every promise is tried, and a broken one is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.users import OWN_PATH

ROOT = Path(__file__).parents[3]


def test_the_attack_on_what_is_shipped_is_withstood(tmp_path):
    """All in one process, which takes seconds to start; README's block is tried by test_serve."""
    table = tmp_path / "table.json"
    command = [sys.executable, ROOT / "Testing" / "attack.py", "--small", "--only"]
    done = subprocess.run(
        [*map(str, command), "kills", "crowd", "nonsense", "memory", "--json", str(table)],
        capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": OWN_PATH},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(table.read_text())
    assert all(row["holds"] for row in rows)
    tried = (
        "a bundle is rewritten", "pictures are filled in", "a bundle is pruned", "report",
        "checkpoint", "settings", "silent connections", "changed bodies", "raw requests",
        "memory of the server", "60 MB with",
    )  # fmt: skip
    assert len(rows) == len(tried)
    for row, what in zip(rows, tried, strict=True):
        assert what in row["what"]


def test_what_is_lost_is_told(tmp_path):
    """A writer that overwrites in place loses what it acknowledged; the attack must see it."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "Testing")!r})
import attack
from pathlib import Path
file = Path({str(tmp_path / "f")!r})
def write(n):
    with file.open("w") as stream:
        for _ in range(500):
            stream.write(f"{{n}} " * 100); stream.flush()
def check(done):
    if len(set(file.read_text().split())) != 1 or file.stat().st_size < 100_000:
        raise ValueError("cut")
result = attack.killed("in place", write, check, 6)
assert not result.holds and "losses; ValueError: cut" in result.told, result
"""
    environment = os.environ | {"PYTHONPATH": OWN_PATH}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
