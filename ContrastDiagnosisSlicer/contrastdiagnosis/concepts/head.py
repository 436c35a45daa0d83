"""`ConceptHead`: what is seen in a nodule and where, and the diagnosis that follows from it.

Concept-based similarity reasoning (CSR, arXiv:2503.06873) on the pyramid of `NoduleNet`, in 3-D.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.cells import CELL_STATISTICS, cell_features
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleFeatures

DIAMETER = "diameter_mm"
"""In the place of a rating: a concept that is measured, not judged."""


@dataclass(frozen=True)
class Concept:
    """A finding that readers rate, and what counts as its presence (docs/methods.md 6.1)."""

    name: str
    """As it is shown: "ill-defined margin"."""
    rating: str
    """The readers' rating that tells it, or `DIAMETER`."""
    at_least: float | None = None
    """Present from this value of the rating on; None where low values tell it."""
    at_most: float | None = None
    """Present up to this value."""
    calibration: Calibration = field(default_factory=Calibration)
    """From the head's presence score to the share of readers who would call it present."""
    reader_kappa: float | None = None
    """Agreement of two readers about its presence, Cohen's kappa."""
    auroc: float | None = None
    """Of the majority's opinion, cross-fitted."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name} must have one of at_least and at_most")

    @property
    def measured(self) -> bool:
        """Whether it is measured, so that there are no readers to agree or disagree."""
        return self.rating == DIAMETER

    @property
    def criterion(self) -> str:
        """What counts as its presence: "margin at most 3", "diameter at least 8 mm"."""
        bound = "at least" if self.at_least is not None else "at most"
        value = f"{self.at_least if self.at_least is not None else self.at_most:g}"
        return f"diameter {bound} {value} mm" if self.measured else f"{self.rating} {bound} {value}"

    def share(self, ratings: Sequence[float]) -> float:
        """Share of the readers' ratings that call it present, NaN without any.

        Example:
            >>> margin = Concept("ill-defined margin", "margin", at_most=3)
            >>> margin.criterion, margin.share([2, 3, 4, 5])
            ('margin at most 3', 0.5)
        """
        if not len(ratings):
            return float("nan")
        values = np.asarray(ratings)
        present = values >= self.at_least if self.at_least is not None else values <= self.at_most
        return float(present.mean())


def concept_from_document(values: Mapping[str, Any]) -> Concept:
    """A concept as bundle.json and the settings of a head hold it."""
    return Concept(**{**values, "calibration": Calibration(**values["calibration"])})


def readers_shares(
    concepts: Sequence[Concept], ratings: Mapping[str, Sequence[float]], diameter_mm: float
) -> list[float]:
    """Share of the readers who call each concept present, NaN where nobody rated it.

    Args:
        concepts: K of them.
        ratings: Every reader's rating by name.
        diameter_mm: Of the nodule; concepts of size are present for all readers or for none.
    """
    told = {**ratings, DIAMETER: (diameter_mm,)}
    return [concept.share(told.get(concept.rating, ())) for concept in concepts]


@dataclass(frozen=True)
class ConceptConfig:
    """What fixes the head's tensors."""

    concepts: int = 7
    """Number K of concepts."""
    prototypes: int = 10
    """Number M of prototypes a concept."""
    width: int = 64
    """Length of the vectors that are compared."""
    blocks: int = 2
    """Residual blocks of the projector."""
    channels: int = 32 + 96 + CELL_STATISTICS + 64
    """Features of a cell; given by the network."""
    whole: bool = True
    """Whether the last of these are of the whole nodule that the cell is a part of."""
    rectified: bool = False
    """Whether cosines below 0 count as 0, in training as in use: then weights between 0 and 1 lower
    scores only (docs/methods.md 6.3). Heads of older bundles were fitted to all cosines."""


class Projector(nn.Module):
    """(..., C) cell features to (..., W) unit vectors, each cell by itself.

    LayerNorm instead of the published IBN: its statistics would differ between the averaged vectors
    of training and the single cells of inference (docs/methods.md 6.3).
    """

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width = config.width
        self.first = nn.Linear(config.channels, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())
            for _ in range(config.blocks)
        )
        self.last = nn.Linear(width, width)

    def forward(self, cells: Tensor) -> Tensor:
        """(..., W) of (..., C)."""
        x = self.first(cells)
        for block in self.blocks:
            x = x + block(x)
        return functional.normalize(self.last(x), dim=-1)


