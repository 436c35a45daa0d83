"""Degradations are what they say, by their equations, and the same for everybody."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis_training.data.degradations import degrade as door
from contrastdiagnosis_training.data.degradations.along_axis import slab_weights
from contrastdiagnosis_training.data.degradations.artefacts import OFFSET_HU, RING_HU, STREAK_HU
from contrastdiagnosis_training.data.degradations.degrade import (
    DEGRADATIONS,
    WORST,
    Operation,
    degrade,
    item_seed,
)
from contrastdiagnosis_training.data.degradations.items import Items
from contrastdiagnosis_training.data.degradations.kernel import DETAIL_MM, QUIET_HU, SHARP_GAIN
from contrastdiagnosis_training.data.degradations.motion import PATH_MM, arcs, mean_of_copies
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.testing import assert_close

SPACING_MM = (1.25, 0.7, 0.8)
NOISE_HU = {1: 15, 2: 30, 3: 50, 4: 80, 5: 120}


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Small tensors."""


@pytest.fixture(scope="module")
def chest():
    """(D, H, W) of a hilum: lung with its vessels, a bronchus, the heart's border, noise."""
    phantom = make_phantom([], shape=(30, 80, 200), spacing_mm=SPACING_MM)
    return torch.from_numpy(phantom.volume.hu).float()[3:27, 12:68, 18:82].contiguous()


def run(hu, operation, severity, seed=0, spacing_mm=SPACING_MM):
    """One scan, degraded."""
    return degrade(hu[None], [operation], torch.tensor([severity]), spacing_mm, [seed])[0]


def of_all(hu, operation, seed=0, spacing_mm=SPACING_MM):
    """(6, D, H, W) of one scan in all severities from 0 on, with one seed."""
    steps = torch.arange(WORST + 1)
    copies = hu.expand(len(steps), *hu.shape)
    return degrade(copies, [operation] * 6, steps, spacing_mm, [seed] * 6)


# The door


def test_the_operations_are_those_of_the_methods():
    assert get_args(Operation) == DEGRADATIONS == tuple(door._RUN)
    assert len(DEGRADATIONS) == 10


@pytest.mark.parametrize("operation", DEGRADATIONS)
def test_nothing_changes_at_severity_0_and_all_above_changes_something(chest, operation):
    before = chest.clone()
    degraded = of_all(chest, operation)
    assert torch.equal(chest, before)
    assert torch.equal(degraded[0], chest)
    assert degraded.shape == (6, *chest.shape) and degraded.dtype == torch.float32
    assert degraded.isfinite().all()
    assert ((degraded[1:] - chest).abs().flatten(1).amax(1) > 3).all()


@pytest.mark.parametrize("operation", ["low_dose", "low_dose_soft", "sharp_kernel"])
def test_noise_does_not_move_the_mean(chest, operation):
    shift = (of_all(chest, operation) - chest).mean(dim=(1, 2, 3))
    assert (shift.abs() < 2).all()


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(DEGRADATIONS), st.integers(0, WORST), st.integers(-(2**70), 9)),
        min_size=2,
        max_size=6,
    )
)
def test_an_item_does_not_depend_on_the_others(rows):
    hu = torch.randn(len(rows), 6, 9, 8, generator=torch.Generator().manual_seed(1)) * 300 - 500
    names, steps, seeds = zip(*rows, strict=True)
    together = degrade(hu, names, torch.tensor(steps), SPACING_MM, seeds)
    for n, (operation, severity, seed) in enumerate(rows):
        assert_close(together[n], run(hu[n], operation, severity, seed), rtol=0, atol=1e-2)


@pytest.mark.parametrize("operation", DEGRADATIONS)
def test_the_seed_alone_decides_what_is_drawn(chest, operation):
    torch.manual_seed(3)
    first = run(chest, operation, 4, seed=7)
    torch.manual_seed(4)
    assert torch.equal(first, run(chest, operation, 4, seed=7))
    if operation not in ("soft_kernel", "blur"):
        others = [run(chest, operation, 4, seed=s) for s in (8, 9, 10, 11)]
        assert any(not torch.equal(first, other) for other in others)


