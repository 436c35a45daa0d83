"""Evaluation asks the product's own rule: the same nodules get the same judgement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.trust.confidence_rule import CaseLimits, NoduleGate
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.evaluation.confidences import confidence_of_nodules, limits_of
from contrastdiagnosis_training.evaluation.support_vote import support_of_bundle
from contrastdiagnosis_training.runs.predictions import predict_nodules
from engine.conftest import write_tiny_bundle

from training.conftest import write_case_folder

GATE = NoduleGate((1.0, 0.5, -1.0, 0.0, -1.0), 0.0, 2.5, (0.0,) * 5)
"""Lets some of the made nodules through."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    loaded = load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("judged") / "tiny"))
    limits = CaseLimits(sure_covered_share=0.5, max_diameter_mm=14.0, min_volume_mm3=60, gate=GATE)
    return replace(loaded, info=replace(loaded.info, limits=limits, split_vote=(0.3, 0.7)))


@pytest.mark.parametrize("context", [False, True])
def test_evaluation_and_product_judge_alike(bundle, tmp_path, context):
    folder = write_case_folder(tmp_path / "cases", patients=5, context=context, seed=3)
    rows = read_case_folder(folder)
    diagnoser = Diagnoser(bundle, "cpu")
    predictions = predict_nodules(bundle.network, rows, torch.device("cpu"), diagnoser)
    rule = (bundle.indicator.threshold, bundle.info.split_vote, bundle.info.limits)
    told = confidence_of_nodules(support_of_bundle(bundle), predictions, *rule)
    for n, (row, confidence) in enumerate(zip(rows, told, strict=True)):
        scan = read_scan(row)
        product = diagnoser.diagnose(scan.volume, scan.center_ras_mm, row.patient_id)
        np.testing.assert_allclose(product.facts.row, predictions.facts[n], rtol=1e-5, atol=1e-5)
        if context:
            assert product.confidence == confidence
        else:  # The file ends with the nodule: a reason for the product alone.
            assert not product.confidence.confident
            ends = ("measured nothing", "shows only", "ends on both sides")
            mine = [r for r in product.confidence.reasons if not any(e in r for e in ends)]
            assert set(mine) <= set(confidence.reasons)
    assert len({c.reasons for c in told}) > 1


def test_no_nodules_have_no_judgements(bundle, tmp_path):
    rows = read_case_folder(write_case_folder(tmp_path / "cases", patients=1))
    predictions = predict_nodules(bundle.network, rows, torch.device("cpu"))
    nobody = predictions[np.zeros(len(predictions), bool)]
    rule = (bundle.indicator.threshold, bundle.info.split_vote, bundle.info.limits)
    assert confidence_of_nodules(support_of_bundle(bundle), nobody, *rule) == []


def test_limits_let_their_own_nodules_through(bundle, tmp_path):
    rows = read_case_folder(write_case_folder(tmp_path / "cases", patients=10, context=True))
    facts = predict_nodules(bundle.network, rows, torch.device("cpu")).facts
    limits = limits_of(facts)
    volume = facts[:, FACT_NAMES.index("volume_mm3")]
    assert limits.min_volume_mm3 == pytest.approx(np.quantile(volume, 0.005), abs=0.1)
    assert limits.max_size_factor is None  # The network alone has no concepts.