class ConceptHead(nn.Module):
    """Concept maps, prototypes with similarity maps, and the decision that they add up to.

    K concepts with M prototypes each. A patch has d x h x w cells of 5.0 x 5.6 x 5.6 mm.
    """

    mean: Tensor
    scale: Tensor
    kept: Tensor
    """(K, M): 0 for prototypes that a clinician removed from the atlas."""
    absent: Tensor
    """(K, M): median score where the concept is absent."""
    presence_weight: Tensor
    presence_bias: Tensor
    decision_weight: Tensor
    decision_bias: Tensor

    def __init__(self, config: ConceptConfig = ConceptConfig()) -> None:
        super().__init__()
        self.config = config
        k, m = config.concepts, config.prototypes
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("scale", torch.ones(config.channels))
        self.concept = nn.Conv3d(config.channels, k, kernel_size=1, bias=False)
        """Concept maps; their bias is apart, so that they say only what the cells say."""
        self.concept_bias = nn.Parameter(torch.zeros(k))
        self.projector = Projector(config)
        self.prototype = nn.Parameter(functional.normalize(torch.randn(k, m, config.width), dim=-1))
        self.register_buffer("kept", torch.ones(k, m))
        self.register_buffer("absent", torch.zeros(k, m))
        self.register_buffer("presence_weight", torch.zeros(k, m))
        self.register_buffer("presence_bias", torch.zeros(k))
        self.register_buffer("decision_weight", torch.zeros(k, m))
        self.register_buffer("decision_bias", torch.zeros(()))

    def cells(self, features: NoduleFeatures) -> Tensor:
        """(B, C, d, h, w) standardised features of the cells."""
        return self.standardised(cell_features(features))

    def standardised(self, cells: Tensor) -> Tensor:
        """(B, C, d, h, w) float32 of (B, C or more, d, h, w), of which it sees the first ones."""
        mean, scale = (x[:, None, None, None] for x in (self.mean, self.scale))
        return (cells[:, : self.config.channels].float() - mean) / scale

    def concept_maps(self, cells: Tensor) -> Tensor:
        """(B, K, d, h, w) logits of the concepts."""
        return self.concept(cells)

    def concept_logits(self, cells: Tensor, weight: Tensor) -> Tensor:
        """(B, K) logits pooled over the cells by weights (B, d, h, w) that sum up to 1."""
        return (self.concept(cells) * weight[:, None]).sum(dim=(2, 3, 4)) + self.concept_bias

    def local_vectors(self, cells: Tensor, weight: Tensor) -> Tensor:
        """(B, K, C) mean features where each concept is seen (arXiv:2503.06873, Eq. 2).

        Args:
            cells: (B, C, d, h, w).
            weight: (B, K, d, h, w), or (B, 1, d, h, w) for all concepts alike: prior of the
                spatial softmax; uniform as published.
        """
        logits = (self.concept(cells) + weight.clamp(min=1e-12).log()).flatten(2)
        return torch.einsum("bkn,bcn->bkc", logits.softmax(dim=-1), cells.flatten(2))

    def unit_prototypes(self) -> Tensor:
        """(K, M, W) of length 1."""
        return functional.normalize(self.prototype, dim=-1)

    def similarity(self, cells: Tensor) -> Tensor:
        """(B, K, M, d, h, w) cosines of cells and prototypes, in [-1, 1]; from 0 if rectified."""
        vectors = self.projector(cells.flatten(2).transpose(1, 2))
        # As a product of matrices the cosines come in their final order, without a copy.
        cosine = self.unit_prototypes().flatten(0, 1) @ vectors.transpose(1, 2)
        shape = (self.config.concepts, self.config.prototypes)
        lowest = 0 if self.config.rectified else -1
        return cosine.clamp(lowest, 1).unflatten(1, shape).unflatten(-1, cells.shape[2:])

    def scores(self, similarity: Tensor) -> Tensor:
        """(B, K, M) highest similarity anywhere (Eq. 10); 0 for prototypes that are removed."""
        return similarity.flatten(3).amax(dim=-1) * self.kept

    def presence(self, scores: Tensor) -> Tensor:
        """(B, K) logits of each concept, not yet calibrated; they never fall as scores rise."""
        return (scores * self.kept * self.presence_weight).sum(dim=-1) + self.presence_bias

    def contributions(self, scores: Tensor) -> Tensor:
        """(B, K) logits that each concept adds to `baseline`."""
        return ((scores - self.absent) * self.kept * self.decision_weight).sum(dim=-1)

    @property
    def baseline(self) -> Tensor:
        """() logit of a nodule that shows no concept."""
        return self.decision_bias + (self.absent * self.kept * self.decision_weight).sum()

    def decide(self, scores: Tensor) -> Tensor:
        """(B,) logit of malignancy: one linear layer on the scores (Eq. 1)."""
        return (scores * self.kept * self.decision_weight).sum(dim=(1, 2)) + self.decision_bias


def save_head(file: Path, head: ConceptHead) -> None:
    """Writes all tensors, float32, as safetensors with the configuration in the metadata."""
    weights = {n: w.contiguous().cpu() for n, w in head.state_dict().items()}
    save_file(weights, file, {"config": json.dumps(asdict(head.config))})


def read_config(file: Path) -> ConceptConfig:
    """The configuration in a head's file.

    Raises:
        InputError: The file is damaged, or holds none.
    """
    try:
        with safe_open(file, "pt") as stream:
            return ConceptConfig(**json.loads((stream.metadata() or {})["config"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is no concept head with its configuration: {error}") from error


def load_head(file: Path, config: ConceptConfig) -> ConceptHead:
    """The head in a file, in eval mode, without gradients.

    Raises:
        InputError: The file is damaged, or its tensors are not those of the configuration.
    """
    head = ConceptHead(config)
    try:
        weights: Mapping[str, Tensor] = load_file(file)
        broken = [n for n, w in weights.items() if not torch.isfinite(w).all()]
        if broken:
            raise InputError(f"{file} holds weights that are not finite: {', '.join(broken)}")
        head.load_state_dict(weights, strict=True)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{file} does not fit the head {asdict(config)}: {error}") from error
    return head.eval().requires_grad_(False)
