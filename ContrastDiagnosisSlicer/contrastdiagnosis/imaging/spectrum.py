"""What the spectrum of lung tells of a scan: detail, likeness of slices, ghosts of motion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from contrastdiagnosis.imaging.noise import Texture

Band = tuple[float, float]

BANDS_PER_MM: tuple[Band, ...] = ((0.05, 0.12), (0.12, 0.2), (0.3, 0.4), (0.45, 0.55))
"""Line pairs per millimetre between which power is compared: coarse, middle, fine, finest."""

COARSE: Band = (0.15, 0.3)
FINE: Band = (0.3, 0.45)
"""Neighbouring slices are compared in these."""

ANISOTROPY_BANDS: tuple[Band, ...] = ((0.15, 0.3), (0.3, 0.45))

RING_PER_MM = 0.04
"""Width of the rings that the spectrum's mean fall is taken over."""

HIGHEST_PER_MM = 0.6
LOWEST_PER_MM = 0.06
"""Ghosts are looked for in detail between these."""

GHOST_MM = (1.5, 8.0)
"""How far off a ghost may lie in another slice; in its own it is told apart from `OWN_GHOST_MM`."""

OWN_GHOST_MM = 2.5
GHOST_ABOVE_MM = 7.0
"""How far up or down its slice may lie."""

MOST_SLICES_OFF = 4
LEAST_WAVES = 4
"""Coefficients of the spectrum that a band must hold."""


@dataclass(frozen=True)
class SpectralMeasures:
    """NaN where the pixels are too coarse or the slices too few.

    Attributes:
        fall_coarse_db: By how much power is less at 0.12 to 0.2 than at 0.05 to 0.12 per mm.
        fall_db: At 0.3 to 0.4 than at 0.12 to 0.2: blur, soft kernels.
        fall_fine_db: At 0.45 to 0.55 than at 0.3 to 0.4.
        alike: Correlation of slices 1.25 mm apart, or of neighbours further apart, at 0.15 to 0.3
            per mm.
        alike_fine: At 0.3 to 0.45 per mm.
        alike_far: Of slices 2.5 mm apart, at 0.15 to 0.3 per mm.
        alike_far_fine: Of slices 2.5 mm apart, at 0.3 to 0.45 per mm.
        anisotropy: How much more power waves of one direction have than those across it, 0 to 1.
        ghost: How like the lung is to itself somewhere else: doubled edges.
    """

    fall_coarse_db: float
    fall_db: float
    fall_fine_db: float
    alike: float
    alike_fine: float
    alike_far: float
    alike_far_fine: float
    anisotropy: float
    ghost: float


@dataclass(frozen=True, eq=False)
class _Waves:
    """(D, h, w) Fourier coefficients of the slices, the half that real values have."""

    values: NDArray[np.complex64]
    shape: tuple[int, int]
    spacing_mm: tuple[float, float, float]

    @cached_property
    def down(self) -> NDArray[np.float64]:
        """(h, 1) line pairs per millimetre."""
        return np.asarray(fft.fftfreq(self.shape[0], self.spacing_mm[1]))[:, None]

    @cached_property
    def across(self) -> NDArray[np.float64]:
        """(1, w)."""
        return np.asarray(fft.rfftfreq(self.shape[1], self.spacing_mm[2]))[None]

    @cached_property
    def frequency(self) -> NDArray[np.float64]:
        """(h, w)."""
        return np.hypot(self.down, self.across)

    @cached_property
    def displacement_mm(self) -> NDArray[np.float64]:
        """(H, W) length of each displacement that the transform back tells of."""
        down, across = (
            np.minimum(np.arange(n), n - np.arange(n)) * step
            for n, step in zip(self.shape, self.spacing_mm[1:], strict=True)
        )
        return np.hypot(down[:, None], across[None])

    @cached_property
    def power_of_slice(self) -> NDArray[np.float32]:
        """(D, h, w), those that stand for their mirror image too counted twice."""
        power = self.values.real**2 + self.values.imag**2
        power[..., 1:] *= 2
        return np.asarray(power)

    @cached_property
    def power(self) -> NDArray[np.float64]:
        """(h, w) of all slices."""
        return self.power_of_slice.sum(axis=0, dtype=np.float64)

    def common(self, off: int) -> NDArray[np.complex64]:
        """(h, w) cross-spectrum of slices and those `off` further."""
        one, other = self.values[off:], self.values[: len(self.values) - off]
        return np.asarray((one * other.conj()).sum(axis=0))

    def within(self, band: Band) -> NDArray[np.bool_] | None:
        """(h, w) the waves of a band; None where the pixels are too coarse for it."""
        if band[1] > 0.5 / max(self.spacing_mm[1:]):
            return None
        chosen = (self.frequency >= band[0]) & (self.frequency < band[1])
        return chosen if np.count_nonzero(chosen) >= LEAST_WAVES else None


