"""What `fit` leaves in a run folder, and what is read of it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
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

PRETRAINING = "pretraining"
"""Kind of a run whose encoder alone is trained, as its settings name it."""

PEER = "peer"
"""Kind of a run of a classifier that ours is compared with."""


def network_of_run(folder: Path) -> NoduleNet:
    """The finished network of a run folder.

    Raises:
        InputError: There is none.
    """
    _check_finished(folder)
    settings = read_settings(folder)
    if settings.get("kind") == PEER:
        raise InputError(f"{folder} holds a peer, no network of ours; it goes with --peers")
    config = network_config(settings)
    return load_network(folder / MODEL, config).to(memory_format=torch.channels_last_3d)


def network_on_same_patients(
    folder: Path, settings: Mapping[str, Any], kind: str | None = None
) -> NoduleNet:
    """The network of a finished run on the same patients, or tests would be on ones it has seen.

    Args:
        folder: Of that run.
        settings: Of the run that uses it.
        kind: `PRETRAINING` for an encoder alone, None for a whole network.

    Raises:
        InputError: It is of another kind, of other cases, fold or seed, or not finished.
    """
    network = network_of_run(folder)
    theirs = read_settings(folder)
    if theirs.get("kind") != kind:
        holds, goes = (
            ("a whole network, not a pre-trained encoder", "--start")
            if kind
            else ("a pre-trained encoder, not a whole network", "--init")
        )
        raise InputError(f"{folder} holds {holds}: it goes with {goes}")
    for name in ("cases", "fold", "seed"):
        if theirs[name] != settings[name]:
            raise InputError(
                f"wanted a run with {name} {settings[name]} to start from, got {theirs[name]} in"
                f" {folder}"
            )
    return network


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
    settings["recipe"]["augmentation"] = {"whole_chain": False, "degraded": 0.0, **augmentation}
    if "kind" not in settings:
        settings["recipe"] = {"consistency_weight": 0.0, **settings["recipe"]}
    return {"init": None, **settings}


def network_config(settings: dict[str, Any]) -> NoduleNetConfig:
    """What fixes the network of a run with these settings."""
    network = settings["recipe"]["network"]
    return NoduleNetConfig(**network | {"channels": tuple(network["channels"])})


def check_same_run(folder: Path, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """Whether a folder is free for a run, or holds the same one.

    Args:
        folder: Of the run.
        settings: Of the run that is to go on or to begin there.
        names: Settings that make it another run if they differ.

    Raises:
        InputError: It holds another run.
    """
    if not (folder / SETTINGS).is_file():
        return
    before = read_settings(folder)
    for name in names:
        if before.get(name) != settings[name]:
            raise InputError(
                f"{folder} holds a run with another {name}: {before.get(name)} instead of"
                f" {settings[name]}; choose another --out, or delete that folder"
            )


def code_commit() -> str:
    """The commit of the source tree, "-dirty" behind it where files differ; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
