"""The wire format against the safetensors package."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.service import wire
from ContrastDiagnosisLib.Engine.Tensors import packTensors, unpackTensors

ARRAYS = {
    "hu": np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4),
    "mask": np.ones((1, 2, 3), np.uint8),
    "map": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    "half": np.linspace(0, 1, 3).astype(np.float16)[None, None],
}
DOCUMENT = {"point_ras_mm": [1.5, -2.0, 3.25], "text": 'Lünge "quoted"', "none": None}


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_the_engine_reads_what_the_panel_packs():
    tensors, document = wire.unpack(packTensors(ARRAYS, DOCUMENT))
    same(dict(sorted(tensors.items())), dict(sorted(ARRAYS.items())))
    assert document == DOCUMENT


def test_the_panel_reads_what_the_engine_packs():
    tensors, document = unpackTensors(wire.pack(ARRAYS, DOCUMENT))
    same(dict(sorted(tensors.items())), dict(sorted(ARRAYS.items())))
    assert document == DOCUMENT


def test_views_that_are_not_contiguous_are_packed_in_order():
    turned = ARRAYS["hu"].transpose(2, 0, 1)
    tensors, _ = unpackTensors(packTensors({"hu": turned}, {}))
    np.testing.assert_array_equal(tensors["hu"], turned)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="hu must be one of U8, I16, F16, F32, got float64"):
        packTensors({"hu": np.zeros(3)}, {})


@pytest.mark.parametrize("cut", [0, 4, 12, 60, -1])
def test_a_damaged_answer_is_told_as_such(cut):
    body = packTensors(ARRAYS, DOCUMENT)
    with pytest.raises(ValueError, match=r"the answer of \d+ bytes is damaged"):
        unpackTensors(body[:cut])
    with pytest.raises(ValueError, match="damaged"):
        unpackTensors(b"<html>not tensors at all, but a proxy's error page</html>")
