"""A small made-up case folder: balls that differ in size and density, as real nodules do."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.imaging.volume import sitk_from_array
from contrastdiagnosis.model.network import NoduleNetConfig
from contrastdiagnosis_training.commands.crossfit import CrossFit, crossfit
from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.data.patch_store import load_patch_store
from contrastdiagnosis_training.network.recipe import Recipe
from engine.conftest import SOUND_FACTS
from filelock import FileLock

DATA = Path(__file__).parents[4] / "shared" / "data"
"""Real nodules, where the checkout has them beside it."""

TINY = Recipe(
    network=NoduleNetConfig(channels=(4, 6, 8, 10), embedding=6, ratings=10),
    augmentation=Augmentation(flip_slices=True, context=True),
    epochs=2,
    batch=8,
    mask_epochs=1,
    average=0.5,
    vote_weight=1.0,
    rating_weight=1.0,
    consistency_weight=0.0,
    sure_pairs=True,
)
TINY_PAPER = replace(
    TINY,
    network=NoduleNetConfig(
        channels=(4, 6, 8, 10), embedding=6, mask_pooling=False, statistics=False, code_norm=False
    ),
    augmentation=Augmentation(),
    schedule="sgdr",
    mask_epochs=0,
    average=0.0,
    vote_weight=0.0,
    rating_weight=0.0,
    sure_pairs=False,
)

COLUMNS = (
    "file", "patient_id", "cluster", "series_uid", "n_readers", "texture_readers",
    "malignancy_readers", "fold",
)  # fmt: skip


def write_case_folder(
    folder: Path,
    patients: int = 30,
    context: bool = False,
    seed: int = 0,
    folds: int = 5,
    radii_mm: tuple[float, float, float] = (2.5, 5, 8),
) -> Path:
    """Two nodules a patient; malignant ones are larger.

    Args:
        folder: Where.
        patients: How many.
        context: Show 15 mm above and below the nodule; else only its own slices.
        seed: Draws the nodules.
        folds: Patients go round these.
        radii_mm: Least of the benign ones, the border, largest of the malignant ones.
    """
    random = np.random.default_rng(seed)
    for part in ("image", "votes"):
        (folder / part).mkdir(parents=True)
    rows = [",".join(COLUMNS)]
    affine = np.diag([-0.7, -0.7, 1.25, 1.0])
    affine[:3, 3] = (10, 20, 30) if context else 0
    for n in range(2 * patients):
        malignant = n % 4 < 2 if n % 5 else n % 3 == 0
        radius = random.uniform(*(radii_mm[1:] if malignant else radii_mm[:2]))
        density = 30 if random.random() < 0.8 else -450
        k, j, i = np.mgrid[-19:20, -39:41, -39:41] * np.array([1.25, 0.7, 0.7])[:, None, None, None]
        distance = np.sqrt(k**2 + j**2 + i**2)
        hu = np.where(distance < radius, density, -860) + random.normal(0, 20, distance.shape)
        votes = sum((distance < radius + shift).astype(np.uint8) for shift in (-0.5, 0, 0.3, 0.6))
        kept = (
            slice(None)
            if context
            else slice(*(np.flatnonzero(votes.any((1, 2)))[[0, -1]] + [0, 1]))
        )
        for part, array in (("image", hu.astype(np.int16)), ("votes", votes)):
            image = sitk_from_array(np.ascontiguousarray(array[kept]), affine)
            sitk.WriteImage(image, str(folder / part / f"n{n}.nii.gz"))
        rating = "4 5 4 4" if malignant else ("3 3 3 3" if n % 7 == 0 else "1 2 2 3")
        patient = n // 2
        texture = "5 5 5 4" if density > 0 else "1 2 1 1"
        rows.append(
            f"n{n}.nii.gz,P{patient:03},{n % 2},1.2.{n},4,{texture},{rating},{patient % folds}"
        )
    (folder / "nodules.csv").write_text("\n".join(rows) + "\n")
    return folder


def add_ratings(folder: Path) -> Path:
    """Gives every nodule the ratings that the concepts need, four readers each."""
    random = np.random.default_rng(0)
    file = folder / "nodules.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for name in ("spiculation", "lobulation", "margin", "calcification", "sphericity"):
            highest = int(LIDC.scale(name).highest)
            middle = random.integers(1, highest + 1)
            values = np.clip(middle + random.integers(-1, 2, 4), 1, highest)
            row[f"{name}_readers"] = " ".join(map(str, values))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def sound_facts(count: int) -> np.ndarray:
    """(count, F) rows that nothing speaks against."""
    return np.tile(SOUND_FACTS.row, (count, 1))


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that the first process that asks for it makes; the others wait."""
    with FileLock(folder.with_suffix(".lock")):
        ready = folder / ".ready"
        if not ready.exists():
            folder.mkdir()  # A second try would find half of it: the first one failed.
            make(folder)
            ready.touch()
    return folder


@dataclass(frozen=True)
class MadeRun:
    """A cross-fit run and a run on all patients, in `cv` and `all` of a folder: not to be changed.

    Attributes:
        runs: The folder of both.
        folders: The cases: 48 nodules of 24 patients that end with the nodule, with the ratings of
            the concepts, and 16 of the first 8 with their surroundings.
        cache: Their patch store.
        recipe: What was trained.
    """

    runs: Path
    folders: tuple[Path, Path]
    cache: Path
    recipe: Recipe


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    """Trained once for all files and processes, as it takes a minute."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    recipe = replace(TINY, epochs=2, mask_epochs=1)

    def told(folder):
        return MadeRun(folder, (folder / "stacks", folder / "context"), folder / "cache", recipe)

    def make(folder):
        made = told(folder)
        stacks, context = made.folders
        add_ratings(write_case_folder(stacks, patients=24, folds=3, radii_mm=(1.5, 5, 9)))
        write_case_folder(context, patients=8, context=True, seed=1, folds=3)
        options = {"device": "cpu", "cache": made.cache}
        crossfit(CrossFit(made.folders, folder / "cv", **options), recipe)
        train(Fit(made.folders, folder / "all", **options), recipe)

    return told(made_once(shared / "made-run", make))


@pytest.fixture(scope="session")
def case_folder(tmp_path_factory):
    return write_case_folder(tmp_path_factory.mktemp("cases") / "stacks")


@pytest.fixture(scope="session")
def context_folder(tmp_path_factory):
    return write_case_folder(
        tmp_path_factory.mktemp("cases") / "context", patients=8, context=True, seed=1
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def store(case_folder, cache):
    return load_patch_store([case_folder], cache)


@pytest.fixture(scope="session")
def lidc_stacks():
    folder = DATA / "lidc_stacks"
    if not folder.is_dir():
        pytest.skip(f"no real nodules at {folder}")
    return folder


@pytest.fixture(scope="module")
def few_draws():
    """A module's bootstraps and forests take a tenth of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("contrastdiagnosis_training.objectives.metrics.BOOTSTRAPS", 100)
        patched.setattr("contrastdiagnosis_training.objectives.metrics.TREES", 50)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
