"""`Trainer`: one run of one recipe, epoch by epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from contrastdiagnosis.cases.vote import VoteRule
from contrastdiagnosis.model.network import NoduleFeatures, NoduleNet
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from contrastdiagnosis_training.data.augment import Views, marked_extent
from contrastdiagnosis_training.data.batches import balanced_batches, batches_per_epoch
from contrastdiagnosis_training.data.concept_list import concept_shares
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.data.patch_store import PatchStore
from contrastdiagnosis_training.data.splits import Split
from contrastdiagnosis_training.data.views import nodule_views, paired_views
from contrastdiagnosis_training.network.concept_task import concept_logits, concept_task
from contrastdiagnosis_training.network.objective import Targets, objective
from contrastdiagnosis_training.network.recipe import Recipe
from contrastdiagnosis_training.objectives.losses import consensus
from contrastdiagnosis_training.objectives.metrics import auc, retrieval

SGDR_FIRST_CYCLE, SGDR_GROWTH = 10, 2
VALIDATION_VOTE_K = 15


class Trainer:
    """Network, optimiser, schedule and epoch counter; data and recipe stay as given.

    What `start` holds replaces the weights of these names that were drawn.

    All randomness of an epoch comes from the seed and the epoch's number, so a run that is stopped
    and resumed between epochs ends with the same weights as one that is not.
    """

    def __init__(
        self,
        store: PatchStore,
        split: Split,
        recipe: Recipe,
        fabric: Fabric,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.store, self.split, self.recipe, self.fabric, self.seed = (
            store, split, recipe, fabric, seed,
        )  # fmt: skip
        self.epoch = 0
        self.extent = marked_extent(store.share)
        self.rating_targets = _standardised(store, split.train)
        self.malignant = torch.from_numpy(is_malignant(store.malignancy.numpy()))
        self.suspicion = store.suspicion
        self.concepts = concept_shares(store.nodules, store.diameter_mm, store.case_source)
        if recipe.shuffle_labels:
            self._shuffle_labels()
        torch.manual_seed(seed)
        network = NoduleNet(recipe.network).to(memory_format=torch.channels_last_3d)
        network.load_state_dict(network.state_dict() | dict(start or {}))
        self.task = None
        if recipe.concept_weight:
            task = concept_task(recipe.network, self.concepts.shape[1])
            self.task = fabric.setup_module(task)
        learned = [
            *network.parameters(),
            *(self.task.parameters() if self.task is not None else ()),
        ]
        optimizer = torch.optim.AdamW(
            learned, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.network, self.optimizer = fabric.setup(network, optimizer)
        self.schedule = _schedule(self.optimizer, recipe, self.steps)
        self.average = _averaged(network, recipe.average) if recipe.average else None

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch and process."""
        label = self.malignant[self.split.train]
        return max(batches_per_epoch(label, self.recipe.batch) // self.fabric.world_size, 1)

    @property
    def trained(self) -> NoduleNet:
        """The weights to keep: their moving average, or the last ones."""
        kept = self.average.module if self.average else self.network.module
        return cast(NoduleNet, kept)

    @property
    def at_cycle_end(self) -> bool:
        """Whether the learning rate has just come down, or the run ends: weights worth keeping."""
        if self.epoch == self.recipe.epochs or self.recipe.schedule == "cosine":
            return self.epoch == self.recipe.epochs
        end, length = 0, SGDR_FIRST_CYCLE
        while end < self.epoch:
            end, length = end + length, length * SGDR_GROWTH
        return end == self.epoch

    def run_epoch(self) -> dict[str, float]:
        """Trains for one epoch; the mean of each term of the loss."""
        order = torch.Generator().manual_seed(self._epoch_seed())
        draws = torch.Generator(self.fabric.device).manual_seed(
            self._epoch_seed() + 1 + self.fabric.global_rank
        )
        batches = balanced_batches(
            self.malignant[self.split.train], self.recipe.batch, order,
            rank=self.fabric.global_rank, world_size=self.fabric.world_size,
        )  # fmt: skip
        self.network.train()
        history = [self._step(torch.from_numpy(self.split.train)[b], draws) for b in batches]
        self.epoch += 1
        names = dict.fromkeys(name for terms in history for name in terms)
        return {name: float(np.mean([t[name] for t in history if name in t])) for name in names}

    def validate(self) -> dict[str, float]:
        """Vote, retrieval and overlap of the validation nodules; the training nodules vote."""
        if not len(self.split.validation):
            return {}
        cases, _ = self.embed(self.split.train)
        queries, overlap = self.embed(self.split.validation)
        malignancy = self.store.malignancy.numpy()
        distance = np.linalg.norm(queries[:, None] - cases[None], axis=-1)
        labels = is_malignant(malignancy[self.split.train])
        order = np.argsort(distance, axis=1, kind="stable")[:, :VALIDATION_VOTE_K]
        near = np.take_along_axis(distance, order, axis=1)
        # Early embeddings may coincide in half precision.
        temperature = max(float(np.median(near)), 1e-6)
        rule = VoteRule(min(VALIDATION_VOTE_K, len(cases) - 1 + len(cases) % 2), temperature)
        score = rule.score(near, labels[order])
        query_malignancy = malignancy[self.split.validation]
        keep = RULES["exclude3"](query_malignancy)
        truth = is_malignant(query_malignancy)
        relevant = labels[None] == truth[keep, None]
        first, average = retrieval(distance[keep], relevant, np.ones_like(relevant))
        return {
            "val_auc": auc(score[keep], truth[keep]),
            "val_p1": first,
            "val_map": average,
            "val_dice": float(np.mean(overlap)),
        }

    @torch.inference_mode()
    def embed(self, positions: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """Embeddings (N, p) of nodules as stored, and the Dice of their masks (N,)."""
        network = self.trained.eval()
        embeddings, overlaps = [], []
        for part in torch.from_numpy(positions).split(2 * self.recipe.batch):
            views = self._views(part, None, torch.Generator(self.fabric.device))
            with self.fabric.autocast():
                features = network(views.intensity)
            found, marked = features.mask_logits > 0, consensus(views.share) >= 0.5
            both = (found & marked).flatten(1).sum(dim=1)
            either = found.flatten(1).sum(dim=1) + marked.flatten(1).sum(dim=1)
            overlaps.append(2 * both / either.clamp(min=1))
            embeddings.append(features.embedding.float())
        return torch.cat(embeddings).cpu().numpy(), torch.cat(overlaps).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        state = {
            "epoch": self.epoch,
            "network": self.network.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        if self.task is not None:
            state["task"] = self.task.state_dict()
        return state | ({"average": self.average.state_dict()} if self.average else {})

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.epoch = state["epoch"]
        self.network.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.task is not None:
            self.task.load_state_dict(state["task"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def _shuffle_labels(self) -> None:
        """All that is told of a training nodule, but its mask, now belongs to another one."""
        train = torch.from_numpy(self.split.train)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        for name in ("malignant", "suspicion", "rating_targets", "concepts"):
            told = getattr(self, name).clone()
            told[train] = told[train[order]]
            setattr(self, name, told)

    def _epoch_seed(self) -> int:
        return 1_000_003 * self.seed + 1009 * self.epoch

    def _step(self, positions: Tensor, draws: torch.Generator) -> dict[str, float]:
        paired = paired_views(
            self.store, positions, self.recipe.augmentation, draws, self.extent,
            paired=self.recipe.consistency_weight > 0,
        )  # fmt: skip
        views, device = paired.seen, self.fabric.device
        targets = Targets(
            self.malignant[positions].to(device),
            self.suspicion[positions].to(device),
            self.rating_targets[positions].to(device),
            self.concepts[positions].to(device),
        )
        mask_only = self.epoch < self.recipe.mask_epochs
        twins = None if mask_only else paired.as_scanned
        # In one batch: its statistics would differ in another one, and with them all embeddings.
        seen = views.intensity if twins is None else torch.cat([views.intensity, twins.intensity])
        features = self.network(seen, pyramid=self.task is not None)
        features, beside = split_features(features, len(positions))
        told = None
        if self.task is not None and not mask_only:
            told = concept_logits(self.task, features)
        terms = objective(features, views.share, targets, self.recipe, mask_only, told)
        if twins is not None:
            gap = features.embedding[paired.degraded] - beside.embedding.detach()
            weight = self.recipe.consistency_weight
            terms["consistency"] = weight * gap.float().square().sum(dim=1).mean()
        loss = torch.stack(list(terms.values())).sum()
        if self.fabric.world_size > 1:
            # DDP waits for a gradient of every weight, also of those that a loss leaves out.
            loss = loss + 0 * (features.embedding.sum() + features.ratings.sum())
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.recipe.clip:
            self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.network.module)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _views(
        self, positions: Tensor, augmented: torch.Generator | None, draws: torch.Generator
    ) -> Views:
        options = self.recipe.augmentation if augmented else None
        return nodule_views(self.store, positions, options, draws, self.extent)


def split_features(features: NoduleFeatures, count: int) -> tuple[NoduleFeatures, NoduleFeatures]:
    """Features of the first `count` items of a batch, and of the others."""

    def part(rows: slice) -> NoduleFeatures:
        pyramid = tuple(level[rows] for level in features.pyramid)
        return NoduleFeatures(pyramid, *(value[rows] for value in features[1:]))

    return part(slice(0, count)), part(slice(count, None))


def _standardised(store: PatchStore, train: NDArray[np.int64]) -> Tensor:
    """(N, R) ratings and log diameter, less the training mean and over its deviation."""
    target = torch.cat([store.ratings, store.diameter_mm.log()[:, None]], dim=1).numpy()
    with warnings.catch_warnings():
        # A rating that no folder holds is unknown throughout, and stays so.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, deviation = np.nanmean(target[train], axis=0), np.nanstd(target[train], axis=0)
    # Internal structure hardly varies: without the floor a single odd nodule would rule the loss.
    return torch.from_numpy((target - mean) / np.maximum(deviation, 0.3)).float()


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    if recipe.schedule == "sgdr":
        return CosineAnnealingWarmRestarts(
            optimizer, T_0=SGDR_FIRST_CYCLE * steps, T_mult=SGDR_GROWTH
        )
    total = recipe.epochs * steps
    # OneCycleLR divides by zero where the warm-up takes exactly one step: 0.05 of 20.
    warm_up = min(max(0.05, 1.5 / total), 0.9)
    return OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=total, pct_start=warm_up, cycle_momentum=False
    )


def _averaged(network: NoduleNet, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
