"""`PreTrainer`: one run of pre-training, epoch by epoch."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.model.network import NoduleNet
from lightning.fabric import Fabric
from torch import Tensor, nn

from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.pretraining.encoder import (
    embedded,
    follow,
    pooled_features,
    projected_encoder,
)
from contrastdiagnosis_training.pretraining.negative_queue import NegativeQueue
from contrastdiagnosis_training.pretraining.objective import Anchors, Phase, terms_of_step
from contrastdiagnosis_training.pretraining.recipe import (
    HEALTHY,
    LESION,
    POOR_HEALTHY,
    POOR_LESION,
    PretrainingRecipe,
)
from contrastdiagnosis_training.pretraining.sets import FourSets

WHOLE = DEFAULT_GEOMETRY.shape
VALIDATED = {"val_auc": (LESION, HEALTHY), "val_poor_auc": (POOR_LESION, POOR_HEALTHY)}
OTHER_QUALITY = {LESION: POOR_LESION, POOR_LESION: LESION}


class PreTrainer:
    """Encoder, its slow follower, queues, optimiser and epoch counter.

    All randomness of an epoch comes from the seed and the epoch's number, as in `Trainer`.
    """

    def __init__(
        self,
        sets: FourSets,
        recipe: PretrainingRecipe,
        fabric: Fabric,
        seed: int,
        validation: FourSets | None = None,
    ) -> None:
        copies = torch.Generator(fabric.device).manual_seed(seed)
        self.sets = sets.with_copies(recipe.copies, copies)
        self.recipe, self.fabric, self.seed = recipe, fabric, seed
        self.validation = validation
        self.epoch = self.dead = 0
        torch.manual_seed(seed)
        self.network = NoduleNet(recipe.network).to(memory_format=torch.channels_last_3d)
        module = projected_encoder(self.network, recipe.projection)
        optimizer = torch.optim.Adam(
            module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.encoder, self.optimizer = fabric.setup(module, optimizer)
        # In eval mode: batch statistics would tell the sets apart by the batch they came in.
        self.follower = copy.deepcopy(module).eval().requires_grad_(False)
        self.queues = {
            name: NegativeQueue(recipe.queue, recipe.projection).to(fabric.device)
            for name in recipe.negatives
        }

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch and process: the larger set of anchors is seen once."""
        largest = max(len(self.sets.members(name)) for name in self.recipe.anchors)
        return max(largest // self.recipe.batch // self.fabric.world_size, 1)

    @property
    def first_epochs(self) -> int:
        """Epochs of the first phase."""
        return round(self.recipe.first_phase * self.recipe.epochs)

    @property
    def trained(self) -> NoduleNet:
        """A network whose encoder is trained; all else is as it was initialised."""
        return self.network

    @property
    def at_cycle_end(self) -> bool:
        """Whether the run ends."""
        return self.epoch == self.recipe.epochs

    def run_epoch(self) -> dict[str, float]:
        """Trains for one epoch; the mean of each term, and what self-pacing selected.

        Raises:
            InputError: Self-pacing selected nothing for too many epochs.
        """
        seed = 1_000_003 * self.seed + 1009 * self.epoch
        order = torch.Generator().manual_seed(seed)
        draws = torch.Generator(self.fabric.device).manual_seed(seed + 1 + self.fabric.global_rank)
        positions = {name: self._order(name, order) for name in self.recipe.sets}
        self.encoder.train()
        history = []
        for step in range(self.steps):
            place = step * self.fabric.world_size + self.fabric.global_rank
            part = slice(place * self.recipe.batch, (place + 1) * self.recipe.batch)
            batch = {name: chosen[part] for name, chosen in positions.items()}
            history.append(self._step(batch, self._phase(step), draws))
        self.epoch += 1
        means = {name: float(np.mean([h[name] for h in history])) for name in history[0]}
        self._check_alive(means)
        return means

    def validate(self) -> dict[str, float]:
        """How well pooled features of unseen patients tell lesions from healthy tissue.

        By the nearest of the training patients' features; of a good, and of a poor image.
        """
        if self.validation is None:
            return {}
        draws = torch.Generator(self.fabric.device).manual_seed(self.seed)
        told = {}
        for name, pair in VALIDATED.items():
            known = [self._features(self.sets, s, draws) for s in pair]
            asked = [self._features(self.validation, s, draws) for s in pair]
            gap = [torch.cdist(torch.cat(asked), k).amin(dim=1) for k in known]
            truth = np.r_[np.ones(len(asked[0]), bool), np.zeros(len(asked[1]), bool)]
            told[name] = auc((gap[1] - gap[0]).cpu().numpy(), truth)
        return told

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "epoch": self.epoch,
            "dead": self.dead,
            "encoder": self.encoder.module.state_dict(),
            "follower": self.follower.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "queues": {name: queue.state_dict() for name, queue in self.queues.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.epoch, self.dead = state["epoch"], state["dead"]
        self.encoder.module.load_state_dict(state["encoder"])
        self.follower.load_state_dict(state["follower"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, queue in self.queues.items():
            queue.load_state_dict(state["queues"][name])

    def _order(self, name: str, order: torch.Generator) -> Tensor:
        """Members of a set, shuffled, as many as an epoch asks for."""
        members = self.sets.members(name)
        count = self.steps * self.recipe.batch * self.fabric.world_size
        rounds = -(-count // len(members))
        drawn = [members[torch.randperm(len(members), generator=order)] for _ in range(rounds)]
        return torch.cat(drawn)[:count]

    def _phase(self, step: int) -> Phase:
        second = self.epoch >= self.first_epochs
        steps = (self.recipe.epochs - self.first_epochs) * self.steps
        done = (self.epoch - self.first_epochs) * self.steps + step
        return Phase(second, done if second else 0, steps)

    def _step(
        self, batch: dict[str, Tensor], phase: Phase, draws: torch.Generator
    ) -> dict[str, float]:
        shape = WHOLE if phase.second else self.recipe.small
        queries, positives, negatives = self._views(batch, shape, draws)
        asked = embedded(self.encoder, torch.cat([queries[name] for name in self.recipe.anchors]))
        with torch.no_grad():
            keys = (*positives.values(), *negatives.values())
            followed = embedded(self.follower, torch.cat(keys)).split([len(k) for k in keys])
        positive = dict(zip(positives, followed, strict=False))
        negative = positive | dict(zip(negatives, followed[len(positives) :], strict=True))
        own = {name: self._patients(name, positions) for name, positions in batch.items()}
        for name, queue in self.queues.items():
            queue.add(negative[name], own[name])
        parts = asked.split([len(queries[name]) for name in self.recipe.anchors])
        anchors = {
            name: Anchors(part, positive[name], own[name])
            for name, part in zip(self.recipe.anchors, parts, strict=True)
        }
        losses, selected = terms_of_step(anchors, self.queues, self.recipe, phase)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimizer.step()
        follow(self.follower, self.encoder.module, self.recipe.momentum)
        told = {name: float(value.detach()) for name, value in losses.items()}
        told["selected share"] = float(np.mean([s.selected_share for s in selected.values()]))
        return told

    def _views(
        self, batch: dict[str, Tensor], shape: tuple[int, int, int], draws: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Views of anchors, of their positives, and of negatives that are no positives, by set."""
        queries, positives, negatives = {}, {}, {}
        view = (self.recipe.augmentation, draws, shape)
        for name, positions in batch.items():
            hu = other = self.sets.hu(name, positions, draws)
            anchor = name in self.recipe.anchors
            if anchor:
                queries[name] = self.sets.views(name, positions, hu, *view)
                if self.recipe.invariant:
                    other = self.sets.hu(OTHER_QUALITY[name], positions, draws)
                positives[name] = self.sets.views(name, positions, other, *view)
            # A positive of the other quality is no patch of the set, and no negative of it either.
            if name in self.recipe.negatives and (self.recipe.invariant or not anchor):
                negatives[name] = self.sets.views(name, positions, hu, *view)
        return queries, positives, negatives

    def _patients(self, name: str, positions: Tensor) -> Tensor:
        return self.sets.tissue(name).patient[positions].to(self.fabric.device)

    @torch.no_grad()
    def _features(self, sets: FourSets, name: str, draws: torch.Generator) -> Tensor:
        """(M, C) pooled features of a set's members, centred and not augmented."""
        module = cast(nn.Sequential, self.encoder.module).eval()
        found = []
        for part in sets.members(name).split(2 * self.recipe.batch):
            found.append(pooled_features(module, sets.whole_views(name, part, draws)))
        return torch.cat(found)

    def _check_alive(self, means: dict[str, float]) -> None:
        self.dead = 0 if means["selected share"] else self.dead + 1
        if self.dead > self.recipe.dead_epochs:
            raise InputError(
                f"self-pacing selected no anchor in {self.dead} epochs: the losses are above 1 / K"
                " for the K hardest negatives; use pacing=quantile, a smaller queue, or a longer"
                " first phase"
            )
