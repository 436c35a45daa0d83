"""Recipes by name, with single options changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.network.recipe import PAPER, Recipe, chosen_recipe


def test_the_paper_recipe_has_the_published_settings():
    assert (PAPER.omega, PAPER.learning_rate, PAPER.schedule) == (1.5, 1e-3, "sgdr")
    assert not PAPER.rating_weight
    assert not PAPER.vote_weight
    assert PAPER.augmentation.probability == 0.8
    # Of each operation; the publication can be read otherwise too.
    assert not PAPER.augmentation.whole_chain
    chain = chosen_recipe("paper", None, ["augmentation.whole_chain=True"])
    assert chain.augmentation == replace(PAPER.augmentation, whole_chain=True)


def test_changes_reach_nested_options():
    changes = ["weight_decay=0.1", "network.statistics=False", "augmentation.gamma=(0.9, 1.1)"]
    recipe = chosen_recipe("default", 7, changes)
    assert recipe.epochs == 7
    assert recipe.weight_decay == 0.1
    assert not recipe.network.statistics
    assert recipe.augmentation.gamma == (0.9, 1.1)
    assert recipe.learning_rate == Recipe().learning_rate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weight_decay", "wanted a change such as weight_decay=0.1, got 'weight_decay'"),
        ("colour=3", "no option is called colour; there are network, augmentation, epochs"),
        ("network.depth=3", "no option is called depth; there are channels"),
        ("epochs=many", "option epochs is 30; it cannot become 'many'"),
        ("epochs.more=3", "option epochs is 30; it cannot become 3"),
        ("network=3", "option network is .*; it cannot become 3"),
    ],
)
def test_a_wrong_change_says_what_was_wanted(change, message):
    with pytest.raises(InputError, match=message):
        chosen_recipe("default", None, [change])
