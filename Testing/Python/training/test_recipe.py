"""Recipes by name, with single options changed."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.commands import main as cli
from contrastdiagnosis_training.network.recipe import PAPER, Recipe, changed_recipe, chosen_recipe


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
    ("change", "name", "value"),
    [
        ("learning-rate=1e-4", "learning_rate", 1e-4),
        ("weight_decay=1", "weight_decay", 1.0),
        ("margin=-0.5", "margin", -0.5),
        ("network.mask-pooling=False", "network.mask_pooling", False),
        ("schedule=sgdr", "schedule", "sgdr"),
        ("augmentation.gamma=0.9,1.1", "augmentation.gamma", (0.9, 1.1)),
        ("network.channels=(8, 16, 32)", "network.channels", (8, 16, 32)),
        ("network.channels=(8,)", "network.channels", (8,)),
    ],
)
def test_a_change_is_read_by_the_type_of_its_option(change, name, value):
    changed = attrgetter(name)(chosen_recipe("default", None, [change]))
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize("base", [Recipe(), PAPER])
def test_a_change_leaves_all_else_as_it_was(base):
    assert changed_recipe(base, ["omega=2"]) == replace(base, omega=2.0)
    assert changed_recipe(base, ["augmentation.far=1"]) == replace(
        base, augmentation=replace(base.augmentation, far=1.0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weight_decay", "wanted a change such as weight_decay=0.1, got 'weight_decay'"),
        ("colour=3", "no option is called colour; there are network.channels, .*, epochs, .*"),
        ("help=1", "no option is called help; there are network.channels"),
        ("network.depth=3", "no option is called network.depth; there are network.channels"),
        ("epochs=many", "option epochs is 30; it cannot become 'many'"),
        ("epochs=3.5", "option epochs is 30; it cannot become '3.5'"),
        ("epochs=", "option epochs is 30; it cannot become ''"),
        ("epochs=3 4", "option epochs is 30; it cannot become '3 4'"),
        ("epochs=--help", "option epochs is 30; it cannot become '--help'"),
        ("epochs.more=3", "no option is called epochs.more; there are"),
        ("network=3", "no option is called network; there are network.channels"),
        ("omega=True", "option omega is 1.5; it cannot become 'True'"),
        ("omega=nan", "option omega is 1.5; it cannot become 'nan'"),
        ("omega=inf", "option omega is 1.5; it cannot become 'inf'"),
        ("sure_pairs=1", "option sure_pairs is True; it cannot become '1'"),
        ("schedule=linear", "option schedule is 'cosine'; it cannot become 'linear'"),
        ("augmentation.gamma=0.9", "option augmentation.gamma is .*; it cannot become '0.9'"),
        ("augmentation.gamma=(1, x)", "option augmentation.gamma is .*; it cannot become"),
    ],
)
def test_a_wrong_change_says_what_was_wanted(change, message, capsys):
    with pytest.raises(InputError, match=message):
        chosen_recipe("default", None, [change])
    # One sentence, and not tyro's box beside it.
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["fit", "crossfit"])
def test_a_wrong_change_ends_a_command_before_anything_is_read(command, tmp_path, capsys):
    arguments = ["--cases", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.main([command, *arguments, "--change", "clip=1", "epochs=many"]) == 2
    told = "contrastdiagnosis-train: option epochs is 30; it cannot become 'many'\n"
    assert capsys.readouterr().err == told
    assert not (tmp_path / "out").exists()
