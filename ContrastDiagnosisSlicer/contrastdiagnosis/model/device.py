"""Where a network runs."""

from __future__ import annotations

import torch

from contrastdiagnosis.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device called "cpu", "cuda" or "auto" (CUDA where there is one).

    Raises:
        InputError: The name is unknown, or CUDA was asked for and is absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"CUDA was asked for, but PyTorch {torch.__version__} finds no CUDA device; choose"
            " the CPU, or install a driver and a CUDA build of PyTorch"
        )
    return torch.device(name)
