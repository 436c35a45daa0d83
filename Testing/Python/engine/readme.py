"""README's block of commands for the server, by the letter, on a machine with a proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ran:
    """What became of the commands."""

    code: int
    out: str
    errors: str
    reached_proxy: bool
    commands: str


def run_serve_block(folder: Path) -> Ran:
    """Runs the block in a folder, with http_proxy set and no no_proxy, as in many hospitals."""
    section = (ROOT / "README.md").read_text().partition("## Serve\n")[2].partition("\n## ")[0]
    commands = section.partition("```sh\n")[2].partition("```")[0]
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".curlrc").write_text("output = /dev/null\n")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        elsewhere = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        known = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
        known |= {"http_proxy": elsewhere, "all_proxy": elsewhere}
        known |= {"TMPDIR": str(folder), "HOME": str(folder)}
        done = subprocess.run(
            ["sh", "-e", "-c", f"umask 022\n{commands}"], cwd=folder, env=known,
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        proxy.setblocking(False)
        try:
            proxy.accept()[0].close()
            reached = True
        except BlockingIOError:
            reached = False
    return Ran(done.returncode, done.stdout, done.stderr, reached, commands)
