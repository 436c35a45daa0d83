"""`ConceptRecipe`: everything that decides what a concept head becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contrastdiagnosis.concepts.fit import ABSENT_PENALTY, DECISION_PENALTY, DROPOUT

from contrastdiagnosis_training.network.recipe import changed_recipe


@dataclass(frozen=True)
class ConceptRecipe:
    """How a head is trained; the defaults are what the shipped bundle was trained with."""

    prototypes: int = 10
    """M, a concept."""
    width: int = 64
    blocks: int = 2
    whole: bool = True
    """Let cells also know the embedding of the nodule that they are a part of; False: only what is
    near them."""
    rectified: bool = True
    """Count similarities below 0 as 0, in training as in use, so that boxes can only lower them;
    published is to cut them off under boxes alone."""
    views: int = 6
    """Augmented views of each nodule, encoded once."""
    concept_epochs: int = 12
    prototype_epochs: int = 30
    batch: int = 32
    concept_rate: float = 5e-3
    prototype_rate: float = 2e-3
    weight_decay: float = 0.01
    margin: float = 0.1
    """delta."""
    margin_sign: int = -1
    """-1 is a true margin, +1 what arXiv:2503.06873 prints."""
    scale: float = 20.0
    """lambda."""
    gamma: tuple[float, float] = (10.0, 10.0)
    """First and last sharpness of the choice among prototypes, annealed geometrically; published
    is 1000 throughout, which leaves all but one prototype a concept dead."""
    reseed: bool = False
    """Move prototypes that nobody chose for an epoch onto items that none covers well."""
    contrast_shown: bool = False
    """Tell a concept also from the others that the same nodule shows, as published; False: only
    from those that it lacks. Steps of one measure, such as size, are always shown together."""
    cell_weight: float = 1.0
    """Weight of the loss of a random cell that shows the concept, beside that of the averaged
    vectors."""
    presence_weight: float = 3.0
    """Weight of the cross-entropy between highest similarity and readers: what inference reads is
    what is trained. 0 is the published loss."""
    outside_weight: float = 3.0
    """Weight of keeping similarities low in cells that cannot show the concept, because no reader
    marked them or their densities are others. 0 is the published loss."""
    places: bool = True
    """Tell where a concept is by the image, or by the readers' disagreement, where these can tell;
    False: anywhere in the nodule."""
    soft_labels: bool = True
    """Shares of readers instead of their majority."""
    mask_prior: bool = True
    """Pool concept maps, and start the spatial softmax, where the network sees the nodule; False is
    the published pooling over the whole image, of which a nodule is a small part."""
    alive_only: bool = False
    """Leave out prototypes that come nearest to no training nodule with the concept, before
    presence and decision are fitted: a smaller atlas."""
    dropout: float = DROPOUT
    """Share of the concepts denied by most readers that are rejected in each training row of the
    decision."""
    penalty: float = DECISION_PENALTY
    """Of the decision's squared weights."""
    absent_penalty: float = ABSENT_PENALTY
    """Of the squared logits that concepts add where readers do not see them."""


PAPER = ConceptRecipe(
    prototypes=100,
    width=256,
    blocks=3,
    whole=False,
    margin_sign=1,
    gamma=(1000.0, 1000.0),
    contrast_shown=True,
    cell_weight=0.0,
    presence_weight=0.0,
    outside_weight=0.0,
    places=False,
    soft_labels=False,
    mask_prior=False,
    dropout=0.0,
    absent_penalty=0.0,
)
"""CSR as published (arXiv:2503.06873; delta, lambda and gamma of its supplement), on this network's
cells. Not as published: `Projector` normalises by layers, and similarities are cut off at 0 not
only under boxes, so that these change nothing where they weigh by 1 (docs/methods.md 6.3, 6.5). Its
rejection is the mode "zero" of a revision."""

RECIPES = {"default": ConceptRecipe(), "paper": PAPER}


def chosen_concept_recipe(name: str, changes: Sequence[str] = ()) -> ConceptRecipe:
    """A recipe by name, with single options changed.

    Args:
        name: "default" or "paper".
        changes: Such as "prototypes=50" or "margin_sign=1".

    Raises:
        InputError: There is no such option, or the value is not of its kind.
    """
    return changed_recipe(RECIPES[name], changes)
