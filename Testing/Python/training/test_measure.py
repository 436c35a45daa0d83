"""The record of a figure of maps."""

from __future__ import annotations

import json

import pytest
from contrastdiagnosis_training.evaluation.maps.measure import Measure, as_records, of_records


def test_records_come_back_from_json():
    values = {
        Measure("deletion", "gaussian", "off-centre", "vote"): 0.25,
        Measure("energy"): 1.0,
    }
    assert of_records(json.loads(json.dumps(as_records(values)))) == values


@pytest.mark.parametrize(
    ("what", "score", "lower"),
    [
        ("deletion", "distance", True), ("deletion", "vote", True),
        ("deletion", "raw distance", False), ("insertion", "distance", False),
        ("insertion", "vote", False), ("insertion", "raw distance", True), ("energy", "", False),
    ],
)  # fmt: skip
def test_which_end_is_better(what, score, lower):
    """Voxels of evidence that go take the closeness with them, and drive the pair apart."""
    assert Measure(what, score=score).lower_is_better == lower


def test_words_name_the_place_where_it_matters():
    assert Measure("deletion", score="distance").words == "deletion distance"
    assert Measure("deletion", "map", "off-centre", "vote").words == "deletion vote off-centre"
    assert Measure("energy").words == "energy centred"
