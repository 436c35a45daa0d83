"""Runs a module's own tests as `slicer.testing` does."""

from __future__ import annotations

import sys
import unittest


def exitSuccess() -> None:
    pass


def exitFailure(message: str = "") -> None:
    raise Exception(message)


def runUnitTest(path, testname: str) -> None:
    """All unittest classes of a module; an exception if one test fails."""
    sys.path.extend([path] if isinstance(path, str) else path)
    suite = unittest.TestLoader().loadTestsFromName(testname)
    if not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful():
        exitFailure()
