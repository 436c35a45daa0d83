"""How every command of this project begins and ends, whatever the terminal and the mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Protocol

from contrastdiagnosis import __version__
from contrastdiagnosis.errors import InputError


class Command(Protocol):
    """A parsed command line."""

    def run(self) -> None:
        """Does what was asked."""


def speak_to_any_terminal() -> None:
    """Shows what a terminal's encoding lacks (cp1252, ASCII) as ? instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Not without a console, as under pythonw.
            stream.reconfigure(errors="replace")


def tells_version(arguments: Sequence[str] | None, program: str) -> bool:
    """Prints the version where `--version` alone is asked for, and tells whether it was."""
    asked = list(sys.argv[1:] if arguments is None else arguments) == ["--version"]
    if asked:
        print(f"{program} {__version__}")
    return asked


def exit_code_of(command: Command, program: str) -> int:
    """Runs a command; 0 on success, 2 where the user must mend something, 130 if interrupted."""
    try:
        command.run()
    except InputError as error:
        print(f"{program}: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _told(error: InputError) -> str:
    """The message, and the option that mends it."""
    option = error.setting.replace("_", "-")
    return f"{error}\nThe option for it is --{option}." if option else str(error)