def test_two_operations_with_one_seed_draw_different_noise():
    flat = torch.zeros(4, 32, 32)
    a, b = (run(flat, name, 3, seed=5) for name in ("low_dose", "sharp_kernel"))
    both = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))
    assert both[0, 1].abs() < 0.1


def test_a_seed_tells_case_operation_and_severity_apart():
    cases = [(c, o, s) for c in ("a", "b1", "b") for o in DEGRADATIONS for s in range(1, 6)]
    seeds = {item_seed(*case) for case in cases}
    assert len(seeds) == len(cases)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_half_precision_around_it_changes_nothing(chest):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(chest, "blur", 3)
    assert torch.equal(inside, run(chest, "blur", 3))


SCAN = torch.zeros(2, 3, 4, 5)
NOT_FINITE = torch.where(torch.arange(5) == 2, torch.nan, SCAN)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hu": SCAN[0]}, "wanted \\(B, D, H, W\\) float32 .* got \\(3, 4, 5\\)"),
        ({"hu": SCAN.double()}, "float32 Hounsfield units .* got \\(2, 3, 4, 5\\) torch.float64"),
        ({"hu": SCAN[..., :1, :1]}, "more than a pixel a slice"),
        ({"hu": SCAN[:, :0]}, "wanted \\(B, D, H, W\\)"),
        ({"hu": NOT_FINITE}, "wanted finite Hounsfield units"),
        ({"hu": NOT_FINITE * torch.inf}, "wanted finite Hounsfield units"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "wanted three distances above 0 mm"),
        ({"spacing_mm": (1.0, 1.0)}, "wanted three distances above 0 mm"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "wanted three distances above 0 mm"),
        ({"operations": ["ring"]}, "for each of 2 items, got 1, \\(2,\\) and 2"),
        ({"severity": torch.tensor([1, 1, 1])}, "for each of 2 items, got 2, \\(3,\\) and 2"),
        ({"severity": torch.tensor([[1, 1]])}, "for each of 2 items, got 2, \\(1, 2\\) and 2"),
        ({"seeds": [1, 2, 3]}, "for each of 2 items, got 2, \\(2,\\) and 3"),
        ({"operations": ["ring", "rain"]}, "wanted operations among .* got \\['rain'\\]"),
        ({"severity": torch.tensor([1.0, 2.0])}, "wanted whole severities, got torch.float32"),
        ({"severity": torch.tensor([True, False])}, "wanted whole severities, got torch.bool"),
        ({"severity": torch.tensor([0, 6])}, "wanted severities from 0 to 5, got \\[0, 6\\]"),
        ({"severity": torch.tensor([-1, 3])}, "wanted severities from 0 to 5, got \\[-1, 3\\]"),
    ],
)
def test_what_cannot_be_degraded_is_refused(change, match):
    arguments = {
        "hu": SCAN,
        "operations": ["ring", "blur"],
        "severity": torch.tensor([0, 5]),
        "spacing_mm": SPACING_MM,
        "seeds": [1, 2],
    }
    with pytest.raises(ValueError, match=match):
        degrade(**{**arguments, **change})


# How bad it is


def psnr(a, b):
    return -10 * (((a - b) / 1400) ** 2).mean().log10()


def ssim(a, b):
    """Mean of the index (Wang et al., 2004) over 5 x 5 x 5 windows of two (D, H, W) scans."""

    def mean(x):
        return ndimage.uniform_filter(x, 5)[2:-2, 2:-2, 2:-2]

    a, b = ((x.clamp(-1000, 400).double().numpy() + 1000) / 1400 for x in (a, b))
    ma, mb = mean(a), mean(b)
    va, vb, both = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    light = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
    return (light * (2 * both + 9e-4) / (va + vb + 9e-4)).mean()


def test_the_index_is_1_for_equals_and_that_of_the_definition_elsewhere(chest):
    assert ssim(chest, chest) == pytest.approx(1)
    random = np.random.default_rng(0)
    a, b = random.uniform(0, 1, (2, 5, 5, 5))
    value = (2 * a.mean() * b.mean() + 1e-4) * (2 * np.cov(a.flat, b.flat, ddof=0)[0, 1] + 9e-4)
    value /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
    pair = (torch.from_numpy(x * 1400 - 1000) for x in (a, b))
    assert ssim(*pair) == pytest.approx(value)


