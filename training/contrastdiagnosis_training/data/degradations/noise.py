"""Low dose: the noise of filtered back projection."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.items import Items

LOW_DOSE_HU = (15.0, 30.0, 50.0, 80.0, 120.0)
"""Standard deviation by severity."""

ROLL_OFF_PER_MM = 0.5
"""f0, line pairs per millimetre; the spectrum peaks at f0 / sqrt(2)."""

SOFT_ROLL_OFF_PER_MM = 0.25
"""f0 behind a soft kernel: the same noise in coarser grains, which look more like tissue."""


def low_dose(items: Items) -> Tensor:
    """(B, D, H, W) with noise of `LOW_DOSE_HU`."""
    return _with_noise(items, ROLL_OFF_PER_MM)


def low_dose_soft(items: Items) -> Tensor:
    """(B, D, H, W) with noise of `LOW_DOSE_HU` as a soft kernel leaves it."""
    return _with_noise(items, SOFT_ROLL_OFF_PER_MM)


def _with_noise(items: Items, roll_off_per_mm: float) -> Tensor:
    amplitude = noise_amplitude(frequencies(items), roll_off_per_mm)
    amplitude = amplitude.expand(len(items.hu), -1, -1)
    sd_hu = items.strength(LOW_DOSE_HU)
    return items.hu + sd_hu[:, None, None, None] * coloured_noise(items, amplitude)


def frequencies(items: Items) -> Tensor:
    """(H, W) line pairs per millimetre of the discrete spectrum of a slice."""
    height, width = items.hu.shape[2:]
    _, row_mm, column_mm = items.spacing_mm
    down = torch.fft.fftfreq(height, row_mm, dtype=torch.float64)
    across = torch.fft.fftfreq(width, column_mm, dtype=torch.float64)
    return torch.hypot(down[:, None], across)


def noise_amplitude(f: Tensor, roll_off_per_mm: float = ROLL_OFF_PER_MM) -> Tensor:
    """(H, W) gain whose square is proportional to f exp(-(f / f0)^2) and has a mean of 1.

    The mean over the spectrum is the variance of white noise of variance 1 once filtered: it stays
    1 on any grid, also where the pixels are too coarse for the band. Logarithms, because pixels of
    a hundredth of a millimetre would leave nothing of it in floating point.

    Args:
        f: (H, W) line pairs per millimetre, float64, at least one of them not 0.
        roll_off_per_mm: f0.
    """
    log_power = f.log() - (f / roll_off_per_mm) ** 2
    power = (log_power - log_power.max()).exp()
    return (power / power.mean()).sqrt()


def coloured_noise(items: Items, amplitude: Tensor) -> Tensor:
    """(B, D, H, W) normal noise, coloured within the slices and white across them.

    As a sum of the grid's own waves it goes on seamlessly from one edge to the opposite one.

    Args:
        items: Whose shape and seeds.
        amplitude: (B, H, W) gain at each frequency of the discrete spectrum.
    """
    height, width = items.hu.shape[2:]
    half = items.tensor(amplitude[..., : width // 2 + 1])
    spectrum = torch.fft.rfft2(items.white_noise()) * half[:, None]
    return torch.fft.irfft2(spectrum, s=(height, width))
