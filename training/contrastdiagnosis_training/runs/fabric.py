"""Where and how a run computes: Lightning Fabric on the chosen device."""

from __future__ import annotations

from pathlib import Path

import torch
from contrastdiagnosis.model.device import choose_device
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger


def make_fabric(device: str, processes: int, folder: Path) -> Fabric:
    """Fabric on a device, in bfloat16 where that is fast, with TensorBoard logs in a run's folder.

    Args:
        device: "auto", "cpu" or "cuda".
        processes: Training processes (DDP).
        folder: Of the run.
    """
    chosen = str(choose_device(device))
    return Fabric(
        accelerator=chosen,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if has_bfloat16(chosen) else "32-true",
        loggers=[TensorBoardLogger(folder, name="", version="tensorboard")],
    )


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
