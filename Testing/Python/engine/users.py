"""The environment of an engine as users have it, for the processes that tests start."""

from __future__ import annotations

import os
from pathlib import Path

HIDDEN = Path(__file__).parents[2] / "hidden_packages"
"""In place of packages that come along with those that only tests need. MONAI imports whatever is
there, so without them an engine starts in two thirds of the time, as it does for users."""

OWN_PATH = os.environ.get("PYTHONPATH", "")
"""PYTHONPATH of the tests themselves, also for the trainer: Lightning asks what is installed."""

USERS_PATH = os.pathsep.join(filter(None, (str(HIDDEN), OWN_PATH)))
"""PYTHONPATH that hides those packages."""
