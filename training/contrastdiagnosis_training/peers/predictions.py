"""What a peer says of nodules, and the run folders that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.model.weights import load_weights
from numpy.typing import NDArray
from torch import nn

from contrastdiagnosis_training.peers.recipe import peer_network
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.predictions import Change
from contrastdiagnosis_training.runs.run_folder import MODEL, PEER, SETTINGS, read_settings


@dataclass(frozen=True, eq=False)
class PeerPredictions:
    """One row a nodule, clicked at the centroid of the readers' consensus.

    Attributes:
        case_id: (N,) text.
        patient_id: (N,) text.
        malignancy: (N,) mean on the scale that all sources share, NaN where unknown.
        probability: (N,) of malignancy; 4 p + 1 is the malignancy that the peer reads.
    """

    case_id: NDArray
    patient_id: NDArray
    malignancy: NDArray[np.float64]
    probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.case_id)


def peer_of_run(folder: Path) -> nn.Module:
    """The finished peer of a run folder.

    Raises:
        InputError: There is none.
    """
    if not ((folder / MODEL).is_file() and (folder / SETTINGS).is_file()):
        raise InputError(f"{folder} holds no finished peer ({MODEL} and {SETTINGS})")
    settings = read_settings(folder)
    if settings.get("kind") != PEER:
        raise InputError(f"{folder} holds no peer; contrastdiagnosis-train peer makes one")
    name = settings["recipe"]["architecture"]
    network = peer_network(name)
    load_weights(network, folder / MODEL, f"a {name}")
    return network.to(memory_format=torch.channels_last_3d)


def predict_peer(
    network: nn.Module,
    nodules: Sequence[Nodule],
    device: torch.device,
    change: Change | None = None,
) -> PeerPredictions:
    """A peer's predictions of nodules, in their order; means over each patch and its mirror.

    Args:
        network: In eval mode, on the device.
        nodules: Rows of a case folder.
        device: Where the network is.
        change: What becomes of the scans before they are looked at.
    """
    probability = []
    for nodule in Bar(nodules, unit="nodule", leave=False):
        scan = read_scan(nodule)
        volume = scan.volume if change is None else change(nodule, scan.volume)
        patch = crop_patch(volume, scan.center_ras_mm)
        image = torch.from_numpy(patch.intensity)[None, None].to(device)
        with torch.inference_mode():
            logits = network(torch.cat([image, image.flip(-1)]))
        probability.append(float(torch.sigmoid(logits.float().mean())))
    return PeerPredictions(
        np.array([n.case_id for n in nodules]),
        np.array([n.patient_id for n in nodules]),
        np.array([n.malignancy for n in nodules], dtype=np.float64),
        np.array(probability, dtype=np.float64),
    )
