"""`Recipe`: everything that decides what the weights become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields, is_dataclass, replace
from io import StringIO
from typing import Any, Literal, TypeVar

import tyro
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNetConfig

from contrastdiagnosis_training.data.augment import Augmentation

T = TypeVar("T")


def outputs_for(case_source: CaseSource) -> int:
    """How many numbers a network learns to predict: the source's ratings and the diameter."""
    return len(case_source.scales) + 1


@dataclass(frozen=True)
class Recipe:
    """One way to train; the defaults are what the shipped bundle was trained with."""

    network: NoduleNetConfig = field(
        default_factory=lambda: NoduleNetConfig(ratings=outputs_for(LIDC))
    )
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(flip_slices=True, context=True, end_cuts=0.5, far=0.35)
    )
    epochs: int = 30
    mask_epochs: int = 5
    """First epochs with the segmentation loss alone: pooling under a mask needs a mask."""
    batch: int = 16
    """Nodules per step, half of each class."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    clip: float = 5.0
    """Largest norm of the gradient; 0 leaves it alone."""
    schedule: Literal["sgdr", "cosine"] = "cosine"
    """Cosine with warm restarts at epochs 10, 30, 70, 150 or one cosine over all epochs."""
    average: float = 0.99
    """Decay of the moving average of the weights; 0 keeps the last weights."""
    margin: float = 1.0
    """Distance m beyond which two nodules of different class are left alone."""
    omega: float = 1.5
    """Weight of the segmentation loss (arXiv:2403.05280)."""
    contrastive_weight: float = 1.0
    vote_weight: float = 1.0
    """Weight of the cross-entropy of the soft vote among the batch."""
    rating_weight: float = 5.0
    """Weight of the regression of the readers' ratings and the diameter from z."""
    concept_weight: float = 0.0
    """Weight of the concepts' cross-entropy (`concept_task`): above 0 the pyramid is tuned jointly
    with concept maps."""
    consistency_weight: float = 0.0
    """Weight of the squared distance between the embeddings of a view of a poorer scan and of the
    same view of the scan as it is, which is left where it is; with `augmentation.degraded`."""
    sure_pairs: bool = True
    """Weigh pairs by how sure the readers were of both labels."""
    shuffle_labels: bool = False
    """Give every training nodule the labels and ratings of another one: what such a network shows
    is no evidence, and `explain-eval --shuffled` looks whether its maps differ."""
    validate_every: int = 5
    """Epochs between two looks at the validation patients."""


PAPER = Recipe(
    network=NoduleNetConfig(mask_pooling=False, statistics=False, code_norm=False),
    augmentation=Augmentation(),
    epochs=150,
    mask_epochs=0,
    learning_rate=1e-3,
    weight_decay=0.0,
    clip=0.0,
    schedule="sgdr",
    average=0.0,
    vote_weight=0.0,
    rating_weight=0.0,
    consistency_weight=0.0,
    sure_pairs=False,
)
"""As published (arXiv:2403.05280); docs/methods.md 4.3 tells what that leaves open."""

RECIPES = {"default": Recipe(), "paper": PAPER}


def chosen_recipe(name: str, epochs: int | None = None, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name, with single options changed.

    Args:
        name: "default" or "paper".
        epochs: Instead of the recipe's own number.
        changes: Such as "weight_decay=0.1" or "network.statistics=False".

    Raises:
        InputError: As `changed_recipe`.
    """
    recipe = changed_recipe(RECIPES[name], changes)
    return replace(recipe, epochs=epochs or recipe.epochs)


def recipe_for(recipe: Recipe, case_source: CaseSource) -> Recipe:
    """The recipe with a network that predicts a source's ratings, if it predicts any."""
    if not recipe.network.ratings:
        return recipe
    return replace(recipe, network=replace(recipe.network, ratings=outputs_for(case_source)))


def changed_recipe(recipe: T, changes: Sequence[str]) -> T:
    """A recipe with single options changed, by the types of its fields.

    Args:
        recipe: A dataclass of values and of such dataclasses.
        changes: An option, also of a nested dataclass, and its value; several values, of a tuple,
            are separated by commas.

    Raises:
        InputError: There is no such option, or the value is not of its kind.
    """
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator:
            raise InputError(f"wanted a change such as weight_decay=0.1, got {change!r}")
        name, options = name.replace("-", "_"), dict(_options(recipe))
        if name not in options:
            raise InputError(f"no option is called {name}; there are {', '.join(options)}")
        try:
            recipe = _parsed(recipe, name, text)
        except (SystemExit, ValueError) as error:
            why = _own_reason(error)
            raise InputError(
                f"option {name} is {options[name]!r}; it cannot become {text!r}"
                + (f": {why}" if why else "")
            ) from None
    return recipe


def _own_reason(error: BaseException | None) -> str:
    """What the recipe itself said against a value, beneath what tyro made of that."""
    while error is not None:
        if isinstance(error, InputError):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


def _options(recipe: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The options of a recipe by the names that change them."""
    for option in fields(recipe):
        value = getattr(recipe, option.name)
        if is_dataclass(value):
            yield from _options(value, f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, value


def _parsed(recipe: T, name: str, text: str) -> T:
    """The recipe with one option read from text; tyro exits where this is of another type."""
    values = [value.strip() for value in text.strip("()").split(",") if value.strip()]
    with redirect_stderr(StringIO()):
        changed = tyro.cli(
            type(recipe),
            default=recipe,
            args=[f"--{name}", *values],
            config=(tyro.conf.FlagConversionOff,),  # statistics=False, not no-statistics.
        )
    # Infinity and NaN are floats too, but no settings.json can tell that a run had them.
    json.dumps(dict(_options(changed)), allow_nan=False)
    return changed