def spectral_measures(texture: Texture) -> SpectralMeasures:
    """The measures of some slices' lung."""
    slices = texture.slices
    # Room for the largest displacement, so that a slice's ends do not meet.
    room = int(np.ceil((GHOST_MM[1] + 1) / slices.pixel_mm))
    height, width = (fft.next_fast_len(n + room, real=True) for n in slices.hu.shape[1:])
    values = fft.rfft2(texture.hu, (height, width))
    waves = _Waves(values, (height, width), slices.spacing_mm)
    coarsest, middle, fine, finest = (_mean_db(waves, band) for band in BANDS_PER_MM)
    step_mm = slices.spacing_mm[0]
    near, far = (min(max(1, round(mm / step_mm)), MOST_SLICES_OFF) for mm in (1.25, 2.5))
    return SpectralMeasures(
        fall_coarse_db=coarsest - middle,
        fall_db=middle - fine,
        fall_fine_db=fine - finest,
        alike=_alike(waves, near, COARSE),
        alike_fine=_alike(waves, near, FINE),
        alike_far=_alike(waves, far, COARSE),
        alike_far_fine=_alike(waves, far, FINE),
        anisotropy=_anisotropy(waves),
        ghost=_ghost(waves),
    )


def _mean_db(waves: _Waves, band: Band) -> float:
    chosen = waves.within(band)
    if chosen is None:
        return float("nan")
    # Twice is what all but the first column's coefficients count.
    count = 2 * np.count_nonzero(chosen) - np.count_nonzero(chosen[:, 0])
    return float(10 * np.log10(max(float(waves.power[chosen].sum()), 1e-6) / count))


def _alike(waves: _Waves, off: int, band: Band) -> float:
    """Correlation of slices in a band."""
    chosen = waves.within(band)
    if chosen is None or len(waves.values) <= off:
        return float("nan")
    common = waves.common(off).real.copy()
    common[:, 1:] *= 2
    power = waves.power_of_slice[:, chosen].sum(axis=1, dtype=np.float64)
    both = (power[off:].sum() + power[:-off].sum()) / 2
    return float(common[chosen].sum() / max(both, 1e-6))


def _anisotropy(waves: _Waves) -> float:
    """The largest of the bands'."""
    turn = np.exp(2j * np.arctan2(waves.down, waves.across))
    told = [float("nan")]
    for band in ANISOTROPY_BANDS:
        chosen = waves.within(band)
        if chosen is not None:
            power = waves.power[chosen]
            told.append(float(np.abs(power @ turn[chosen]) / max(power.sum(), 1e-6)))
    return float(np.fmax.reduce(told))


def _ghost(waves: _Waves) -> float:
    """Largest correlation with itself, displaced, once the spectrum's mean fall is taken away.

    The mean of two displaced copies has stripes in its spectrum. They are the Fourier transform of
    a peak at the displacement, as in a cepstrum.
    """
    highest = min(HIGHEST_PER_MM, 0.5 / max(waves.spacing_mm[1:]))
    frequency = waves.frequency
    window = np.where(
        (frequency > LOWEST_PER_MM) & (frequency < highest),
        np.cos(np.pi / 2 * frequency / highest) ** 2,
        0,
    )
    own = waves.power.copy()
    own[:, 1:] /= 2
    fall = _mean_fall(own, frequency)
    # The sum over the whole plane, of which half is stored.
    all_of = 2 * window.sum() - window[:, 0].sum()
    flat = own / fall
    mean = (2 * (flat * window).sum() - (flat * window)[:, 0].sum()) / max(all_of, 1e-6)
    away = waves.displacement_mm
    told = [_peak(waves, (flat - mean) * window, all_of, away > OWN_GHOST_MM)]
    total, step_mm = len(waves.values), waves.spacing_mm[0]
    for off in range(1, min(MOST_SLICES_OFF, total - 1) + 1):
        if off * step_mm > GHOST_ABOVE_MM:
            break
        flat_common = waves.common(off) / fall * (total / (total - off))
        told.append(_peak(waves, flat_common * window, all_of, away >= GHOST_MM[0]))
    return float(np.fmax.reduce(told))


def _peak(waves: _Waves, spectrum: NDArray, all_of: float, far: NDArray[np.bool_]) -> float:
    """NaN where pixels are too large for any displacement that is asked about."""
    asked = far & (waves.displacement_mm <= GHOST_MM[1])
    if not asked.any():
        return float("nan")
    found = fft.irfft2(spectrum.astype(np.complex64), waves.shape) * (
        waves.shape[0] * waves.shape[1] / max(all_of, 1e-6)
    )
    return float(found[asked].max())


def _mean_fall(power: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h, w) mean power at each frequency, whatever the direction."""
    ring = (frequency / RING_PER_MM).astype(int)
    count = ring.max() + 1
    sums = np.bincount(ring.ravel(), power.ravel(), count)
    means = sums / np.maximum(np.bincount(ring.ravel(), minlength=count), 1)
    middles = (np.arange(count) + 0.5) * RING_PER_MM
    return np.asarray(np.exp(np.interp(frequency, middles, np.log(np.maximum(means, 1e-6)))))