@pytest.mark.parametrize("operation", DEGRADATIONS)
def test_a_scan_is_the_less_like_itself_the_higher_the_severity(chest, operation):
    for seed in range(2):
        degraded = of_all(chest, operation, seed)[1:]
        for measure in (psnr, ssim):
            likeness = [float(measure(chest, d)) for d in degraded]
            assert likeness == sorted(likeness, reverse=True), (measure.__name__, likeness)
            assert len(set(likeness)) == WORST
        assert psnr(chest, degraded[-1]) < psnr(chest, degraded[0]) - 3


# Noise


@pytest.mark.parametrize(
    "spacing_mm", [(1.25, 0.7, 0.7), (2.5, 0.9, 0.6), (1, 2.5, 2.5), (1, 0.02, 0.02)]
)
@pytest.mark.parametrize("level_hu", [-1000, 0])
def test_the_noise_has_its_standard_deviation_on_any_grid(spacing_mm, level_hu):
    flat = torch.full((60, 64, 72), float(level_hu))
    noise = of_all(flat, "low_dose", seed=2, spacing_mm=spacing_mm) - flat
    for severity, sd in NOISE_HU.items():
        # Pixels of 0.02 mm hold a few waves, of which a sample says little.
        bound = 0.03 if min(spacing_mm) > 0.1 else 0.15
        assert noise[severity].std() == pytest.approx(sd, rel=bound)
        assert noise[severity].mean().abs() < 2


def test_in_expectation_the_standard_deviation_is_exact():
    flat = torch.zeros(400, 8, 8)
    drawn = degrade(
        flat.expand(20, -1, -1, -1), ["low_dose"] * 20, torch.full((20,), 3), SPACING_MM, range(20)
    )
    assert drawn.square().mean().sqrt() == pytest.approx(50, rel=0.01)
    # Of every pixel: none is louder than the others.
    assert (drawn.std(dim=(0, 1)) / 50 - 1).abs().max() < 0.05


MIDDLES = np.arange(0.03, 0.78, 0.04)
"""Of bins of line pairs per millimetre."""


def radial_power(noise, pixel_mm):
    """Mean over the slices of (D, N, N) and over each of the bins, adding up to 1."""
    power = np.abs(np.fft.fft2(noise.double().numpy())) ** 2
    f = np.fft.fftfreq(noise.shape[1], pixel_mm)
    bins = np.round((np.hypot(f[:, None], f) - MIDDLES[0]) / 0.04).astype(int)
    radial = np.array([power.mean(axis=0)[bins == n].mean() for n in range(len(MIDDLES))])
    return radial / radial.sum()


@pytest.mark.parametrize(("operation", "f0"), [("low_dose", 0.5), ("low_dose_soft", 0.25)])
def test_the_noise_has_its_spectrum_within_slices_and_none_across(operation, f0):
    noise = run(torch.zeros(256, 96, 96), operation, 4, seed=1, spacing_mm=(1.25, 0.6, 0.6))
    assert noise.std() == pytest.approx(80, rel=0.03)
    radial = radial_power(noise, 0.6)
    wanted = MIDDLES * np.exp(-((MIDDLES / f0) ** 2))
    assert_close(radial, wanted / wanted.sum(), rtol=0.08, atol=2e-3)
    # Where d/df f exp(-(f / f0)^2) = 0: at f0 / sqrt(2).
    assert MIDDLES[radial.argmax()] == pytest.approx(f0 / np.sqrt(2), abs=0.04)
    assert noise.mean(dim=(1, 2)).abs().max() < 1e-3
    across = torch.fft.rfft(noise.double(), dim=0).abs().square().mean(dim=(1, 2))
    assert across[1:-1].std() / across[1:-1].mean() < 0.04
    assert (noise[1:] * noise[:-1]).mean().abs() < 0.02 * noise.square().mean()


