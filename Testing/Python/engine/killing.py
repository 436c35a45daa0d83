"""Kills a piece of work at each of its steps on the file system, one after the other."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link"}


def kills(work: Callable[[], object]) -> Iterator[int]:
    """Yields after every kill; the last run, which nothing stops, ends the loop after its yield.

    A fork works, and an audit hook kills it (SIGKILL) before its n-th step.
    """
    for number in count():
        child = os.fork()
        if child == 0:
            _kill_before(number)
            work()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0) or os.WIFSIGNALED(status)
        yield number
        if os.WIFEXITED(status):
            return


def _kill_before(number: int) -> None:
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event != "open" or arguments[1] not in (None, "r", "rb")
        if event in STEPS and writes:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
