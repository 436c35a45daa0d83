"""What the network and the head say of patches: mirrored, in batches, without traces."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from contrastdiagnosis.concepts.cells import CELL_VOXELS
from contrastdiagnosis.concepts.encoding import Encoding, encode, infer
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch

from engine.asking import one_thread  # noqa: F401
from engine.conftest import CONCEPTS, NODULE, PROTOTYPES

CPU = torch.device("cpu")
SIMILARITY = (len(CONCEPTS), PROTOTYPES, 8, 8, 8)


@pytest.fixture(scope="module")
def patches(phantom):
    return [crop_patch(phantom.volume, np.add(NODULE.center_ras_mm, s)) for s in (0, 5, -20)]


def mirrored(patch):
    return Patch(
        np.ascontiguousarray(patch.intensity[..., ::-1]), patch.valid[..., ::-1], patch.ijk_to_ras
    )


def test_similarities_are_means_over_both_mirror_images(bundle, patches):
    network, head = bundle.network, bundle.concepts.head
    seen = infer(network, patches[0].intensity[None], CPU, head)
    x = torch.from_numpy(patches[0].intensity)[None, None]
    with torch.no_grad():
        plain, turned = (head.similarity(head.cells(network(v))) for v in (x, x.flip(-1)))
    expected = (plain + turned.flip(-1)) / 2
    assert seen.similarity.shape == (1, *SIMILARITY)
    np.testing.assert_allclose(seen.similarity, expected, atol=1e-5)
    assert np.abs(plain - expected).max() > 1e-3
    assert np.abs(seen.similarity).max() <= 1


def test_the_mirror_image_has_the_mirrored_similarity(bundle, patches):
    for patch in patches:
        first, second = (
            encode(bundle.network, [p], CPU, bundle.head)[0] for p in (patch, mirrored(patch))
        )
        np.testing.assert_allclose(first.similarity, second.similarity[..., ::-1], atol=1e-5)
        assert np.abs(first.similarity - first.similarity[..., ::-1]).max() > 1e-2


def test_several_patches_are_encoded_as_one_by_one(bundle, patches):
    together = encode(bundle.network, patches, CPU, bundle.head)
    for patch, encoding in zip(patches, together, strict=True):
        alone = encode(bundle.network, [patch], CPU, bundle.head)[0]
        np.testing.assert_allclose(encoding.similarity, alone.similarity, atol=1e-4)
        np.testing.assert_allclose(encoding.embedding, alone.embedding, atol=1e-4)
        assert encoding.patch is patch
    assert np.abs(together[0].similarity - together[2].similarity).max() > 1e-2


def test_the_head_changes_nothing_of_the_rest(bundle, patches):
    plain = encode(bundle.network, patches, CPU)
    headed = encode(bundle.network, patches, CPU, bundle.head)
    for a, b in zip(plain, headed, strict=True):
        assert a.similarity is None
        np.testing.assert_array_equal(a.embedding, b.embedding)
        np.testing.assert_array_equal(a.probability, b.probability)


def test_encoding_leaves_no_trace(bundle, patches):
    network, head = copy.deepcopy(bundle.network), copy.deepcopy(bundle.head)
    head.requires_grad_(True)
    before = {name: w.clone() for name, w in {**head.state_dict(), **network.state_dict()}.items()}
    random = torch.get_rng_state()
    encode(network, patches[:1], CPU, head)
    after = {**head.state_dict(), **network.state_dict()}
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert not head.training and not network.training
    assert all(p.grad is None for p in (*head.parameters(), *network.parameters()))
    assert all(p.requires_grad for p in head.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_grid_is_that_of_the_similarity(bundle, patches):
    grid = encode(bundle.network, patches[:1], CPU, bundle.head)[0].grid
    assert grid.shape == SIMILARITY[2:]
    assert grid.patch is patches[0]
    size = np.array(CELL_VOXELS) * DEFAULT_GEOMETRY.spacing_mm
    np.testing.assert_allclose(np.linalg.norm(grid.to_ras[:3, :3], axis=0), size[::-1])


def test_there_is_no_grid_without_a_head(patches):
    encoding = Encoding(patches[0], patches[0].intensity, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="this encoding was made without a concept head"):
        _ = encoding.grid