@pytest.mark.parametrize("severity", [1, 5])
def test_a_sharp_kernel_gives_its_noise_the_response_that_it_gives_the_image(severity):
    noise = run(torch.zeros(256, 96, 96), "sharp_kernel", severity, spacing_mm=(1.25, 0.6, 0.6))
    gain = 1 + SHARP_GAIN[severity - 1] * (1 - np.exp(-2 * (np.pi * DETAIL_MM * MIDDLES) ** 2))
    wanted = MIDDLES * np.exp(-((MIDDLES / 0.5) ** 2)) * gain**2
    assert_close(radial_power(noise, 0.6), wanted / wanted.sum(), rtol=0.08, atol=1e-3)


def test_a_sharp_kernel_sharpens_and_amplifies_the_noise():
    """At a step across which nothing else changes, by its equation; on flat tissue, noise alone."""
    step = torch.where(torch.arange(80) < 40, -800.0, 40.0).expand(64, 80, 80)
    for severity, a in enumerate(SHARP_GAIN, start=1):
        many = run(step, "sharp_kernel", severity, spacing_mm=(1.25, 0.7, 0.7))
        smooth = ndimage.gaussian_filter1d(step[0, 0].numpy(), DETAIL_MM / 0.7, mode="nearest")
        wanted = step[0, 0].numpy() + a * (step[0, 0].numpy() - smooth)
        assert np.abs(many.mean(dim=(0, 1)).numpy() - wanted).max() < 3
        noise = many[..., :30] + 800
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(80, 0.7), np.fft.fftfreq(80, 0.7)))
        power = f * np.exp(-((f / 0.5) ** 2))
        gain = 1 + a * (1 - np.exp(-2 * (np.pi * DETAIL_MM * f) ** 2))
        sd = QUIET_HU * np.sqrt((power * gain**2).sum() / power.sum())
        assert noise.std() == pytest.approx(sd, rel=0.04)


# Slices and resolution


def slow_slabs(line, step, thickness, phase):
    """A line averaged over slabs in steps of a 400th voxel, and joined by straight lines."""
    fine = 400
    last = len(line) - 1

    def mean_at(middle):
        places = middle + thickness * ((np.arange(fine) + 0.5) / fine - 0.5)
        nearest = [min(max(round(p / step), 0), last) for p in places]
        return np.mean([line[n] for n in nearest])

    middles = [phase + thickness * n for n in range(-30, 60)]
    values = [mean_at(m) for m in middles]
    return np.array([np.interp(n * step, middles, values) for n in range(len(line))])


@pytest.mark.parametrize(
    ("step", "thickness", "phase"),
    [(1.25, 2, 0.0), (1.25, 2, 1.3), (0.625, 2.5, 2.2), (1.0, 7.5, 3.3), (3.0, 3.75, 0.9)],
)
def test_thick_slices_are_means_of_slabs_joined_by_lines(step, thickness, phase):
    line = np.random.default_rng(3).normal(-500, 300, 23)
    made = slab_weights(23, thickness / step, phase / step) @ line
    assert_close(made, slow_slabs(line, step, thickness, phase), rtol=0, atol=5)
    assert_close(slab_weights(23, thickness / step, phase / step).sum(1), np.ones(23))


def test_the_first_slab_is_drawn_and_all_are_as_thick_as_severity_says(chest):
    for seed in range(4):
        items = Items(chest[None], [4], SPACING_MM, [door.hashed(f"thick_slices {seed}")])
        weights = slab_weights(24, 4.0, float(items.uniform(1)) * 4.0)  # 5 mm of 1.25 mm
        wanted = np.einsum("od,djk->ojk", weights, chest.numpy())
        assert_close(run(chest, "thick_slices", 4, seed), torch.from_numpy(wanted).float(),
                     rtol=0, atol=0.01)  # fmt: skip


