"""Signatures of bundles: who made it. The checksums tell only that nothing was damaged since.

Ed25519 (RFC 8032) over `bundle.json`, which names the SHA-256 of every other file but the pictures
that users add.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Any

from contrastdiagnosis.bundle.bundle import INFO_FILE, SIGNATURE_FILE, load_bundle
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_text
from contrastdiagnosis.files.output import check_writable, write_file

CONTEXT = b"ContrastDiagnosis bundle 1\n"
"""Stands before what is signed, so that no signature of something else fits."""


def make_keys(private: Path, public: Path) -> None:
    """Draws a pair of keys and writes both as PEM; the private one for its owner's eyes alone.

    Raises:
        InputError: A file is there already or cannot be written.
    """
    _, ed25519, serialization = _cryptography()
    for file in (private, public):
        if file.exists():
            raise InputError(f"cannot write {file}: it exists already")
        check_writable(file)
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    try:
        opened = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"cannot write {private}: {error.strerror}") from error
    with os.fdopen(opened, "wb") as stream:
        stream.write(secret)
    told = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_file(public, told)


def sign_bundle(folder: Path, private: Path) -> None:
    """Signs a sound bundle; an older signature is replaced.

    Raises:
        InputError: The bundle is damaged, or the key cannot be used.
    """
    _, ed25519, serialization = _cryptography()
    load_bundle(folder)
    try:
        key = serialization.load_pem_private_key(read_text(private).encode(), None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{private} is no private key in PEM without a password") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{private} is no Ed25519 key")
    signature = base64.b64encode(key.sign(CONTEXT + (folder / INFO_FILE).read_bytes()))
    write_file(folder / SIGNATURE_FILE, signature + b"\n")


def check_signature(folder: Path, public: Path) -> None:
    """Checks who made a bundle; that it is sound is `load_bundle`'s to check.

    Raises:
        InputError: There is no signature, it is of another key or bundle, or the key cannot be
            used.
    """
    exceptions, ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_public_key(read_text(public).encode())
    except ValueError as error:
        raise InputError(f"{public} is no public key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"{public} is no Ed25519 key")
    file = folder / SIGNATURE_FILE
    if not file.is_file() or file.is_symlink():
        raise InputError(f"{folder} is not signed: it has no {SIGNATURE_FILE}")
    try:
        signature = base64.b64decode(read_text(file).strip(), validate=True)
        key.verify(signature, CONTEXT + (folder / INFO_FILE).read_bytes())
    except (exceptions.InvalidSignature, binascii.Error, InputError) as error:
        raise InputError(
            f"{folder} was not signed by the owner of {public}, or was changed since"
        ) from error


def _cryptography() -> tuple[Any, Any, Any]:
    """The modules that are needed of the package.

    Raises:
        InputError: It is not installed.
    """
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError("signing needs more: pip install 'contrastdiagnosis[sign]'") from error
    return exceptions, ed25519, serialization
