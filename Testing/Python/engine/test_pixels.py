"""PixelStore: pictures come back, names cannot leave the folder."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY


def pixels(shape=DEFAULT_GEOMETRY.shape):
    random = np.random.default_rng(0)
    return CasePixels(
        random.random(shape).astype(np.float32),
        random.random(shape) < 0.9,
        random.random(shape) < 0.3,
    )


def test_pixels_come_back_in_8_bits(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    assert not store.has("case_1")
    store.write("case_1", pixels())
    assert store.has("case_1")
    again = store.read("case_1")
    np.testing.assert_allclose(again.intensity, pixels().intensity, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(again.mask, pixels().mask)
    np.testing.assert_array_equal(again.valid, pixels().valid)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\\b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot name a file"):
        PixelStore(tmp_path).has(name)


def test_absent_and_damaged_pixels_are_named(tmp_path):
    store = PixelStore(tmp_path)
    with pytest.raises(InputError, match="no pixels of case a"):
        store.read("a")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"b\.safetensors is damaged"):
        store.read("b")


def test_pixels_of_another_shape_are_refused(tmp_path):
    store = PixelStore(tmp_path)
    store.write("c", pixels((3, 4, 5)))
    with pytest.raises(InputError, match=r"c.safetensors is damaged: wanted shape \(32, 64, 64\)"):
        store.read("c")
