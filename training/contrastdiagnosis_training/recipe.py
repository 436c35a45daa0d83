"""`Recipe`: everything that decides what the weights become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from contrastdiagnosis.cases import RATINGS
from contrastdiagnosis.network import NoduleNetConfig

from contrastdiagnosis_training.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """One way to train; the defaults are what the shipped bundle was trained with."""

    network: NoduleNetConfig = field(
        default_factory=lambda: NoduleNetConfig(ratings=len(RATINGS) + 1)
    )
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(flip_slices=True, context=True)
    )
    epochs: int = 40
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
    sure_pairs: bool = True
    """Weigh pairs by how sure the readers were of both labels."""
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
    sure_pairs=False,
)
"""ContrastDiagnosis as published (arXiv:2403.05280); what it leaves open is set as in METHODS 1."""

RECIPES = {"default": Recipe(), "paper": PAPER}
