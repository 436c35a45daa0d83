"""The weights of a network on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig


def save_network(file: Path, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Writes the weights as safetensors, kernels and matrices in `dtype`."""
    save_file({n: w.to(_stored(w, dtype)) for n, w in _weights(network).items()}, file)


def round_weights(network: NoduleNet, dtype: torch.dtype) -> None:
    """Rounds the weights in place to what `save_network` keeps of them."""
    with torch.no_grad():
        for weight in network.state_dict().values():
            weight.copy_(weight.to(_stored(weight, dtype)))


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous().cpu() for name, value in network.state_dict().items()}


def _stored(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Vectors stay as they are: a running variance may exceed what half precision can hold."""
    return dtype if weight.is_floating_point() and weight.ndim > 1 else weight.dtype


def load_network(file: Path, config: NoduleNetConfig) -> NoduleNet:
    """The network with the weights of a file, float32, in eval mode, without gradients.

    Raises:
        InputError: As `load_weights`.
    """
    network = NoduleNet(config)
    load_weights(network, file, f"the network {config}")
    return network


def load_weights(network: nn.Module, file: Path, name: str) -> None:
    """Fills a network with the weights of a file; it is in eval mode then, without gradients.

    Args:
        network: Of the shape that wrote the file.
        file: Safetensors.
        name: Of the network, for the user.

    Raises:
        InputError: The file is damaged, or its tensors are not those of the network.
    """
    try:
        weights = load_file(file)
        broken = [n for n, w in weights.items() if not torch.isfinite(w).all()]
        if broken:
            raise InputError(f"{file} holds weights that are not finite: {', '.join(broken)}")
        network.load_state_dict({n: w.to(_full(w)) for n, w in weights.items()}, strict=True)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{file} does not fit {name}: {error}") from error
    network.eval().requires_grad_(False)


def _full(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.is_floating_point() else weight.dtype
