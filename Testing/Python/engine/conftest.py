"""A small bundle and a small CT that the engine's tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.bundle.bundle import ConceptPart, load_bundle, save_bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.library import Case, CaseLibrary
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.vote import Calibration, VoteRule
from contrastdiagnosis.concepts.atlas import Prototype
from contrastdiagnosis.concepts.cells import cell_channels
from contrastdiagnosis.concepts.head import Concept, ConceptConfig, ConceptHead
from contrastdiagnosis.imaging.image_quality import ImageQuality
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.phantom import PhantomNodule, make_phantom
from contrastdiagnosis.imaging.volume import sitk_from_array
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig
from contrastdiagnosis.model.stem import space_to_channels
from contrastdiagnosis.trust.cues import NoduleCues
from contrastdiagnosis.trust.facts import NEAR_MM, NoduleFacts

from engine.users import USERS_PATH

TINY = NoduleNetConfig(channels=(4, 6, 8, 10), embedding=5, ratings=3)
METRICS = {
    "auc": 0.5,
    "auc_ci": [0.4, 0.6],
    "auc_diameter": 0.5,
    "auc_6_12mm": 0.5,
    "accuracy": 0.5,
}
NODULE = PhantomNodule((60.0, -10.0, 8.0), 14.0)
RATINGS = [scale.name for scale in LIDC.scales]


CONCEPTS = (
    Concept("spiculated", "spiculation", at_least=3, reader_kappa=0.37, auroc=0.8),
    Concept("ill-defined margin", "margin", at_most=3, calibration=Calibration(1.1, 0.2)),
    Concept("calcified", "calcification", at_most=5),
)
PROTOTYPES = 4


SOUND_FACTS = NoduleFacts(
    covered_share=1.0, volume_mm3=500.0, long_mm=11.0, beyond_patch=0.0, unmeasured_share=0.0,
    edge_mm=NEAR_MM, cut_share=0.0, size_factor=1.0,
    quality=ImageQuality(lung_share=0.7, noise_hu=30.0, slice_mm=1.0),
    cues=NoduleCues(certainty=2.5, alone=2.5, elongation=0.1, density_hu=0.0, through=0.2),
)  # fmt: skip
"""Of a nodule that nothing speaks against."""


def with_quality(facts: NoduleFacts, **measured: float) -> NoduleFacts:
    """The facts of an image of which other things are measured."""
    return replace(facts, quality=replace(facts.quality, **measured))


def tiny_concepts(table: list[Case], seed: int = 0) -> ConceptPart:
    """An untrained head that decides something, its atlas and scores of the cases."""
    torch.manual_seed(seed)
    channels = cell_channels(TINY)
    config = ConceptConfig(len(CONCEPTS), PROTOTYPES, 8, 1, channels, rectified=True)
    head = ConceptHead(config).eval()
    head.requires_grad_(False)
    for name in ("presence_weight", "presence_bias", "decision_weight", "decision_bias", "absent"):
        buffer = getattr(head, name)
        buffer.copy_(
            torch.rand(buffer.shape) if name != "decision_weight" else torch.randn(buffer.shape)
        )
    head.absent.mul_(0.05)  # Low, so that what is seen adds more than what is not.
    scores = np.random.default_rng(seed).uniform(0, 1, (len(table), len(CONCEPTS), PROTOTYPES))
    atlas = tuple(
        Prototype(concept.name, m, table[(3 * k + m) % len(table)].case_id, (k, m, 3), 0.9, m)
        for k, concept in enumerate(CONCEPTS)
        for m in range(PROTOTYPES)
    )
    return ConceptPart(head, atlas, scores.astype(np.float32))


def fire_on_what_is_dense(network: NoduleNet) -> None:
    """Fits an untrained network's mask head so that it outlines the phantom's nodule, roughly."""
    phantom = make_phantom([NODULE], shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9))
    intensity = torch.from_numpy(crop_patch(phantom.volume, NODULE.center_ras_mm).intensity)
    seen: list[torch.Tensor] = []
    watching = network.mask_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(intensity[None, None])
        watching.remove()
        dense = space_to_channels((intensity > 0.5).float()[None, None])[0].flatten(1).T
        features = seen[0][0].flatten(1).T
        ones = torch.ones(len(features), 1)
        weight = 1 + dense.mean(dim=1, keepdim=True) * (1 / dense.mean() - 1)
        known = torch.cat([features, ones], dim=1) * weight.sqrt()
        wanted = (20 * dense - 10) * weight.sqrt()
        fitted = torch.linalg.lstsq(known, wanted).solution.T
        network.mask_head.weight.copy_(fitted[:, :-1, None, None, None])
        network.mask_head.bias.copy_(fitted[:, -1])


def write_tiny_bundle(folder: Path, cases: int = 40, with_concepts: bool = True) -> Path:
    """A sound bundle of an untrained network; its mask head fires on whatever is dense."""
    torch.manual_seed(0)
    network = NoduleNet(TINY).eval()
    fire_on_what_is_dense(network)
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
        metrics={"exclude3": METRICS, "protocol": "None."},
        recipe={"epochs": 0},
        citation="Nobody, nowhere.",
        concepts=CONCEPTS if with_concepts else (),
        concept_calibration=Calibration(0.9, 0.1),
    )
    library = CaseLibrary(table, random.normal(size=(cases, TINY.embedding)).astype(np.float32))
    part = tiny_concepts(table) if with_concepts else None
    save_bundle(folder, info, network, library, random.gamma(2, 1, 200), part)
    return folder


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """For the processes that a test starts."""
    monkeypatch.setenv("PYTHONPATH", USERS_PATH)


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


@pytest.fixture(scope="session")
def ct(tmp_path_factory, phantom):
    """The phantom as a file."""
    file = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    sitk.WriteImage(sitk_from_array(phantom.volume.hu, phantom.volume.ijk_to_ras), str(file))
    return file
