"""A small bundle and a small CT that the engine's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle import BundleInfo, load_bundle, save_bundle
from contrastdiagnosis.cases import RATINGS, Case, CaseLibrary
from contrastdiagnosis.network import NoduleNet, NoduleNetConfig
from contrastdiagnosis.phantom import PhantomNodule, make_phantom
from contrastdiagnosis.vote import Calibration, VoteRule

TINY = NoduleNetConfig(channels=(4, 6, 8, 10), embedding=5, ratings=3)
FIGURES = {
    "auc": 0.5,
    "auc_ci": [0.4, 0.6],
    "auc_diameter": 0.5,
    "auc_6_12mm": 0.5,
    "accuracy": 0.5,
}
NODULE = PhantomNodule((60.0, -10.0, 8.0), 14.0)


def write_tiny_bundle(folder: Path, cases: int = 40) -> Path:
    """A sound bundle of an untrained network; its mask head fires on whatever is dense."""
    torch.manual_seed(0)
    network = NoduleNet(TINY).eval()
    random = np.random.default_rng(0)
    table = [
        Case(
            case_id=f"P{n // 2}_{n % 2}",
            patient_id=f"P{n // 2}",
            malignant=n % 3 == 0,
            diameter_mm=float(4 + n % 17),
            ratings={name: 1 + float(random.integers(0, 9)) / 4 for name in RATINGS},
            series_uid=f"1.2.3.{n}",
            center_ras_mm=(1.0, 2.0, float(n)) if n % 2 else None,
            source="made",
        )
        for n in range(cases)
    ]
    info = BundleInfo(
        name="tiny",
        version="1",
        vote=VoteRule(5, 0.5),
        calibration=Calibration(1.2, -0.1),
        training_data="Nothing: it is a test.",
        metrics={"exclude3": FIGURES, "protocol": "None."},
        recipe={"epochs": 0},
        citation="Nobody, nowhere.",
    )
    library = CaseLibrary(table, random.normal(size=(cases, TINY.embedding)).astype(np.float32))
    save_bundle(folder, info, network, library, random.gamma(2, 1, 200))
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def own_bundle_folder(tmp_path):
    """A copy that a test may damage."""
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def phantom():
    return make_phantom([NODULE], shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9))
