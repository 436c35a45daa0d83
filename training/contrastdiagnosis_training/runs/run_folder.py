"""What `fit` leaves in a run folder, and what is read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig
from contrastdiagnosis.model.weights import load_network

from contrastdiagnosis_training.data.augment import Augmentation

CHECKPOINT, DRAFT, MODEL, SETTINGS, LOG = (
    "checkpoint.pt", "best.safetensors", "model.safetensors", "settings.json", "metrics.csv",
)  # fmt: skip


def network_of_run(folder: Path) -> NoduleNet:
    """The finished network of a run folder.

    Raises:
        InputError: There is none.
    """
    _check_finished(folder)
    config = network_config(read_settings(folder))
    return load_network(folder / MODEL, config).to(memory_format=torch.channels_last_3d)


def augmentation_of_run(folder: Path) -> Augmentation:
    """What the finished network of a run folder was shown.

    Raises:
        InputError: There is none.
    """
    _check_finished(folder)
    told = read_settings(folder)["recipe"]["augmentation"]
    return Augmentation(**told | {"gamma": tuple(told["gamma"])})


def _check_finished(folder: Path) -> None:
    if not ((folder / MODEL).is_file() and (folder / SETTINGS).is_file()):
        raise InputError(f"{folder} holds no finished network ({MODEL} and {SETTINGS})")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run folder; what is younger than the run is as it was done then."""
    settings: dict[str, Any] = read_json(folder / SETTINGS)
    augmentation = settings["recipe"]["augmentation"]
    settings["recipe"]["augmentation"] = {"whole_chain": False, **augmentation}
    return settings


def network_config(settings: dict[str, Any]) -> NoduleNetConfig:
    """What fixes the network of a run with these settings."""
    network = settings["recipe"]["network"]
    return NoduleNetConfig(**network | {"channels": tuple(network["channels"])})
