"""Who may ask a server: one token, or a file of named clients, each with a token of its own."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import tyro

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_text
from contrastdiagnosis.files.output import check_writable, write_file

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

HEADER = (
    "# Clients of a ContrastDiagnosis server: a name and the SHA-256 of its token, one a line.\n"
)

log = logging.getLogger(__name__)


class Doorlist(Protocol):
    """Tells clients by their tokens."""

    def name_of(self, token: bytes) -> str | None:
        """The client's name; None for who is not let in."""


@dataclass(frozen=True)
class OneToken:
    """Whoever has the token is let in, and has no name."""

    token: str

    def name_of(self, token: bytes) -> str | None:
        """The empty name, or None."""
        return "" if hmac.compare_digest(token, self.token.encode()) else None


class ClientFile:
    """Clients by a file, which is read again whenever it has changed: who is revoked is out."""

    def __init__(self, file: Path) -> None:
        """Reads it.

        Raises:
            InputError: It cannot be used, or names nobody.
        """
        self.file = file
        self._hashes = read_clients(file)
        self._stamp = _stamp(file)
        if not self._hashes:
            raise InputError(f"{file} names no client; add one by contrastdiagnosis clients add")

    def name_of(self, token: bytes) -> str | None:
        """The client's name; None for who is not, or no longer, in the file."""
        self._follow()
        given, found = hashlib.sha256(token).hexdigest(), None
        for name, expected in self._hashes.items():  # All of them, whichever it is.
            if hmac.compare_digest(given, expected):
                found = name
        return found

    def _follow(self) -> None:
        stamp = _stamp(self.file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hashes = read_clients(self.file)
            log.info("clients", extra={"fields": {"clients": len(self._hashes)}})
        except InputError:
            # A damaged list lets nobody in, rather than somebody who may have been revoked.
            self._hashes = {}
            log.error("the file of clients cannot be read: nobody is let in")


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_clients(file: Path) -> dict[str, str]:
    """SHA-256 of every client's token, by name.

    Raises:
        InputError: The file cannot be read, or a line is none of its kind.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(" ")
        if not NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise InputError(f"{file}, line {number}: wanted a name and a SHA-256 in hex")
        if name in hashes:
            raise InputError(f"{file}, line {number}: {name} is there already")
        hashes[name] = digest
    return hashes


def _write_clients(file: Path, hashes: dict[str, str]) -> None:
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    write_file(file, (HEADER + lines).encode())


@dataclass(frozen=True)
class AddClient:
    """Let a client in: draw a token for it, print it once, keep its hash."""

    name: tyro.conf.Positional[str]
    """As it stands in the log: a workstation or a programme, no person."""
    file: Path
    """File of clients; made if it is not there."""

    def run(self) -> None:
        """Adds and prints."""
        if not NAME.fullmatch(self.name):
            raise InputError(
                "wanted a name of up to 40 letters, digits, dots, hyphens and underscores, got"
                f" {self.name!r}"
            )
        check_writable(self.file)
        hashes = read_clients(self.file) if self.file.is_file() else {}
        if self.name in hashes:
            raise InputError(f"{self.file} has {self.name} already; revoke it first")
        token = secrets.token_urlsafe(32)
        _write_clients(self.file, {**hashes, self.name: _digest(token)})
        print(token)


@dataclass(frozen=True)
class RevokeClient:
    """Let a client in no longer; a running server knows at the next request."""

    name: tyro.conf.Positional[str]
    """Of the client."""
    file: Path
    """File of clients."""

    def run(self) -> None:
        """Removes it."""
        check_writable(self.file)
        hashes = read_clients(self.file)
        if hashes.pop(self.name, None) is None:
            raise InputError(
                f"{self.file} has no {self.name}; it has {', '.join(hashes) or 'none'}"
            )
        _write_clients(self.file, hashes)
        print(f"{self.name} is let in no longer")


@dataclass(frozen=True)
class ListClients:
    """List the clients that are let in."""

    file: Path
    """File of clients."""

    def run(self) -> None:
        """Prints one name a line."""
        print("\n".join(read_clients(self.file)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class ClientsCommand:
    """Say who may ask a server: named clients, each with a token of its own."""

    command: Annotated[
        Annotated[AddClient, tyro.conf.subcommand("add")]
        | Annotated[RevokeClient, tyro.conf.subcommand("revoke")]
        | Annotated[ListClients, tyro.conf.subcommand("list")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Runs the chosen command."""
        self.command.run()
