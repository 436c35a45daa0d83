"""`PeerTrainer`: one run of one peer, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from contrastdiagnosis_training.data.augment import marked_extent
from contrastdiagnosis_training.data.batches import balanced_batches, batches_per_epoch
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.data.patch_store import PatchStore
from contrastdiagnosis_training.data.splits import Split
from contrastdiagnosis_training.data.views import nodule_views
from contrastdiagnosis_training.objectives.losses import weighted_mean
from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.peers.recipe import PeerRecipe, peer_network


class PeerTrainer:
    """Classifier, optimiser, schedule and epoch counter; data and recipe stay as given.

    The logit's sigmoid learns the readers' mean malignancy, 1 to 5 brought to 0 to 1. All
    randomness of an epoch comes from the seed and the epoch's number, as in `Trainer`.
    """

    def __init__(
        self, store: PatchStore, split: Split, recipe: PeerRecipe, fabric: Fabric, seed: int
    ) -> None:
        self.store, self.split, self.recipe, self.fabric, self.seed = (
            store, split, recipe, fabric, seed,
        )  # fmt: skip
        self.epoch = 0
        self.extent = marked_extent(store.share)
        self.malignant = torch.from_numpy(is_malignant(store.malignancy.numpy()))
        self.target = (store.malignancy.float() - 1) / 4
        torch.manual_seed(seed)
        network = peer_network(recipe.architecture).to(memory_format=torch.channels_last_3d)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.network, self.optimizer = fabric.setup(network, optimizer)
        total = recipe.epochs * self.steps
        warm_up = min(max(0.05, 1.5 / total), 0.9)
        self.schedule = OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=total, pct_start=warm_up,
            cycle_momentum=False,
        )  # fmt: skip
        self.average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True
        )

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return batches_per_epoch(self.malignant[self.split.train], self.recipe.batch)

    @property
    def trained(self) -> nn.Module:
        """The moving average of the weights."""
        return self.average.module

    @property
    def at_cycle_end(self) -> bool:
        """Whether the run ends."""
        return self.epoch == self.recipe.epochs

    def run_epoch(self) -> dict[str, float]:
        """Trains for one epoch; the mean loss."""
        seed = 1_000_003 * self.seed + 1009 * self.epoch
        order = torch.Generator().manual_seed(seed)
        draws = torch.Generator(self.fabric.device).manual_seed(seed + 1)
        train = torch.from_numpy(self.split.train)
        self.network.train()
        history = [
            self._step(train[batch], draws)
            for batch in balanced_batches(self.malignant[train], self.recipe.batch, order)
        ]
        self.epoch += 1
        return {"loss": float(np.mean(history))}

    def validate(self) -> dict[str, float]:
        """AUC of the validation nodules, rule exclude3."""
        positions = self.split.validation
        malignancy = self.store.malignancy.numpy()[positions]
        kept = RULES["exclude3"](malignancy)
        score = self.logits(positions)
        return {"val_auc": auc(score[kept], is_malignant(malignancy)[kept])}

    @torch.inference_mode()
    def logits(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) logits of nodules as stored, not augmented."""
        network, found = self.trained.eval(), []
        for part in torch.from_numpy(positions).split(2 * self.recipe.batch):
            views = nodule_views(
                self.store, part, None, torch.Generator(self.fabric.device), self.extent
            )
            with self.fabric.autocast():
                found.append(network(views.intensity).float().flatten())
        return torch.cat(found).cpu().numpy() if found else np.zeros(0, np.float32)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "epoch": self.epoch,
            "network": self.network.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.epoch = state["epoch"]
        self.network.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])

    def _step(self, positions: Tensor, draws: torch.Generator) -> float:
        views = nodule_views(self.store, positions, self.recipe.augmentation, draws, self.extent)
        target = self.target[positions].to(self.fabric.device)
        logit = self.network(views.intensity).float().flatten()
        loss = weighted_mean(
            functional.binary_cross_entropy_with_logits(
                logit, target.nan_to_num(), reduction="none"
            ),
            target.isfinite().float(),
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network.module)
        return float(loss.detach())
