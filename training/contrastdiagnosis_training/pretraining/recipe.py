"""`PretrainingRecipe`: everything that decides what pre-training makes of the encoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNetConfig

from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.network.recipe import Recipe
from contrastdiagnosis_training.objectives.self_paced import SelfPacing

LESION, POOR_LESION, HEALTHY, POOR_HEALTHY = "L", "L~", "H", "H~"
"""The four sets: by tissue, and by quality of the image (arXiv:2404.04887)."""

SETS = (LESION, POOR_LESION, HEALTHY, POOR_HEALTHY)

TERMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "L/L~": ((LESION,), (POOR_LESION,)),
    "L/H": ((LESION,), (HEALTHY,)),
    "L~/H~": ((POOR_LESION,), (POOR_HEALTHY,)),
    "lesion/healthy": ((LESION, POOR_LESION), (HEALTHY, POOR_HEALTHY)),
    "all": ((LESION, POOR_LESION), SETS),
}
"""Terms of the loss: whose patches are anchors, and whose are their negatives. The first three are
the publication's; the fourth knows no quality; "all" is the plain InfoNCE of MoCo
(arXiv:1911.05722), where every other patch is a negative."""


@dataclass(frozen=True)
class PretrainingRecipe:
    """One way to pre-train; `PUBLISHED` are the publication's own numbers."""

    network: NoduleNetConfig = field(default_factory=lambda: Recipe().network)
    """That of the recipe that starts from it."""
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(
            flip_slices=True, context=True, gamma=(1.0, 1.0), noise=0.0
        )
    )
    """It must not change the quality of the image: no noise, no blur."""
    terms: tuple[str, ...] = ("L/L~", "L/H", "L~/H~")
    """Of `TERMS`; each weighs alike."""
    invariant: bool = False
    """The positive of a patch is a view of it in the other quality: the encoder learns to ignore
    quality instead of telling it."""
    epochs: int = 16
    batch: int = 16
    """Anchors of each set in a step."""
    queue: int = 512
    """Negatives that are kept of each set."""
    first_phase: float = 0.5
    """Share of the epochs with small views and all negatives; then whole patches and the hardest
    negatives, self-paced."""
    small: tuple[int, int, int] = (16, 32, 32)
    """Voxels of the first phase's views."""
    pacing: SelfPacing = "quantile"
    """Which anchors count in the second phase: those with a loss below 1 / K as published, the
    easiest share, growing from a half to all, or all."""
    hard_negatives: bool = True
    """Keep the K most similar negatives in the second phase; False keeps all of them."""
    dead_epochs: int = 1
    """The run ends if self-pacing selected nothing for more epochs than this."""
    least_severity: int = 3
    """Of the degradations that make a good image poor."""
    copies: int = 2
    """Poor copies that are made of each patch before the first epoch; 0 makes them anew in every
    step, which takes two cores twice the time."""
    temperature: float = 0.07
    momentum: float = 0.9
    """Of the encoder that embeds positives and negatives; a short run has no time for 0.999."""
    projection: int = 128
    """Length of what the loss compares."""
    learning_rate: float = 3e-4
    """Lower than published, as the batches are smaller."""
    weight_decay: float = 1e-4
    """r(w) of the publication."""
    validate_every: int = 4
    """Epochs between two looks at the validation patients."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.terms if name not in TERMS]
        if unknown or not self.terms:
            raise InputError(f"terms must be of {', '.join(TERMS)}, got {', '.join(unknown)}")
        if not 1 <= self.least_severity <= 5:
            raise InputError(f"least_severity must be 1 to 5, got {self.least_severity}")
        numbers = ("epochs", "batch", "queue", "projection", "validate_every")
        for name in (*numbers, "dead_epochs", "copies"):
            least = 1 if name in numbers else 0
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("first_phase", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise InputError(f"temperature must be above 0, got {self.temperature}")
        slices, rows, columns = self.small
        if min(self.small) < 1 or slices % 8 or rows % 16 or rows != columns:
            raise InputError(f"small must be 8 n slices of 16 m x 16 m pixels, got {self.small}")

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets that a step draws from, in the order of `SETS`."""
        return tuple(s for s in SETS if s in self.anchors or s in self.negatives)

    @property
    def anchors(self) -> tuple[str, ...]:
        """The sets whose patches are anchors, each once."""
        return tuple(s for s in SETS if any(s in TERMS[term][0] for term in self.terms))

    @property
    def negatives(self) -> tuple[str, ...]:
        """The sets whose patches are negatives, each once."""
        return tuple(s for s in SETS if any(s in TERMS[term][1] for term in self.terms))


PUBLISHED = PretrainingRecipe(
    epochs=800, batch=400, queue=400, copies=0, first_phase=0.5, pacing="paper", dead_epochs=800,
    momentum=0.99, learning_rate=1e-3,
)  # fmt: skip
"""800 epochs of 400 patches (arXiv:2404.04887); for a GPU."""

RECIPES = {"default": PretrainingRecipe(), "published": PUBLISHED}
