"""`PeerRecipe`: how a peer is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from contrastdiagnosis.errors import InputError
from monai.networks.nets import DenseNet121, resnet18
from torch import nn

from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.network.recipe import Recipe


@dataclass(frozen=True)
class PeerRecipe:
    """One way to train a classifier on whole patches; views and optimiser are those of `fit`."""

    architecture: str = "densenet121"
    """Of `ARCHITECTURES`."""
    augmentation: Augmentation = field(default_factory=lambda: Recipe().augmentation)
    epochs: int = 15
    batch: int = 16
    """Nodules per step, half of each class."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    clip: float = 5.0
    """Largest norm of the gradient."""
    average: float = 0.99
    """Decay of the moving average of the weights."""
    validate_every: int = 5
    """Epochs between two looks at the validation patients."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"architecture must be of {', '.join(ARCHITECTURES)}, got {self.architecture}"
            )
        for name in ("epochs", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


def _densenet121() -> nn.Module:
    network: nn.Module = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)
    return network


def _resnet18() -> nn.Module:
    network: nn.Module = resnet18(
        spatial_dims=3, n_input_channels=1, num_classes=1, conv1_t_size=7, conv1_t_stride=2
    )
    return network


ARCHITECTURES = {"densenet121": _densenet121, "resnet18": _resnet18}
"""Three-dimensional, one channel in, one logit out, as MONAI builds them."""


def peer_network(architecture: str) -> nn.Module:
    """A peer with fresh weights, (B, 1, D, H, W) patches to (B, 1) logits of malignancy.

    Args:
        architecture: Of `ARCHITECTURES`.
    """
    return ARCHITECTURES[architecture]()
