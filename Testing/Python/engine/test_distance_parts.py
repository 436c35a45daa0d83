"""Whose evidence a distance is: the parts are the whole, and mean what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.concepts.encoding import infer
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.phantom import PhantomNodule, make_phantom
from contrastdiagnosis.maps.distance_parts import (
    parts_sentence,
    patch_statistics,
    statistics_of,
    statistics_share,
)
from contrastdiagnosis.maps.explanation import explain_pairs
from contrastdiagnosis.maps.local_cam import pair_maps
from contrastdiagnosis.model.align_dist import distance
from contrastdiagnosis.model.mask_statistics import STATISTICS
from contrastdiagnosis.model.network import NoduleNet

from engine.asking import one_thread  # noqa: F401
from engine.conftest import TINY

CPU = torch.device("cpu")
POINT = (60.0, -10.0, 8.0)


@pytest.fixture(scope="module")
def shipped():
    return load_bundle(default_bundle_folder())


@pytest.fixture(scope="module")
def patch_of():
    """`patch_of(...)`: the patch of a phantom's nodule; the chest around it is the same."""
    made = {}

    def patch(diameter_mm=14.0, **kind):
        key = (diameter_mm, *sorted(kind.items()))
        if key not in made:
            nodule = PhantomNodule(POINT, diameter_mm, **kind)
            phantom = make_phantom([nodule], shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9))
            made[key] = crop_patch(phantom.volume, POINT)
        return made[key]

    return patch


def codes(network, *patches):
    """(N, n) codes and (N, p) embeddings, means over mirror images."""
    images = torch.from_numpy(np.stack([p.intensity for p in patches]))[:, None]
    with torch.inference_mode():
        features = network(torch.cat([images, images.flip(-1)]))
    return (x.unflatten(0, (2, -1)).mean(dim=0) for x in (features.code, features.embedding))


def share_of(network, first, second):
    maps = pair_maps(
        network,
        torch.from_numpy(first.intensity),
        torch.zeros(1, network.config.embedding),
        torch.from_numpy(second.intensity[None]),
        [0],
    )
    return maps.statistics_share.item()


def test_the_parts_add_up_to_the_whole(shipped, patch_of):
    """Each part by its own columns of A, from the codes: nothing is defined as the rest."""
    network = shipped.network
    code, z = codes(network, patch_of(), patch_of(texture="ground-glass"))
    gap = (code[0] - code[1]).double()
    weight = network.align.weight.double()
    d = torch.linalg.vector_norm(z[0].double() - z[1].double())
    blocks = [slice(None, -STATISTICS), slice(-STATISTICS, None)]
    parts = [torch.dot(weight[:, b] @ gap[b], z[0].double() - z[1].double()) / d for b in blocks]
    torch.testing.assert_close(sum(parts), d, rtol=1e-5, atol=0)
    share = share_of(network, patch_of(), patch_of(texture="ground-glass"))
    assert share == pytest.approx(float(parts[1] / d), abs=1e-4)


def test_it_is_the_shapley_value_and_the_integrated_gradient(shipped, patch_of):
    network = shipped.network
    code, _ = codes(network, patch_of(), patch_of(20.0, blur_mm=2.0))
    gap = (code[0] - code[1]).double()
    align = network.align.weight.double()
    share = statistics_share(network, (align @ gap)[None], statistics_of(network, gap[None])).item()
    blocks = torch.zeros(2, len(gap), dtype=torch.float64)
    blocks[0, :-STATISTICS], blocks[1, -STATISTICS:] = 1, 1

    def squared(*there):
        return float(((align @ (gap * sum(blocks[n] for n in there))) ** 2).sum()) if there else 0

    shapley = (squared(1) - squared() + squared(0, 1) - squared(0)) / 2
    assert share == pytest.approx(shapley / squared(0, 1), rel=1e-9)
    steps = []
    for t in (np.arange(50) + 0.5) / 50:
        here = (code[1].double() + t * gap).requires_grad_()
        d = distance(align @ here, align @ code[1].double())
        steps.append(torch.autograd.grad(d, here)[0])
    integrated = torch.stack(steps).mean(dim=0) * gap
    whole = distance(align @ code[0].double(), align @ code[1].double())
    torch.testing.assert_close(integrated.sum(), whole)
    assert share == pytest.approx(float(integrated[-STATISTICS:].sum() / whole), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"texture": "ground-glass"}),
        ({}, {"calcified": True}),
        ({"diameter_mm": 10.0}, {"diameter_mm": 16.0}),
    ],
    ids=["ground-glass", "calcified", "size"],
)
def test_what_differs_in_size_or_density_alone_differs_by_its_statistics(
    shipped, patch_of, first, second
):
    assert share_of(shipped.network, patch_of(**first), patch_of(**second)) > 0.7