def test_slices_that_are_thick_already_stay_as_they_are(chest):
    degraded = of_all(chest, "thick_slices", spacing_mm=(3.75, 0.7, 0.7))
    same = [torch.equal(d, chest) for d in degraded]
    assert same == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("operation", "sigmas_mm", "axes"),
    [
        ("soft_kernel", (0.4, 0.6, 0.8, 1.0, 1.2), (0, 1, 1)),
        ("blur", (0.5, 0.75, 1.0, 1.25, 1.5), (1, 1, 1)),
    ],
)
def test_a_blur_is_that_of_scipy_in_millimetres(chest, operation, sigmas_mm, axes):
    degraded = of_all(chest, operation)
    for severity, sigma_mm in enumerate(sigmas_mm, start=1):
        sigma = [sigma_mm * a / s for a, s in zip(axes, SPACING_MM, strict=True)]
        wanted = ndimage.gaussian_filter(chest.numpy(), sigma, truncate=6, mode="nearest")
        assert_close(degraded[severity], torch.from_numpy(wanted), rtol=0, atol=0.05)


# Motion and artefacts


def test_copies_along_a_known_path_are_averaged(chest):
    path_mm = torch.tensor([[[1.0, -0.9, 0.5], [0.0, 2.1, -1.2], [-2.5, 0.0, 0.0]]])
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    wanted = sum(
        w * ndimage.shift(chest.numpy(), mm / SPACING_MM, order=1, mode="nearest")
        for w, mm in zip(weights[0].numpy(), path_mm[0].numpy(), strict=True)
    )
    made = mean_of_copies(chest[None], path_mm, weights, SPACING_MM)[0]
    assert_close(made, torch.from_numpy(wanted), rtol=0, atol=0.05)


@pytest.fixture(scope="module")
def moved_points():
    """(80, 5) what a point, 1 in the middle of 31 x 31 x 31 mm, becomes: weights, mean, length."""
    point = torch.zeros(31, 31, 31)
    point[15, 15, 15] = 1000
    count = 80
    many = degrade(
        point.expand(count, -1, -1, -1), ["motion"] * count, torch.full((count,), 5),
        (1.0, 1.0, 1.0), range(count),
    )  # fmt: skip
    place = torch.stack(torch.meshgrid(*[torch.arange(31.0)] * 3, indexing="ij")) - 15
    share = many / 1000
    mean = torch.einsum("bkji,ckji->bc", share, place)
    variance = torch.einsum("bkji,ckji->bc", share, place**2).sum(1)
    return many, share.sum(dim=(1, 2, 3)), mean, variance


def test_motion_keeps_what_there_is_and_its_mean_place(moved_points):
    _, whole, mean, _ = moved_points
    assert_close(whole, torch.ones(80), rtol=0, atol=1e-4)
    assert_close(mean, torch.zeros(80, 3), rtol=0, atol=1e-3)


def test_half_of_the_items_are_seen_twice_and_the_path_is_as_long_as_said(moved_points):
    many, _, _, variance = moved_points
    parts = [ndimage.label(scan.numpy() > 0.01, np.ones((3, 3, 3))) for scan in many]
    heights = [
        sorted(ndimage.sum(scan.numpy(), label, range(1, n + 1)) / 1000)
        for scan, (label, n) in zip(many, parts, strict=True)
    ]
    double = np.array([len(h) == 2 and np.allclose(h, (0.4, 0.6), atol=1e-3) for h in heights])
    assert 28 <= double.sum() <= 52
    # Two copies 6 mm apart: 0.6 * 0.4 * 36 mm2, and up to a quarter along each axis by the lines.
    spread = variance[torch.from_numpy(double)]
    assert (spread >= 8.63).all() and (spread <= 8.65 + 0.75 * 2 * 0.5).all()
    assert all(len(h) <= 4 for h in heights)
    assert {len(h) for h in heights} >= {2, 3}


def test_a_path_is_an_arc_of_its_length():
    items = Items(torch.zeros(40, 2, 2, 2), [1 + n % 5 for n in range(40)], SPACING_MM, range(40))
    copies, bends = torch.full((40, 1), 4), torch.zeros(40, 1, dtype=torch.bool)
    path = arcs(items, copies, bends)
    chords = (path[:, 1:] - path[:, :-1]).norm(dim=2)
    assert_close(chords, chords[:, :1].expand(-1, 3))  # Evenly.
    length = torch.tensor(PATH_MM).repeat(8)
    assert (chords.sum(1) <= length + 1e-5).all()
    assert (chords.sum(1) >= 0.98 * length).all()
    assert (path[:, 1].abs().amin(1) > 0).all()  # Along all three axes.


