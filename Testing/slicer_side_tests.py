"""The tests of `slicer_side` in a real Slicer: `make slicer-test SLICER=/path/to/Slicer`.

They use the engine's packages and pytest, which Slicer's Python need not have: these are installed
once into a folder beside `.venv`, so that Slicer's own stay as they are.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import slicer

MODULES = Path(slicer.modules.contrastdiagnosis.path).parent
ROOT = MODULES.parent
PACKAGES = ROOT / f".slicer-packages-{sys.version_info.major}.{sys.version_info.minor}"
TESTED = ROOT / "Testing" / "Python" / "slicer_side"
TOOLS = ("pytest", "keyring")
"""Beside the engine's own."""


def install() -> bool:
    """What the engine and the tests need, for Slicer's Python; whether it is there."""
    ready = PACKAGES / ".ready"
    if ready.exists():
        return True
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [line for line in optional["dev"] if re.split("[<>=]", line)[0] in TOOLS]
    print(f"Installing the engine's packages for Slicer's Python into {PACKAGES}", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(PACKAGES)]
    options = shlex.split(os.environ.get("PIP_ARGS", ""))
    packages = [*project["dependencies"], *optional["server"], *wanted]
    if subprocess.run([*command, *options, *packages]).returncode:
        print(
            "The packages were not installed; PIP_ARGS= hands options on to pip.", file=sys.stderr
        )
        return False
    ready.touch()
    return True


def run() -> int:
    """pytest's exit code, or 1 where it could not be installed."""
    if not install():
        return 1
    sys.path[:0] = [str(ROOT / "Testing" / "Python"), str(ROOT / "Testing"), str(MODULES)]
    sys.path.append(str(PACKAGES))  # Behind Slicer's own: its NumPy and VTK are tested.
    import pytest

    arguments = shlex.split(os.environ.get("SLICER_SIDE_TESTS", "")) or [str(TESTED)]
    # A package of Slicer's may warn of what it uses.
    options = ["-o", "filterwarnings=default", "-p", "no:cacheprovider", "--durations=5"]
    return int(pytest.main(["-c", str(ROOT / "pyproject.toml"), *options, *arguments]))


code = run()
sys.stdout.flush()
sys.stderr.flush()
# Panels that were made and deleted by the dozen: how Slicer ends is what the story tries.
os._exit(code)
