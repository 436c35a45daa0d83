"""Where concepts can be seen, on made patches."""

from __future__ import annotations

import pytest
import torch
from contrastdiagnosis.concepts.head import Concept
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis_training.concept_head.place import concept_places, image_region

CONCEPTS = (
    Concept("spiculated", "spiculation", at_least=3),
    Concept("ill-defined margin", "margin", at_most=3),
    Concept("sub-solid", "texture", at_most=3),
    Concept("calcified", "calcification", at_most=5),
)
SIZE = (4, 8, 8)


def intensity_of(hu):
    low, high = DEFAULT_GEOMETRY.window_hu
    return (hu - low) / (high - low)


def patch():
    """A nodule of 2 x 2 x 2 cells of soft tissue amid lung, on a grid of 4 x 4 x 4 cells."""
    hu = torch.full((1, 1, 16, 32, 32), -850.0)
    share = torch.zeros_like(hu)
    hu[..., 4:12, 8:24, 8:24] = 40
    share[..., 4:12, 8:24, 8:24] = 1
    return hu, share


def places(hu, share):
    marked = torch.nn.functional.max_pool3d(share, SIZE)[:, 0]
    seen, elsewhere = concept_places(CONCEPTS, intensity_of(hu), share, marked, SIZE)
    assert seen.shape == elsewhere.shape == (1, 4, 4, 4, 4)
    return seen[0], elsewhere[0]


def test_a_plain_nodule_may_show_a_concept_in_any_of_its_cells():
    seen, elsewhere = places(*patch())
    nodule = torch.zeros(4, 4, 4, dtype=torch.bool)
    nodule[1:3, 1:3, 1:3] = True
    for k in range(4):  # No voxel of an image truth is there: all fall back to the nodule.
        assert torch.equal(seen[k] > 0, nodule)
        assert torch.equal(elsewhere[k], ~nodule)


def test_calcium_ground_glass_and_disputed_voxels_have_their_cells():
    hu, share = patch()
    hu[..., 4:6, 8:12, 8:16] = 600  # An eighth of the cell's voxels, times two.
    hu[..., 11, 23, 23] = -600
    share[..., 4:8, 8:16, 16:24] = 0.5
    hu[..., 0, 0, 0] = 900  # A rib, not the nodule.
    seen, elsewhere = places(hu, share)
    for k, cell, weight in [(3, (1, 1, 1), 0.25), (2, (2, 2, 2), 1 / 256), (1, (1, 1, 2), 1.0)]:
        assert float(seen[k][cell]) == pytest.approx(weight)
        assert int((seen[k] > 0).sum()) == 1
        assert int((~elsewhere[k]).sum()) == 1 and not elsewhere[k][cell]
    assert int((seen[0] > 0).sum()) == 8


def test_a_cell_that_few_readers_marked_is_neither_shown_nor_excluded():
    hu, share = patch()
    share[..., 12:16, 8:16, 8:16] = 0.25
    seen, elsewhere = places(hu, share)
    assert not seen[0, 3, 1, 1] and not elsewhere[0, 3, 1, 1]


def test_shares_blurred_by_interpolation_are_not_disputed():
    hu, share = patch()
    share[..., 3, 8:24, 8:24] = 0.1
    share[..., 12, 8:24, 8:24] = 0.9
    seen, _ = places(hu, share)
    assert torch.equal(seen[1], seen[0])


def test_tensors_and_arrays_get_the_same_region():
    hu, share = patch()
    hu[..., 4:6, 8:12, 8:16] = 600
    mask, disputed = share >= 0.5, (share > 0) & (share < 1)
    for concept in CONCEPTS[1:]:
        ours = image_region(concept, hu, mask, disputed)
        theirs = image_region(concept, hu.numpy(), mask.numpy(), disputed.numpy())
        assert torch.equal(ours, torch.from_numpy(theirs))