@pytest.mark.parametrize("seed", range(6))
def test_rings_are_round_and_of_their_height(seed):
    spacing_mm = (2.0, 0.25, 0.25)
    flat = torch.zeros(12, 160, 160)
    degraded = of_all(flat, "ring", seed, spacing_mm)
    for severity, height in enumerate(RING_HU, start=1):
        assert_close(degraded[severity], degraded[1] * (height / RING_HU[0]))
    items = Items(flat[None], [5], spacing_mm, [door.hashed(f"ring {seed}")])
    centre = (items.directions(2) * items.uniform(1, 0, 120.0))[0].tolist()
    place = (np.arange(160) - 79.5) * 0.25
    radius = np.hypot(place[:, None] - centre[0], place - centre[1])
    # Within a ring's width of the distance from the centre all voxels are alike.
    for k in (0, 11):
        voxels = degraded[5, k].numpy()
        bins = np.round(radius / 0.05).astype(int)
        low = ndimage.minimum(voxels, bins, np.unique(bins))
        high = ndimage.maximum(voxels, bins, np.unique(bins))
        assert (high - low).max() <= 120 * 4 * 0.06 / 0.25
        assert np.abs(voxels).max() >= 0.2 * 0.5 * 120 - 1e-3
        assert np.abs(voxels).max() <= 4 * 120
        assert (voxels == 0).any()
        # A ring that no other touches is 1.4 mm wide, with half a voxel of 0.25 mm on both sides.
        lit = np.unique(bins[voxels != 0])
        widths_mm = [0.05 * len(run) for run in np.split(lit, np.flatnonzero(np.diff(lit) > 2) + 1)]
        assert any(1.5 < width < 1.75 for width in widths_mm), widths_mm


def test_some_rings_are_alike_in_all_slices_and_some_wax_and_wane():
    scans = torch.zeros(16, 12, 40, 40)
    rings = degrade(scans, ["ring"] * 16, torch.full((16,), 5), SPACING_MM, range(16))
    alike = [torch.equal(r[0].expand_as(r), r) for r in rings]
    assert 3 <= sum(alike) <= 13
    steps = (rings[:, 1:] - rings[:, :-1]).abs().amax()
    assert 0 < steps < 0.1 * 4 * 120  # Slowly.


@pytest.mark.parametrize("seed", range(6))
def test_streaks_change_sign_around_the_metal_and_fade_from_it(seed):
    spacing_mm = (2.0, 0.7, 0.7)
    degraded = of_all(torch.zeros(3, 80, 80), "streak", seed, spacing_mm)
    for severity, height in enumerate(STREAK_HU, start=1):
        assert_close(degraded[severity], degraded[1] * (height / STREAK_HU[0]))
    items = Items(degraded[:1], [5], spacing_mm, [door.hashed(f"streak {seed}")])
    metal = items.directions(2) * items.uniform(1, 1.0, 1.6) * 28
    assert 28 <= metal.norm() <= 1.6 * 28
    place = (torch.arange(80) - 39.5) * 0.7
    distance = torch.hypot(place[:, None] - metal[0, 0], place - metal[0, 1])
    voxels = degraded[5, 0]
    assert (voxels.abs() <= 400 / (1 + distance / 30) + 1e-3).all()
    assert torch.equal(degraded[5, 0], degraded[5, 2])
    reach = voxels[distance < 40]
    assert reach.max() > 60 and reach.min() < -60


@pytest.mark.parametrize("seed", range(4))
def test_an_offset_is_one_number_up_or_down(chest, seed):
    shift = of_all(chest, "hu_offset", seed)[1:] - chest
    (sign,) = shift.sign().unique().tolist()
    for severity, offset in enumerate(OFFSET_HU):
        assert_close(shift[severity], torch.full_like(chest, sign * offset))


def test_offsets_go_both_ways():
    scans = torch.zeros(12, 2, 2, 2)
    shifted = degrade(scans, ["hu_offset"] * 12, torch.ones(12).long(), SPACING_MM, range(12))
    assert set(shifted.unique().tolist()) == {-10, 10}
