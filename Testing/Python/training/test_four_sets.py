"""What is measured of features of the four sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis_training.evaluation.robustness.four_sets import (
    SetFeatures,
    figures_text,
    set_features,
    set_figures,
    tsne_chart,
)
from contrastdiagnosis_training.pretraining.encoder import pooled_features, projected_encoder
from contrastdiagnosis_training.pretraining.recipe import SETS
from contrastdiagnosis_training.pretraining.sets import FourSets, Tissue

from training.conftest import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def features(lesion=0.0, quality=0.0, own=0.0, n=40, seed=0):
    """Features in which lesions, poor images and nodules stand out as far as is asked."""
    random = np.random.default_rng(seed)
    nodule = random.normal(0, own, (n, 6))
    told = SetFeatures({}, {}, {})
    for name in SETS:
        x = random.normal(0, 1, (n, 6))
        if name[0] == "L":
            x[:, 0] += lesion
            x += nodule
        if "~" in name:
            x[:, 1] += quality
        told.features[name] = x.astype(np.float32)
        told.patient[name] = np.arange(n) // 2 + (100 if name[0] == "H" else 0)
        told.member[name] = np.arange(n)
    return told


def test_what_stands_out_is_told_and_what_does_not_is_a_matter_of_chance():
    nothing = set_figures(features())
    for name in ("lesion", "lesion, poor", "quality"):
        assert 0.25 < nothing[name] < 0.75
    assert nothing["same nodule"] < 0.2
    lesion = set_figures(features(lesion=8))
    assert lesion["lesion"] > 0.99 and lesion["lesion, poor"] > 0.99
    assert 0.25 < lesion["quality"] < 0.75
    quality = set_figures(features(quality=8))
    assert quality["quality"] > 0.99 and 0.25 < quality["lesion"] < 0.75
    assert set_figures(features(own=30))["same nodule"] == 1


def test_a_patient_never_tells_of_itself():
    """What only a patient's own other patches know is not known of patients in general."""
    told = features(n=60)
    for name in SETS:
        code = np.random.default_rng(1).normal(0, 30, (300, 6))
        told.features[name] += code[told.patient[name]].astype(np.float32)
    assert set_figures(told)["lesion"] < 0.75


def test_one_patient_alone_tells_nothing():
    told = features()
    for patient in told.patient.values():
        patient[:] = 0
    assert math.isnan(set_figures(told)["lesion"])


def test_every_patch_is_a_dot_of_its_set():
    chart = tsne_chart("run", features(n=12))
    assert [(s.label, len(s.points)) for s in chart.series] == [(name, 12) for name in SETS]
    for s in chart.series:
        for x, y in s.points:
            assert chart.x_range[0] <= x <= chart.x_range[1]
            assert chart.y_range[0] <= y <= chart.y_range[1]
    again = tsne_chart("run", features(n=12))
    assert chart == again


def test_the_table_has_a_line_a_run():
    text = figures_text({"a": set_figures(features()), "b": set_figures(features(lesion=8))})
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["a", "b"]


def tissue(n, first):
    generator = torch.Generator().manual_seed(first)
    hu = torch.randint(-1000, 200, (n, 40, 80, 80), generator=generator, dtype=torch.int16)
    full = torch.full_like(hu, 2, dtype=torch.uint8)
    share = torch.zeros_like(full)
    share[:, 18:22, 36:44, 36:44] = 255
    poor = torch.arange(n) % 2 == 1
    return Tissue(hu, share if first == 0 else None, full, first + torch.arange(n), poor)


def test_features_are_those_of_the_centred_patches_of_the_members():
    torch.manual_seed(0)
    network = NoduleNet(TINY.network).eval()
    sets = FourSets(tissue(4, 0), tissue(3, 50), 3)
    told, again = set_features(network, sets), set_features(network, sets)
    assert {s: len(told.features[s]) for s in SETS} == {"L": 2, "L~": 4, "H": 2, "H~": 3}
    assert told.member["L"].tolist() == [0, 2] and told.patient["H~"].tolist() == [50, 51, 52]
    for name in SETS:
        np.testing.assert_array_equal(told.features[name], again.features[name])
    encoder = projected_encoder(network, 1).eval()
    views = sets.whole_views("L", torch.tensor([0, 2]), torch.Generator())
    assert views.shape == (2, 1, 32, 64, 64)
    with torch.inference_mode():
        wanted = pooled_features(encoder, views)
    np.testing.assert_allclose(told.features["L"], wanted, rtol=1e-4, atol=1e-6)
