"""The model card: the shipped one to the byte, and what a bundle that knows less says."""

from __future__ import annotations

import dataclasses
import re

import pytest
from contrastdiagnosis.bundle.bundle import CARD_FILE, default_bundle_folder, load_bundle
from contrastdiagnosis.bundle.model_card import model_card


@pytest.fixture(scope="module")
def shipped():
    return load_bundle(default_bundle_folder())


def test_the_shipped_card_is_what_the_template_makes_of_its_bundle(shipped):
    made = model_card(shipped.info, shipped.library)
    assert made.encode() == (default_bundle_folder() / CARD_FILE).read_bytes()


def without(info, *names):
    return dataclasses.replace(
        info, metrics={n: v for n, v in info.metrics.items() if n not in names}
    )


def test_what_was_not_measured_leaves_no_gap(shipped):
    info = dataclasses.replace(shipped.info, metrics={}, recipe={}, concepts=(), citation="")
    card = model_card(info, shipped.library)
    assert "## Measured\n\nNot measured.\n\n## What is not judged\n\n" in card
    assert "## Training\n\nnot recorded\n\n## Licence and citation\n\nApache-2.0.\n" in card
    assert not re.search(r"\n{3}|\|---|None|undefined", card)


@pytest.mark.parametrize("name", ["concepts", "confidence", "gate"])
def test_a_part_that_was_not_measured_is_left_out(shipped, name):
    whole = model_card(shipped.info, shipped.library).split("\n\n")
    less = model_card(without(shipped.info, name), shipped.library).split("\n\n")
    assert len(less) < len(whole)
    assert [part for part in whole if part in less] == less


def test_markdown_is_not_escaped_as_html_nor_read_as_a_template(shipped):
    said = 'A & B <c> "d" {{ name }} {% if %}'
    card = model_card(dataclasses.replace(shipped.info, training_data=said), shipped.library)
    assert f"(mean rating of the readers above 3). {said}\n" in card


def test_a_card_of_lidc_12_s_form_is_written(shipped):
    """Pruning such a bundle writes its card anew: shares by its own borders are left out."""
    measured = dict(shipped.info.metrics["image_quality"])
    measured.pop("bands")
    measured["verdicts"] = [
        {"kind": "noise", "low": 0.1, "high": 0.9, "wrong_between": 0.3, "wrong_beyond": 0.05,
         "missed": 0.03}
    ]  # fmt: skip
    metrics = shipped.info.metrics | {"image_quality": measured}
    card = model_card(dataclasses.replace(shipped.info, metrics=metrics), shipped.library)
    assert "| noise | 0.100 | 0.900 | - | - | 0.030 |" in card
