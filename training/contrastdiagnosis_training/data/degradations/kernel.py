"""Resolution: soft and sharp reconstruction kernels, and partial volume."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.along_axis import gaussian
from contrastdiagnosis_training.data.degradations.items import Items
from contrastdiagnosis_training.data.degradations.noise import (
    coloured_noise,
    frequencies,
    noise_amplitude,
)

SOFT_MM = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Standard deviation of the soft kernel's point spread, in plane, by severity."""

SHARP_GAIN = (0.5, 1.0, 1.5, 2.0, 2.5)
"""How much of its detail a sharp kernel adds to the image, by severity."""

DETAIL_MM = 0.7
"""Detail is what a Gaussian of this standard deviation takes away, in plane."""

QUIET_HU = 10.0
"""Noise of a scan before a sharp kernel, of the spectrum of low dose. The kernel amplifies it as it
does the image: to about 14 HU at severity 1, 30 HU at severity 5. What noise the scan has of its
own is sharpened with it."""

PARTIAL_VOLUME_MM = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Standard deviation in all three directions, by severity."""

IN_PLANE = (2, 3)


def soft_kernel(items: Items) -> Tensor:
    """(B, D, H, W) smoothed within the slices."""
    sigma_mm = [SOFT_MM[s - 1] for s in items.severity]
    return gaussian(items.hu, sigma_mm, items.spacing_mm, IN_PLANE)


def sharp_kernel(items: Items) -> Tensor:
    """(B, D, H, W) with sharpened edges and noise to match: x + a (x - G * x), a `SHARP_GAIN`."""
    gain = items.strength(SHARP_GAIN)[:, None, None, None]
    smooth = gaussian(items.hu, [DETAIL_MM] * len(items.hu), items.spacing_mm, IN_PLANE)
    return items.hu + gain * (items.hu - smooth) + QUIET_HU * _sharpened_noise(items)


def _sharpened_noise(items: Items) -> Tensor:
    """(B, D, H, W) noise that had a variance of 1 before the kernel."""
    f = frequencies(items)
    smooth = (-2 * (torch.pi * DETAIL_MM * f) ** 2).exp()
    gain = torch.tensor([SHARP_GAIN[s - 1] for s in items.severity], dtype=torch.float64)
    response = 1 + gain[:, None, None] * (1 - smooth)
    return coloured_noise(items, noise_amplitude(f) * response)


def blur(items: Items) -> Tensor:
    """(B, D, H, W) smoothed alike in all directions, as larger voxels do."""
    sigma_mm = [PARTIAL_VOLUME_MM[s - 1] for s in items.severity]
    return gaussian(items.hu, sigma_mm, items.spacing_mm)
