"""Bodies of arrays and JSON, against the safetensors package."""

from __future__ import annotations

import json

import numpy as np
import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.tensors import CODES, HEADER_BYTES, pack, unpack
from safetensors import SafetensorError
from safetensors.numpy import load, save

ARRAYS = {
    "mask": np.ones((1, 2, 3), np.uint8),
    "hu": np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4),
    "map": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    "half": np.linspace(0, 1, 3).astype(np.float16)[None, None],
    "none": np.zeros((0, 4), np.float64),
    "one": np.array(7, np.int64),
}
DOCUMENT = {"point_ras_mm": [1.5, -2.0, 3.25], "text": 'Lünge "quoted"', "none": None}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        np.testing.assert_array_equal(a[name], b[name])


def body_of(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return len(text).to_bytes(8, "little") + text + data


def test_the_package_reads_what_is_packed():
    body = pack(ARRAYS, DOCUMENT)
    same(load(body), ARRAYS)
    tensors, document = unpack(body)
    same(tensors, ARRAYS)
    assert document == DOCUMENT


def test_what_the_package_packs_is_read():
    tensors, document = unpack(save(ARRAYS, {"json": json.dumps(DOCUMENT)}))
    same(tensors, ARRAYS)
    assert document == DOCUMENT


@pytest.mark.parametrize("code", CODES)
def test_every_type_goes_both_ways(code):
    array = np.array([[0, 1, 1]]).astype(CODES[code])
    same(load(pack({"a": array}, {})), {"a": array})
    same(unpack(save({"a": array}, {"json": "{}"}))[0], {"a": array})


def test_arrays_of_any_layout_are_packed_in_order():
    turned = ARRAYS["hu"].transpose(2, 0, 1)
    big = ARRAYS["hu"].astype(">i2")
    tensors, _ = unpack(pack({"turned": turned, "big": big}, {}))
    same(tensors, {"turned": turned, "big": ARRAYS["hu"]})


def test_arrays_can_be_written_to():
    tensors, _ = unpack(pack(ARRAYS, {}))
    tensors["hu"][0] = 0


@pytest.mark.parametrize("array", [np.zeros(3, complex), np.array(["text"])])
def test_other_types_are_refused(array):
    with pytest.raises(ValueError, match="hu must be one of BOOL, U8, .* got"):
        pack({"hu": array}, {})


@pytest.mark.parametrize("cut", [0, 4, 12, 60, -1])
def test_a_body_that_is_cut_is_refused(cut):
    with pytest.raises(InputError, match="wanted a safetensors body"):
        unpack(pack(ARRAYS, DOCUMENT)[:cut])


def test_a_page_of_a_proxy_is_refused():
    with pytest.raises(InputError, match="wanted a safetensors body"):
        unpack(b"<html>not tensors at all, but a proxy's error page</html>")


def entry(**changes):
    return {"dtype": "U8", "shape": [2], "data_offsets": [0, 2], **changes}


META = {"__metadata__": {"json": "{}"}}
DAMAGED = {
    "no object": b"[]",
    "no JSON": b"{",
    "no UTF-8": b'{"\xff": 1}',
    "twice": b'{"a": {}, "a": {}}',
    "an unknown type": {**META, "a": entry(dtype="X9")},
    "a type that NumPy lacks": {**META, "a": entry(dtype="BF16", shape=[1])},
    "no text for a type": {**META, "a": entry(dtype=["U8"])},
    "a negative side": {**META, "a": entry(shape=[-2])},
    "a side that is true": {**META, "a": entry(shape=[True, 2])},
    "a side with a point": {**META, "a": entry(shape=[2.0])},
    "another size": {**META, "a": entry(shape=[3])},
    "a size past all bounds": {**META, "a": entry(shape=[2**40, 2**40])},
    "offsets that go back": {**META, "a": entry(shape=[0], data_offsets=[2, 0])},
    "offsets beyond the end": {**META, "a": entry(shape=[9], data_offsets=[0, 9])},
    "a gap": {**META, "a": entry(shape=[1], data_offsets=[1, 2])},
    "an overlap": {**META, "a": entry(), "b": entry()},
    "bytes left": {**META, "a": entry(shape=[1], data_offsets=[0, 1])},
    "three offsets": {**META, "a": entry(data_offsets=[0, 2, 2])},
    "a field too many": {**META, "a": entry(more=1)},
    "no shape": {**META, "a": {"dtype": "U8", "data_offsets": [0, 2]}},
    "no object for an array": {**META, "a": 7},
    "a nest": b'{"a":' * 3000 + b"1" + b"}" * 3000,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_header_is_refused(what):
    with pytest.raises(InputError, match="wanted a safetensors body, got"):
        unpack(body_of(DAMAGED[what], b"ab"))


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (None, "has no 'json'"),
        ({}, "has no 'json'"),
        ({"json": "{"}, "is damaged"),
        ({"json": 7}, "is damaged"),
        ({"json": "[1]"}, "wanted a JSON object in the metadata"),
        ({"json": '{"x": NaN}'}, "NaN is no number"),
    ],
)
def test_metadata_without_a_document_is_refused(metadata, told):
    header = {"a": entry()} if metadata is None else {"__metadata__": metadata, "a": entry()}
    with pytest.raises(InputError, match=told):
        unpack(body_of(header, b"ab"))


def test_a_long_header_is_refused_before_it_is_read():
    header = {"__metadata__": {"json": json.dumps({"x": "y" * HEADER_BYTES})}}
    with pytest.raises(InputError, match="header of at most 100000 bytes"):
        unpack(body_of(header))


def test_changed_bodies_are_taken_as_the_package_takes_them():
    """What one of the two reads, the other reads, too, and as the same."""
    random = np.random.default_rng(0)
    body = bytearray(pack(ARRAYS, DOCUMENT))
    start = 8 + int.from_bytes(body[:8], "little")
    taken = 0
    for _ in range(3000):
        changed = bytearray(body)
        changed[random.integers(8, start)] = random.integers(32, 127)
        try:
            theirs = load(bytes(changed))
        except (SafetensorError, KeyError, ValueError):
            theirs = None
        try:
            ours = unpack(bytes(changed))[0]
        except InputError as error:
            if "metadata" in str(error):  # The package does not look at the document.
                continue
            ours = None
        assert (ours is None) == (theirs is None), bytes(changed[8:start])
        if ours is not None:
            same(ours, theirs)
            taken += 1
    assert taken > 100
