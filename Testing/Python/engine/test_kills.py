"""A kill at any step loses nothing that was there, and whoever comes next finds a whole bundle."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import (
    CONCEPTS_FILE,
    INFO_FILE,
    PIXELS_FOLDER,
    load_bundle,
    save_bundle,
    sha256,
)
from contrastdiagnosis.bundle.pruning import prune_bundle
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.files.output import UNFINISHED, write_file, write_image
from contrastdiagnosis.imaging.patch import PatchGeometry
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text

from engine.killing import kills

PIXELS = b"the user's"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")


@pytest.fixture
def filled(own_bundle_folder):
    """A bundle with a picture and something of the user's own."""
    (own_bundle_folder / PIXELS_FOLDER).mkdir()
    (own_bundle_folder / PIXELS_FOLDER / "P0_0.safetensors").write_bytes(PIXELS)
    (own_bundle_folder / "notes.txt").write_text("mine")
    return own_bundle_folder


def whole(folder):
    """The bundle, which must be sound and have kept the user's files."""
    bundle = load_bundle(folder)
    assert (folder / PIXELS_FOLDER / "P0_0.safetensors").read_bytes() == PIXELS
    assert (folder / "notes.txt").read_text() == "mine"
    return bundle


def rewrite(folder, bundle, version, concepts=True):
    save_bundle(
        folder,
        replace(bundle.info, version=version),
        bundle.network,
        bundle.library,
        bundle.indicator.matched,
        bundle.concepts if concepts else None,
    )


@pytest.mark.parametrize("concepts", [True, False])
def test_a_bundle_that_is_rewritten(filled, tmp_path, concepts):
    bundle, seen = whole(filled), []
    for _ in kills(lambda: rewrite(filled, bundle, "new", concepts)):
        found = whole(filled)
        seen.append(found.info.version)
        assert not (filled / ".next").exists()
        assert (found.concepts is None) == (seen[-1] == "new" and not concepts)
        if seen[-1] == "new":  # Back to the old one, for the next kill.
            rewrite(filled, bundle, bundle.info.version)
    decided = seen.index("new")
    assert decided > 10 and set(seen[:decided]) == {bundle.info.version}
    assert set(seen[decided:]) == {"new"} and len(seen) - decided > 5


def test_a_writer_finishes_what_another_left(filled):
    """The next call may be a writing one too; it leaves no litter that stays."""
    bundle = whole(filled)
    for number in kills(lambda: rewrite(filled, bundle, "new")):
        rewrite(filled, bundle, f"next{number}")
        assert whole(filled).info.version == f"next{number}"
        left = {f.name for f in filled.iterdir() if f.name.startswith(".")}
        assert all(name.startswith(UNFINISHED) for name in left)


def stands(folder):
    """Whether there is a bundle, which then is sound."""
    there = (folder / INFO_FILE).is_file() or (folder / ".next").is_dir()
    return there and bool(load_bundle(folder))


def test_a_new_bundle_appears_whole_or_not(own_bundle_folder, tmp_path):
    bundle, out, seen = load_bundle(own_bundle_folder), tmp_path / "out", []
    for _ in kills(
        lambda: save_bundle(
            out, bundle.info, bundle.network, bundle.library, bundle.indicator.matched,
            bundle.concepts,
        )
    ):  # fmt: skip
        seen.append(stands(out))
        shutil.rmtree(out, ignore_errors=True)
    assert seen == sorted(seen) and seen[-1]


def test_a_pruning(own_bundle_folder, tmp_path):
    bundle = load_bundle(own_bundle_folder)
    first = bundle.concepts.atlas[0]
    file, out = tmp_path / "pruning.json", tmp_path / "out"
    head = sha256(own_bundle_folder / CONCEPTS_FILE)
    file.write_text(pruning_text(Pruning(head, ((first.concept, first.number),), {})))
    seen = []
    for _ in kills(lambda: prune_bundle(bundle, file, out)):
        assert load_bundle(own_bundle_folder).info == bundle.info
        seen.append(stands(out))
        shutil.rmtree(out, ignore_errors=True)
    assert seen == sorted(seen) and seen[-1]


def test_pictures_that_are_filled_in(own_bundle_folder):
    shape = PatchGeometry().shape
    solid = np.ones(shape, bool)
    store = PixelStore(own_bundle_folder / PIXELS_FOLDER)

    def fill(grey):
        for n in range(3):
            store.write(f"P{n}_0", CasePixels(np.full(shape, grey, np.float32), solid, solid))

    fill(0)
    for _ in kills(lambda: fill(1)):
        tones = [set(np.unique(store.read(f"P{n}_0").intensity)) for n in range(3)]
        assert all(tone in ({0.0}, {1.0}) for tone in tones)
        load_bundle(own_bundle_folder)


@pytest.mark.parametrize("name", ["d.json", "m.nii.gz", "m.nrrd"])
def test_a_report_or_a_mask(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"old")

    def write():
        if name == "d.json":
            write_file(file, b"new" * 1000)
        else:
            write_image(file, np.zeros((2, 3, 4), np.int16), np.eye(4))

    seen = [file.read_bytes() == b"old" for _ in kills(write)]
    assert seen == sorted(seen, reverse=True) and seen[0] and not seen[-1]
    assert file.stat().st_size > 20


def test_readers_see_a_whole_bundle_while_it_is_rewritten(filled):
    """Many times, in another process: never a mixture, never none."""
    bundle = whole(filled)
    child = os.fork()
    if child == 0:
        while True:
            for version in ("a", "b"):
                rewrite(filled, bundle, version)
    try:
        seen = {whole(filled).info.version for _ in range(60)}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {"a", "b"} <= seen
