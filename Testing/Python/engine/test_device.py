"""Where a network runs."""

from __future__ import annotations

import pytest
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.device import choose_device


def test_cuda_asked_for_and_absent_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="CUDA was asked for, but PyTorch .* finds no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(InputError, match="auto, cpu or cuda, got tpu"):
        choose_device("tpu")