@pytest.mark.parametrize("kind", [{"spiculation": 0.9}, {"lobulation": 0.9}], ids=str)
def test_what_differs_at_its_edge_alone_does_not(shipped, patch_of, kind):
    assert share_of(shipped.network, patch_of(), patch_of(**kind)) < 0.3


def test_an_identical_pair_has_no_parts(shipped, patch_of, tmp_path):
    patch = patch_of()
    grey = np.round(patch.intensity * 255) / np.float32(255)
    exact = replace(patch, intensity=grey)
    assert np.isnan(share_of(shipped.network, exact, exact))
    case_id = shipped.library.cases[0].case_id
    store = PixelStore(tmp_path)
    store.write(case_id, CasePixels(exact.intensity, exact.valid, exact.valid))
    (same,) = explain_pairs(shipped.network, exact, [case_id], shipped.library, store)
    assert (same.statistics_share, same.parts, same.parts_sentence) == (None, None, "")


def test_a_swapped_pair_has_the_same_parts(shipped, patch_of):
    first, second = patch_of(), patch_of(blur_mm=2.0)
    straight, swapped = (
        share_of(shipped.network, a, b) for a, b in ((first, second), (second, first))
    )
    assert straight == pytest.approx(swapped, abs=1e-4)


def test_stored_statistics_tell_what_pixels_tell(shipped, patch_of, tmp_path):
    """A case of the library without its picture, and with it."""
    network, query, case = shipped.network, patch_of(), patch_of(texture="part-solid")
    grey = np.round(case.intensity * 255) / np.float32(255)
    embedding, statistics = shipped.library.embedding[:40].copy(), np.zeros((40, STATISTICS))
    embedding[3] = infer(network, grey[None], CPU).embedding[0]
    statistics[3] = patch_statistics(network, grey[None], CPU)[0]
    library = replace(
        shipped.library,
        cases=shipped.library.cases[:40],
        embedding=embedding,
        statistics=statistics.astype(np.float32),
    )
    case_id = library.cases[3].case_id
    with_it, without = PixelStore(tmp_path / "a"), PixelStore(tmp_path / "b")
    with_it.write(case_id, CasePixels(grey, case.valid, case.valid))
    told = [explain_pairs(network, query, [case_id], library, p)[0] for p in (with_it, without)]
    assert [e.case is None for e in told] == [False, True]
    assert told[0].statistics_share == pytest.approx(told[1].statistics_share, abs=1e-4)
    assert sum(told[1].parts.values()) == pytest.approx(told[1].distance, rel=1e-12)
    old = replace(library, statistics=None)
    (unknown,) = explain_pairs(network, query, [case_id], old, without)
    assert unknown.parts is None and unknown.distance == told[1].distance
    (known,) = explain_pairs(network, query, [case_id], old, with_it)
    assert known.statistics_share == told[0].statistics_share


def test_the_shipped_statistics_are_of_the_shipped_cases(shipped):
    """The first is the log of the volume: rows of other cases would not follow the diameter."""
    diameter = np.log([case.diameter_mm for case in shipped.library.cases])
    first = shipped.library.statistics[:, 0]
    assert shipped.library.statistics.shape == (len(shipped.library), STATISTICS)
    assert np.corrcoef(diameter, first)[0, 1] > 0.9


def test_a_network_without_statistics_owes_them_nothing():
    torch.manual_seed(0)
    network = NoduleNet(replace(TINY, statistics=False)).eval().requires_grad_(False)
    patches = torch.rand(2, 16, 32, 48)
    maps = pair_maps(network, patches[0], torch.zeros(1, TINY.embedding), patches[1:], [0])
    assert maps.statistics_share.tolist() == [0.0]
    assert patch_statistics(network, patches.numpy(), CPU).shape == (2, 0)


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.262, ("size, density and outline make 26 % of the distance", "explain the other 74 %")),
        (0.0, ("outline make 0 %", "other 100 %")),
        (1.0, ("outline make 100 %", "other 0 %")),
        (
            -0.123,
            ("the maps show makes 112 %", "outline take 12 % back: they bring the two closer"),
        ),
        (1.118, ("outline make 112 %", "the maps show takes 12 % back: it brings the two closer")),
    ],
)
def test_a_share_is_told_in_percent_that_add_up(share, told):
    for text in told:
        assert text in parts_sentence(share)
