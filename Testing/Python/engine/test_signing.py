"""Who made a bundle: signatures, keys, and what each of them notices."""

from __future__ import annotations

import json
import stat
import sys

import pytest
from contrastdiagnosis.bundle.bundle import INFO_FILE, SIGNATURE_FILE, load_bundle, sha256
from contrastdiagnosis.commands.main import main

from engine.conftest import write_tiny_bundle


@pytest.fixture
def keys(tmp_path, capsys):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    assert main(["bundle", "keys", str(private), str(public)]) == 0
    capsys.readouterr()
    return private, public


@pytest.fixture
def said(capsys):
    """Code and words of a command."""

    def ask(*arguments):
        code = main(["bundle", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out + told.err

    return ask


@pytest.fixture
def signed(own_bundle_folder, keys, said):
    assert said("sign", own_bundle_folder, "--key", keys[0])[0] == 0
    return own_bundle_folder


def test_a_signed_bundle_is_known_by_its_makers_key(signed, keys, said):
    code, told = said("verify", signed, "--key", keys[1])
    assert code == 0 and f"signed by the owner of {keys[1]}" in told
    code, told = said("verify", signed)
    assert code == 0 and "signed by" not in told


def test_checksums_alone_do_not_notice_who_changes_both_but_the_signature_does(signed, keys, said):
    cases = signed / "cases.csv"
    cases.write_bytes(cases.read_bytes().replace(b",1,", b",0,", 1))
    document = json.loads((signed / INFO_FILE).read_text())
    document["sha256"]["cases.csv"] = sha256(cases)
    (signed / INFO_FILE).write_text(json.dumps(document))
    assert said("verify", signed)[0] == 0
    code, told = said("verify", signed, "--key", keys[1])
    assert code == 2 and "was not signed by the owner of" in told


def test_another_key_and_no_signature_are_told(signed, keys, said, tmp_path):
    other = tmp_path / "a.pem", tmp_path / "b.pem"
    assert said("keys", *other)[0] == 0
    assert "was not signed by" in said("verify", signed, "--key", other[1])[1]
    (signed / SIGNATURE_FILE).write_text("nonsense")
    assert said("verify", signed, "--key", keys[1])[0] == 2
    (signed / SIGNATURE_FILE).unlink()
    code, told = said("verify", signed, "--key", keys[1])
    assert code == 2 and "is not signed" in told


def test_a_rewritten_bundle_has_lost_its_signature(signed):
    write_tiny_bundle(signed)
    assert load_bundle(signed) and not (signed / SIGNATURE_FILE).exists()


def test_keys_are_private_and_never_overwritten(keys, said):
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    before = keys[0].read_bytes()
    code, told = said("keys", *keys)
    assert code == 2 and "it exists already" in told and keys[0].read_bytes() == before


@pytest.mark.parametrize("which", ["public", "text", "none"])
def test_a_key_that_is_none_is_told(own_bundle_folder, keys, said, tmp_path, which):
    (tmp_path / "text").write_text("no key")
    file = {"public": keys[1], "text": tmp_path / "text", "none": tmp_path / "none"}[which]
    code, told = said("sign", own_bundle_folder, "--key", file)
    assert code == 2 and ("is no private key" in told or "cannot read" in told)
    assert not (own_bundle_folder / SIGNATURE_FILE).exists()


def test_a_damaged_bundle_is_not_signed(own_bundle_folder, keys, said):
    (own_bundle_folder / "cases.csv").write_text("")
    code, told = said("sign", own_bundle_folder, "--key", keys[0])
    assert code == 2 and "is damaged or was changed" in told


def test_without_the_package_it_is_said(own_bundle_folder, keys, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    code, told = said("verify", own_bundle_folder, "--key", keys[1])
    assert code == 2 and "contrastdiagnosis[sign]" in told
