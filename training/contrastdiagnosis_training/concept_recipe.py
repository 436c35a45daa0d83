"""`ConceptRecipe`: everything that decides what a concept head becomes."""

from __future__ import annotations

from dataclasses import dataclass

from contrastdiagnosis.concept_fit import ABSENT_PENALTY, DECISION_PENALTY, DROPOUT


@dataclass(frozen=True)
class ConceptRecipe:
    """How a head is trained; the defaults are what the shipped bundle was trained with."""

    prototypes: int = 10
    """M, a concept."""
    width: int = 64
    blocks: int = 2
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
    dropout: float = DROPOUT
    """Share of the concepts that are rejected in each training row of the decision."""
    penalty: float = DECISION_PENALTY
    """Of the decision's squared weights."""
    absent_penalty: float = ABSENT_PENALTY
    """Of the squared logits that concepts add where readers do not see them."""
