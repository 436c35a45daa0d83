"""NoduleNet: shapes, AlignDist (docs/methods.md 7.7: A1-A4), pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.align_dist import distance
from contrastdiagnosis.model.mask_statistics import (
    STATISTICS,
    _largest_nearby,
    mask_statistics,
    principal_extents,
)
from contrastdiagnosis.model.network import (
    HAZE,
    NoduleNet,
    NoduleNetConfig,
    inside_of,
    pool_under_mask,
)
from contrastdiagnosis.model.stem import channels_to_space, space_to_channels
from contrastdiagnosis.model.weights import load_network, round_weights, save_network
from torch.nn import functional
from torch.testing import assert_close

TINY = NoduleNetConfig(channels=(4, 6, 8, 10), embedding=5, ratings=3)
PAPER_LIKE = NoduleNetConfig(
    channels=(4, 6, 8, 10), embedding=5, mask_pooling=False, statistics=False, code_norm=False
)


def net(config=TINY, seed=0):
    torch.manual_seed(seed)
    network = NoduleNet(config)
    # Fresh BatchNorm is the identity; running statistics make eval mode a real affine map.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def patches(batch=2, shape=(16, 32, 48), seed=0):
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [TINY, PAPER_LIKE], ids=["default", "paper"])
def test_shapes_on_three_unequal_sides(config):
    features = net(config)(patches())
    shapes = [tuple(level.shape) for level in features.pyramid]
    assert shapes == [
        (2, 1, 16, 32, 48),
        (2, 4, 16, 16, 24),
        (2, 6, 8, 8, 12),
        (2, 8, 4, 4, 6),
        (2, 10, 2, 2, 3),
    ]
    assert features.mask_logits.shape == (2, 1, 16, 32, 48)
    assert features.code.shape == (2, net(config).code_length)
    assert features.embedding.shape == (2, 5)
    assert features.ratings.shape == (2, config.ratings)


def test_the_published_code_is_global_average_pooling():
    features = net(PAPER_LIKE)(patches())
    assert_close(features.code, features.pyramid[-1].mean(dim=(2, 3, 4)))


def test_a_batch_gives_what_its_items_give_alone():
    network, x = net(), patches(3)
    together = network(x)
    for n in range(3):
        alone = network(x[n : n + 1])
        assert_close(together.embedding[n : n + 1], alone.embedding, atol=1e-4, rtol=1e-4)
        assert_close(together.mask_logits[n : n + 1], alone.mask_logits, atol=1e-4, rtol=1e-4)


def test_a1_distance_is_symmetric_bit_for_bit():
    z = net()(patches()).embedding
    assert torch.equal(distance(z[0], z[1]), distance(z[1], z[0]))
    swapped = net()(patches().flip(0)).embedding
    assert_close(z.flip(0), swapped, atol=1e-5, rtol=1e-5)


def test_a2_the_bias_cancels():
    network = net()
    z = network(patches()).embedding
    (gradient,) = torch.autograd.grad(distance(z[0], z[1]), network.align.bias)
    assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


def test_a3_distance_is_a_learned_mahalanobis_distance():
    network = net()
    features = network(patches())
    gap = (features.code[0] - features.code[1]).double()
    a = network.align.weight.double()
    assert_close(
        distance(*features.embedding).double() ** 2, gap @ a.T @ a @ gap, rtol=1e-4, atol=1e-8
    )


def test_a4_identical_nodules_have_distance_zero_and_a_finite_gradient():
    x = patches(1).expand(2, -1, -1, -1, -1).clone().requires_grad_()
    z = net()(x).embedding
    d = distance(z[0], z[0])
    (gradient,) = torch.autograd.grad(d, x, retain_graph=True)
    assert d == 0
    assert gradient.isfinite().all()
    assert not gradient.any()
    naive = ((z[0] - z[0]) ** 2).sum().sqrt()
    (gradient,) = torch.autograd.grad(naive, z, allow_unused=True, retain_graph=True)
    assert gradient.isnan().any()
    assert torch.nn.functional.pairwise_distance(z[0], z[0]) > 0


def test_g4_density_changes_the_embedding():
    """A shift by 200 HU must not be normalised away."""
    network, x = net(), patches() * 0.5
    moved = network(x + 200 / 1400).embedding - network(x).embedding
    assert (moved.norm(dim=1) > 1e-3).all()


def test_channels_and_space_are_inverse():
    x = patches()
    assert torch.equal(channels_to_space(space_to_channels(x)), x)


def test_pooling_under_a_mask_equals_the_slow_mean():
    features = torch.rand(2, 3, 4, 4, 4)
    inside = torch.rand(2, 1, 8, 8, 8)
    small = inside.reshape(2, 1, 4, 2, 4, 2, 4, 2).mean(dim=(3, 5, 7))
    slow = torch.stack(
        [
            torch.stack(
                [
                    np.float64(1) * (features[b, c] * small[b, 0]).sum() / small[b, 0].sum()
                    for c in range(3)
                ]
            )
            for b in range(2)
        ]
    )
    assert_close(pool_under_mask(features, inside).double(), slow.double(), rtol=1e-4, atol=1e-5)


def test_pooling_under_an_empty_mask_is_zero():
    assert not pool_under_mask(torch.rand(1, 3, 4, 4, 4), torch.zeros(1, 1, 8, 8, 8)).any()


def ball(radius_mm, shape=(32, 64, 64), spacing=(1.25, 0.7, 0.7), stretch=(1, 1, 1)):
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    inside = (k / stretch[0]) ** 2 + (j / stretch[1]) ** 2 + (i / stretch[2]) ** 2 < radius_mm**2
    return inside.float()[None, None]


def test_statistics_measure_size_density_and_shape():
    soft, hard = torch.full((1, 1, 32, 64, 64), 0.25), torch.full((1, 1, 32, 64, 64), 0.85)
    small, large = ball(5), ball(10)
    flat = ball(5, stretch=(1, 2, 0.5))
    of = {
        name: mask_statistics(intensity, inside)[0]
        for name, intensity, inside in [
            ("small", soft, small),
            ("large", soft, large),
            ("hard", hard, small),
            ("flat", soft, flat),
        ]
    }
    assert all(len(value) == STATISTICS for value in of.values())
    assert of["large"][0] - of["small"][0] == pytest.approx(np.log(8), abs=0.05)
    assert of["small"][1] == pytest.approx(0.25, abs=0.01)
    assert of["hard"][1] == pytest.approx(0.85, abs=0.01)
    assert of["small"][3:13].argmax() == 2 and of["hard"][3:13].argmax() == 8
    # Surface over volume is least for a ball, whatever its size.
    assert of["large"][13] == pytest.approx(float(of["small"][13]), abs=0.15)
    assert of["flat"][13] > of["small"][13] + 0.1
    extents = of["flat"][16:].exp()
    assert float(extents[2] / extents[0]) == pytest.approx(16, rel=0.2)


def test_the_largest_nearby_equals_max_pooling():
    x = torch.randn(2, 3, 5, 7, 6)
    assert_close(_largest_nearby(x), functional.max_pool3d(x, 3, stride=1, padding=1))


def test_principal_extents_equal_the_covariance():
    torch.manual_seed(0)
    weight = torch.rand(1, 1, 4, 5, 6)
    weight /= weight.sum()
    spacing = torch.tensor([1.25, 1.4, 1.4])
    axes = [torch.arange(n) * s for n, s in zip((4, 5, 6), spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3).double()
    w = weight.reshape(-1).double().numpy()
    slow = np.linalg.eigvalsh(np.cov(points.numpy().T, aweights=w, ddof=0) + 0.05 * np.eye(3))
    assert_close(
        principal_extents(weight, spacing)[0].double(), torch.from_numpy(slow), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("inside", [torch.zeros(1, 1, 8, 16, 16), torch.ones(1, 1, 8, 16, 16)])
def test_statistics_of_extreme_masks_are_finite_with_finite_gradient(inside):
    inside = inside.requires_grad_()
    values = mask_statistics(torch.rand(1, 1, 8, 16, 16), inside)
    (gradient,) = torch.autograd.grad(values.sum(), inside)
    assert values.isfinite().all() and gradient.isfinite().all()


def test_weights_beyond_half_precision_survive_the_file(tmp_path):
    """Running variances of unnormalised features pass 65504, where float16 ends."""
    network = NoduleNet(TINY).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(8e5)
    round_weights(network, torch.float16)
    save_network(tmp_path / "n.safetensors", network, torch.float16)
    again = load_network(tmp_path / "n.safetensors", TINY)
    for (name, kept), (_, loaded) in zip(
        network.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(kept, loaded), name


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = NoduleNet(TINY)
    network.align.weight.data[0, 0] = float("inf")
    save_network(tmp_path / "n.safetensors", network)
    with pytest.raises(InputError, match=r"not finite: align.weight"):
        load_network(tmp_path / "n.safetensors", TINY)


def test_faint_haze_weighs_exactly_nothing():
    """131,072 voxels just below it must not outweigh a nodule."""
    p = torch.tensor([1e-6, 0.05, HAZE - 1e-4, HAZE + 1e-4, 0.55, 1 - 1e-6])
    inside = inside_of(torch.logit(p))
    assert HAZE >= 0.1
    assert (inside[:3] == 0).all() and (inside[3:] > 0).all()
    assert_close(inside[4:], (p[4:] - HAZE) / (1 - HAZE))
