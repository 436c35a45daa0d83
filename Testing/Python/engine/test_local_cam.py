"""Siamese Local-CAM (docs/methods.md 7.7: C1-C11) and the oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.maps.local_cam import (
    DIFFERENT,
    SIMILAR,
    LocalCam,
    level_product,
    pair_maps,
    window_mean,
)
from contrastdiagnosis.model.align_dist import distance
from contrastdiagnosis.model.network import NoduleNet, NoduleNetConfig, inside_of
from contrastdiagnosis.protocol.map_variant import WIDEST_WINDOW
from monai.visualize import GradCAM
from pytorch_grad_cam import HiResCAM, LayerCAM
from scipy.stats import spearmanr
from torch import nn
from torch.testing import assert_close

TINY = NoduleNetConfig(channels=(4, 6, 8, 10), embedding=5)
PUBLISHED = replace(TINY, mask_pooling=False, statistics=False, code_norm=False)
"""Global average pooling and a linear map: what C4, C5 and C8 hold for."""
SHAPE = (16, 32, 48)

SIGNED = LocalCam(window_cells=1, rectified=False)


def net(config=TINY, seed=0):
    torch.manual_seed(seed)
    network = NoduleNet(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    # A mask with an inside and an outside.
    nn.init.constant_(network.mask_head.bias, 0.0)
    return network.eval().requires_grad_(False)


def patches(count, seed=1):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def embeddings(network, images):
    return torch.stack(
        [network(torch.stack([x, x.flip(-1)])[:, None]).embedding.mean(dim=0) for x in images]
    )


def explain(network, query, cases, options=LocalCam(), shown=None):
    shown = list(range(len(cases))) if shown is None else shown
    pixels = cases[shown] if shown else None
    return pair_maps(network, query, embeddings(network, cases), pixels, shown, options)


def all_maps(maps):
    return [m for side in (maps.query, maps.case) for m in (side.similar, side.different)]


def test_c1_an_identical_pair_has_finite_maps_of_zero():
    query = patches(1)[0]
    maps = explain(net(), query, query[None])
    assert maps.distance.item() == pytest.approx(0, abs=1e-6)
    for part in all_maps(maps):
        assert part.isfinite().all()
        assert not part.any()


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_c2_similar_and_different_never_overlap_on_one_level(level):
    torch.manual_seed(0)
    activation, gradient = torch.rand(2, 5, 4, 4, 4), torch.randn(2, 5, 4, 4, 4)
    options = replace(SIGNED, levels=(level,))
    both = [level_product([activation], [gradient], s, options) for s in (SIMILAR, DIFFERENT)]
    assert not (both[0] * both[1]).any()
    assert both[0].any()
    assert both[1].any()


def test_c3_nothing_is_claimed_where_nothing_is_active():
    activation, gradient = torch.rand(2, 5, 4, 4, 4), torch.randn(2, 5, 4, 4, 4)
    activation[..., :2] = 0
    options = LocalCam(levels=(3,), window_cells=None)
    assert not level_product([activation], [gradient], SIMILAR, options)[..., :2].any()


def gradients_at(network, pair, level):
    """Activations and gradients of d at one level, by plain autograd, without mirror images."""
    features = network(pair[:, None])
    # The pyramid of a network without gradients has to be rebuilt from its own input.
    image = pair[:, None].clone().requires_grad_()
    features = network(image)
    d = distance(features.embedding[:1], features.embedding[1:])
    activation = features.pyramid[level]
    return activation.detach(), torch.autograd.grad(d.sum(), activation)[0], d.item()


def test_c4_completeness_before_pooling_and_the_linear_map():
    activation, gradient, d = gradients_at(net(PUBLISHED), patches(2), level=4)
    assert (gradient * activation).sum().item() == pytest.approx(d, rel=1e-4)


def test_c5_voxel_wise_equals_grad_cam_at_pooling_and_differs_above():
    options = {r: replace(SIGNED, window_cells=r) for r in (1, None)}
    for level, same in ((4, True), (3, False)):
        activation, gradient, _ = gradients_at(net(PUBLISHED), patches(2), level)
        local, whole = (
            level_product([activation], [gradient], DIFFERENT, replace(o, levels=(level,)))
            for o in options.values()
        )
        assert torch.allclose(local, whole, rtol=1e-3, atol=1e-7) == same


def test_c6_the_scaled_map_does_not_change_with_the_unit_of_z():
    network, query, cases = net(), patches(1)[0], patches(2, seed=2)
    before = explain(network, query, cases)
    network.align.weight.mul_(7)
    network.align.bias.mul_(7)
    after = explain(network, query, cases)
    assert_close(after.distance, 7 * before.distance, rtol=1e-4, atol=1e-5)
    for a, b in zip(all_maps(after), all_maps(before), strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_c7_nothing_is_left_behind():
    network = net()
    explain(network, patches(1)[0], patches(3, seed=2))
    assert not network.training
    assert torch.is_grad_enabled()
    for parameter in network.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


class DistanceTo(nn.Module):
    """The distance to a fixed embedding as a single logit: what CAM libraries can explain."""

    def __init__(self, network, embedding):
        super().__init__()
        self.network, self.embedding = network, embedding

    def forward(self, image):
        return distance(self.network(image).embedding, self.embedding)[:, None]


LEVELS = {4: 2, 3: 1, 2: 0}
"""Which block of the encoder ends at which level of the pyramid."""


@pytest.fixture
def target():
    """A distance, and everything the libraries need of it."""
    network = net(PUBLISHED).requires_grad_(True)
    images = patches(2)[:, None]
    other = network(images[1:]).embedding.detach()
    return network, images[:1], other, DistanceTo(network, other).eval()


def ours_at(target, level, options, sign=DIFFERENT):
    network, image, other, _ = target
    image = image.clone().requires_grad_()
    features = network(image)
    activation = features.pyramid[level]
    d = distance(features.embedding, other).sum()
    (gradient,) = torch.autograd.grad(d, activation)
    return level_product(
        [activation.detach()], [gradient], sign, replace(options, levels=(level,))
    )[0, 0].numpy()


def scaled(x):
    return (x - x.min()) / (x.max() - x.min())


@pytest.mark.parametrize("level", LEVELS)
def test_c8_averaged_everywhere_it_is_monais_grad_cam(target, level):
    _, image, _, model = target
    cam = GradCAM(
        nn_module=model, target_layers=f"network.encoder.{LEVELS[level]}",
        upsampler=lambda size: lambda x: x, postprocessing=torch.relu,
    )  # fmt: skip
    theirs = cam(x=image, class_idx=0)[0, 0].detach().numpy()
    ours = ours_at(target, level, replace(SIGNED, window_cells=None))
    assert ours.max() > 0
    np.testing.assert_allclose(scaled(ours), scaled(theirs), atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("method", "options"), [(HiResCAM, SIGNED), (LayerCAM, LocalCam(window_cells=1))]
)
def test_c8_voxel_wise_it_is_hirescam_and_rectified_layercam(target, level, method, options):
    network, image, _, model = target
    with method(model=model, target_layers=[network.encoder[LEVELS[level]]]) as cam:
        cam(input_tensor=image, targets=[lambda output: output[0]])
        activation = cam.activations_and_grads.activations[0].numpy()
        gradient = cam.activations_and_grads.gradients[0].numpy()
        theirs = cam.get_cam_image(
            image, network.encoder[LEVELS[level]], None, activation, gradient, False
        )[0]
    ours = ours_at(target, level, options)
    assert ours.max() > 0
    np.testing.assert_allclose(ours, np.maximum(theirs, 0), rtol=1e-4, atol=1e-7)


def test_c9_an_empty_deepest_map_empties_the_finer_ones():
    deep, fine = torch.zeros(1, 3, 2, 2, 2), torch.rand(1, 3, 4, 4, 4)
    gradients = [-torch.ones_like(deep), -torch.ones_like(fine)]
    options = LocalCam(levels=(4, 3))
    product = level_product([deep, fine], gradients, SIMILAR, options)
    assert product.isfinite().all()
    assert not product.any()


@pytest.mark.parametrize("options", [LocalCam(levels=(4, 3, 2)), LocalCam(), SIGNED])
def test_c10_shifting_both_patches_by_a_stride_shifts_the_maps(options):
    """Blobs in emptiness, far from the border, moved by 16 voxels: one cell of a4."""
    network = net(PUBLISHED)
    blobs = torch.zeros(2, 16, 160, 160)
    blobs[:, 4:12, 70:84, 66:90] = torch.rand(
        2, 8, 14, 24, generator=torch.Generator().manual_seed(3)
    )
    still, moved = (
        explain(network, x[0], x[1:], options) for x in (blobs, blobs.roll((16, -16), (2, 3)))
    )
    assert_close(still.distance, moved.distance, rtol=1e-3, atol=1e-5)
    here, there = (slice(None), slice(56, 104), slice(56, 104)), (
        slice(None), slice(72, 120), slice(40, 88),
    )  # fmt: skip
    for side in ("query", "case"):
        for sign in ("similar", "different"):
            a, b = (
                getattr(getattr(m, side), sign)[0] * getattr(getattr(m, side), f"{sign}_max")[0]
                for m in (still, moved)
            )
            assert a[here].any()
            assert_close(a[here], b[there], rtol=1e-2, atol=1e-2 * float(a.max()))


def test_a1_a_swapped_pair_has_swapped_maps():
    network, images = net(), patches(2)
    straight, swapped = (
        explain(network, images[0], images[1:]),
        explain(network, images[1], images[:1]),
    )
    assert_close(straight.distance, swapped.distance)
    for sign in ("similar", "different"):
        query, case = (getattr(side, sign) for side in (straight.query, straight.case))
        assert_close(query, getattr(swapped.case, sign), rtol=1e-3, atol=1e-4)
        assert_close(case, getattr(swapped.query, sign), rtol=1e-3, atol=1e-4)


def test_window_means_from_voxel_to_everything():
    x = torch.randn(2, 3, 5, 6, 7)
    assert_close(window_mean(x, 1), x)
    assert_close(window_mean(x, None), x.mean(dim=(2, 3, 4), keepdim=True))
    middle = window_mean(x, 3)
    assert_close(middle[:, :, 2, 3, 4], x[:, :, 1:4, 2:5, 3:6].mean(dim=(2, 3, 4)))
    assert_close(middle[:, :, 0, 0, 0], x[:, :, :2, :2, :2].mean(dim=(2, 3, 4)))
    small = x[:, :, :2, :2, :2]
    for cells in (3, 5):
        assert_close(window_mean(small, cells), window_mean(small, None).expand_as(small))
    # From every cell the widest window reaches the whole of the finest level, at no great cost.
    finest = torch.randn(1, 2, 32, 32, 32)
    assert_close(
        window_mean(finest, WIDEST_WINDOW),
        finest.mean(dim=(2, 3, 4), keepdim=True).expand_as(finest),
        rtol=1e-3,
        atol=1e-5,
    )


def test_evidence_outside_the_mask_weighs_what_the_option_says():
    network, query, cases = net(), patches(1)[0], patches(2, seed=2)
    # A mask with some voxels of weight 0.
    network.mask_head.weight.mul_(300)
    images = torch.stack([query, query.flip(-1)])[:, None]
    inside = inside_of(network(images).mask_logits)[:, 0]
    outside = (inside[0] == 0) & (inside[1].flip(-1) == 0)
    assert 0.02 < outside.float().mean() < 0.98
    raw = {
        weight: maps.query.similar * maps.query.similar_max[:, None, None, None]
        for weight in (0.0, 0.25, 1.0)
        for maps in [explain(network, query, cases, LocalCam(outside=weight))]
    }
    assert raw[1.0][:, outside].any()
    assert not raw[0.0][:, outside].any()
    # What the weight multiplies is the same map: linear in it.
    assert_close(raw[0.25], 0.25 * raw[1.0] + 0.75 * raw[0.0], rtol=1e-4, atol=1e-6)


def test_a_batch_of_cases_gives_what_each_gives_alone():
    network, query, cases = net(), patches(1)[0], patches(3, seed=2)
    together = explain(network, query, cases)
    for n in range(3):
        alone = explain(network, query, cases[n : n + 1])
        assert_close(together.distance[n], alone.distance[0], rtol=1e-4, atol=1e-5)
        for a, b in zip(all_maps(together), all_maps(alone), strict=True):
            assert_close(a[n], b[0], rtol=1e-3, atol=1e-4)


def test_cases_without_pixels_are_explained_on_the_query_alone():
    network, query, cases = net(), patches(1)[0], patches(3, seed=2)
    whole, some = explain(network, query, cases), explain(network, query, cases, shown=[1])
    assert_close(some.distance, whole.distance, rtol=1e-4, atol=1e-5)
    assert_close(some.query.similar, whole.query.similar, rtol=1e-3, atol=1e-4)
    assert_close(some.case.different[0], whole.case.different[1], rtol=1e-3, atol=1e-4)
    assert len(explain(network, query, cases, shown=[]).case.similar) == 0


def rank_correlation(first, second):
    """Mean Spearman correlation of two stacks of maps."""
    return np.mean(
        [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    )


def test_c11_the_map_depends_on_the_weights():
    query, cases = patches(1)[0], patches(3, seed=2)
    maps = [explain(net(seed=s), query, cases).query.similar for s in (0, 0, 1, 2, 3, 4, 5)]
    assert rank_correlation(maps[0], maps[1]) == pytest.approx(1)
    assert np.mean([rank_correlation(maps[0], other) for other in maps[2:]]) < 0.5


def test_c11_the_shipped_maps_are_not_what_the_architecture_alone_makes():
    """Real nodules are measured by `explain-eval`, which prints the same correlation."""
    bundle = load_bundle(default_bundle_folder())
    phantom = make_phantom(seed=0)
    query = torch.from_numpy(crop_patch(phantom.volume, DEMO_NODULES[3].center_ras_mm).intensity)
    cases = torch.from_numpy(bundle.library.embedding[::150])
    trained = pair_maps(bundle.network, query, cases).query.similar
    correlation = []
    for seed in range(3):
        torch.manual_seed(seed)
        untrained = NoduleNet(bundle.network.config).eval().requires_grad_(False)
        maps = pair_maps(untrained, query, cases).query.similar
        correlation.append(rank_correlation(trained, maps))
    assert np.mean(correlation) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, "levels must be of a1...a4, deepest first"),
        ({"levels": (2, 3)}, "levels must be of a1...a4, deepest first"),
        ({"levels": (3, 0)}, "levels must be of a1...a4, deepest first"),
        ({"levels": (5,)}, "levels must be of a1...a4, deepest first"),
        ({"window_cells": 2}, "window_cells must be odd, 1 to 63, or None, got 2"),
        ({"outside": 1.5}, "outside must lie between 0 and 1, got 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LocalCam(**options)


def test_a_network_in_training_and_pixels_without_a_case_are_refused():
    network, query = net(), patches(1)[0]
    z = embeddings(network, patches(2))
    with pytest.raises(ValueError, match="wanted pixels of 1 cases, got 2"):
        pair_maps(network, query, z, patches(2), [0])
    with pytest.raises(ValueError, match="wanted a network in eval mode"):
        pair_maps(network.train(), query, z)
