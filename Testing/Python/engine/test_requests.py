"""What travels: every voxel arrives, nothing odd gets through."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.reading.scan_image import HU_RANGE
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.protocol.fields import FARTHEST_MM
from contrastdiagnosis.protocol.revision import MOST_BOXES, Box, Revision, read_revision
from contrastdiagnosis.protocol.tensors import HEADER_BYTES, pack, unpack
from contrastdiagnosis.service.requests import crop_around, read_request, request_body
from hypothesis import HealthCheck, given, settings
from scipy.spatial.transform import Rotation

from engine.mutations import allowed, mutated, raw, revisions, with_document

HU = np.arange(-60, 0, dtype=np.int16).reshape(3, 4, 5) * 10
AFFINE = [[-0.7, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 1.25, 30], [0, 0, 0, 1]]
DOCUMENT = {"ijk_to_ras": AFFINE, "point_ras_mm": [9, 19, 31]}
SOUND = pack({"hu": HU}, DOCUMENT)


def asked(hu=HU, **fields):
    return read_request(pack({"hu": hu}, DOCUMENT | fields))


def oblique_volume(seed, shape=(40, 60, 50)):
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    affine[:3, :3] *= random.uniform(0.5, 2.5, 3) * random.choice([-1, 1], 3)
    affine[:3, 3] = random.uniform(-300, 300, 3)
    return Volume(random.integers(-1000, 400, shape).astype(np.int16), affine)


def test_arrays_and_json_come_back():
    arrays = {"a": HU[:, ::-1], "b": np.array([True]), "c": np.zeros((0, 2), np.float16)}
    tensors, document = unpack(pack(arrays, {"x": [1, "ü", None]}))
    assert document == {"x": [1, "ü", None]}
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype


def test_a_request_is_read():
    request = read_request(
        pack(
            {"hu": HU, "overview_hu": HU[:1].astype(np.float32)},
            DOCUMENT
            | {
                "overview_ijk_to_ras": AFFINE,
                "patient_id": "P",
                "series_sha256": "aB" * 32,
                "case_ids": ["x", "y"],
            },
        )
    )
    np.testing.assert_array_equal(request.volume.hu, HU)
    np.testing.assert_array_equal(request.volume.ijk_to_ras, AFFINE)
    assert request.volume.name == request.volume.series_uid == ""
    assert request.point_ras_mm == (9.0, 19.0, 31.0)
    assert request.overview.hu.shape == (1, 4, 5)
    assert (request.patient_id, request.case_ids) == ("P", ("x", "y"))


def test_the_key_tells_apart_what_the_diagnosis_depends_on():
    moved = [[*row] for row in AFFINE]
    moved[0][3] = 11
    other = HU.copy()
    other[0, 0, 0] += 1
    keys = [
        asked().key,
        asked(hu=other).key,
        asked(hu=HU.astype(np.float32)).key,
        asked(hu=HU.reshape(3, 5, 4)).key,
        asked(ijk_to_ras=moved).key,
        asked(point_ras_mm=[9, 19, 32]).key,
        asked(patient_id="P").key,
        asked(series_sha256="0" * 64).key,
        asked(part_of_ct=True).key,
    ]
    assert len(set(keys)) == len(keys)
    assert asked(case_ids=["x"]).key == asked(patient_id=None, series_sha256="").key == keys[0]


@pytest.mark.parametrize("seed", range(25))
def test_a_crop_holds_all_that_the_patch_sees_bit_for_bit(seed):
    volume = oblique_volume(seed)
    size = np.array(volume.hu.shape[::-1])
    point = volume.ras_from_ijk(np.random.default_rng(seed).uniform(-0.5, size - 0.5))
    request = read_request(request_body(volume, point))
    whole, cropped = crop_patch(volume, point), crop_patch(request.volume, request.point_ras_mm)
    np.testing.assert_array_equal(cropped.intensity, whole.intensity)
    np.testing.assert_array_equal(cropped.valid, whole.valid)


def test_a_crop_holds_little_else(phantom):
    crop = crop_around(phantom.volume, (60, -10, 8))
    extent_mm = np.array(crop.hu.shape) * crop.spacing_mm
    assert (extent_mm <= np.array([40, 45, 45]) + 6 * np.array(crop.spacing_mm)).all()


@pytest.mark.parametrize(
    ("rest", "slices", "known"), [(-900, 20, True), (30, 20, False), (-900, 2, False)]
)
def test_a_crop_of_soft_tissue_says_whether_the_rest_is_a_ct(rest, slices, known):
    hu = np.full((slices, 20, 120), 40, np.int16)
    hu[..., :20] = rest
    volume = Volume(hu, np.diag([1.0, 1, 1, 1]))
    assert crop_around(volume, (80, 10, slices - 1)).part_of_ct is known
    assert crop_around(volume, (10, 10, slices - 1)).part_of_ct is False
    assert read_request(request_body(volume, (80, 10, 1))).volume.part_of_ct is known


def test_a_crop_beyond_the_volume_is_empty_and_refused(phantom):
    with pytest.raises(InputError, match="must have 3 dimensions"):
        read_request(request_body(phantom.volume, (9000, 0, 0)))


def test_other_voxel_types_are_sent_as_float32(phantom):
    volume = replace(phantom.volume, hu=phantom.volume.hu.astype(np.int32))
    assert read_request(request_body(volume, (60, -10, 8))).volume.hu.dtype == np.float32


DEEP = "[" * 30_000 + "]" * 30_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "got 0 bytes that announce a header of 0"),
        (b"12345678", "announce a header of"),
        (raw(b"{}", length=2**63), "announce a header of 9223372036854775808"),
        (raw(b"{}" + b" " * HEADER_BYTES), "with a header of at most 100000 bytes"),
        (raw(b"[]"), "wanted a safetensors body, got 10 bytes"),
        (raw(b"{}"), "the body's metadata has no 'json'"),
        (raw(b'{"__metadata__":null}'), "the body's metadata has no 'json'"),
        (raw(b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', b"xx"), "type 'BF16'"),
        (raw(b'{"a":{"dtype":"I16","shape":[0,%d],"data_offsets":[0,0]}}' % (2**63)), "wanted a s"),
        (with_document(SOUND, "{"), "the JSON in the body's metadata is damaged"),
        (with_document(SOUND, '{"a": NaN}'), "NaN is no number"),
        (with_document(SOUND, '{"a": %s}' % ("9" * 5000)), "is damaged: Exceeds the limit"),
        (with_document(SOUND, DEEP), "is damaged|wanted a JSON object"),
        (with_document(SOUND, "[1]"), r"wanted a JSON object in the metadata, got \[1\]"),
        (pack({"overview_hu": HU}, DOCUMENT), "the request lacks the tensor 'hu'"),
        (pack({"hu": HU, "HU": HU}, DOCUMENT), r"unknown fields: \['HU'\]"),
        (pack({"hu": HU}, {"point_ras_mm": [0, 0, 0]}), "the request lacks 'ijk_to_ras'"),
        (pack({"hu": HU}, {"ijk_to_ras": AFFINE}), "the request lacks 'point_ras_mm'"),
        (pack({"hu": HU, "overview_hu": HU}, DOCUMENT), "lacks 'overview_ijk_to_ras'"),
    ],
)
def test_a_body_that_is_none_is_refused(body, message):
    with pytest.raises(InputError, match=message):
        read_request(body)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"point_ras_mm": [0, 0]},
            r"point_ras_mm must be 3 numbers of at most 100000, got \[0, 0\]",
        ),
        ({"point_ras_mm": [0, 0, True]}, "must be 3 numbers"),
        ({"point_ras_mm": [0, 0, "1"]}, "must be 3 numbers"),
        ({"point_ras_mm": [0, 0, 10**400]}, "must be 3 numbers"),
        ({"point_ras_mm": [0, 0, 100_001]}, "must be 3 numbers"),
        ({"point_ras_mm": {"0": 1}}, "must be 3 numbers"),
        ({"ijk_to_ras": AFFINE[:3]}, "ijk_to_ras must be 4 x 4 numbers"),
        ({"ijk_to_ras": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]}, "last row"),
        ({"ijk_to_ras": np.diag([1, 1, 0.001, 1]).tolist()}, "spacing of ijk_to_ras must lie"),
        ({"ijk_to_ras": np.diag([1, 1, 0, 1]).tolist()}, "spacing of ijk_to_ras must lie"),
        ({"ijk_to_ras": np.diag([1, 1, 101, 1]).tolist()}, "between 0.05 and 50 mm"),
        (
            {"ijk_to_ras": [[1, 1, 0, 0], [0, 0.001, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
            "the axes of ijk_to_ras lie in one plane",
        ),
        ({"patient_id": 7}, "patient_id must be a text, got 7"),
        ({"series_sha256": "1.2.3"}, "series_sha256 must be 64 hex digits, got '1.2.3'"),
        ({"series_sha256": None}, "series_sha256 must be 64 hex digits"),
        ({"case_ids": "x"}, "case_ids must be a list of texts, got 'x'"),
        ({"case_ids": [1]}, r"case_ids must be a list of texts, got \[1\]"),
        ({"part_of_ct": 1}, "part_of_ct must be true or false, got 1"),
        ({"rm": 1}, r"unknown fields: \['rm'\]"),
    ],
)
def test_odd_fields_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        asked(**fields)


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (HU.astype(np.float64), "hu must be int16 or float32, got float64"),
        (HU.astype(bool), "got bool"),
        (HU[0], r"hu must have 3 dimensions \(k, j, i\) with voxels, got \(4, 5\)"),
        (HU[:0], "with voxels"),
        (np.where(HU == -10, np.nan, HU).astype(np.float32), "got 1 NaN or infinite voxels"),
        (HU.astype(np.float32) * 1e6, "60 voxels hold 60 different numbers from"),
    ],
)
def test_odd_voxels_are_refused(hu, message):
    with pytest.raises(InputError, match=message):
        asked(hu)


def test_padding_of_wide_numbers_is_taken_as_from_a_file():
    """One number below and one above are padding; a floating-point CT marks it so."""
    wide = np.where(HU < -550, -1e6, np.where(HU > -50, 1e6, HU)).astype(np.float32)
    hu = asked(wide).volume.hu
    assert (hu.min(), hu.max()) == HU_RANGE
    inner = (HU >= -550) & (HU <= -50)
    np.testing.assert_array_equal(hu[inner], wide[inner])


def test_a_refusal_quotes_little():
    with pytest.raises(InputError) as refused:
        asked(**{"x" * 90_000: 1})
    assert len(str(refused.value)) < 300


@given(body=mutated(SOUND))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_body_is_read_or_refused(body):
    try:
        request = read_request(body)
    except InputError as error:
        told = str(error)
        assert 5 < len(told) < 1000
    else:
        json.dumps([request.point_ras_mm, request.volume.ijk_to_ras.tolist()], allow_nan=False)
        assert np.isfinite(request.volume.hu).all()


@given(body=allowed())
@settings(max_examples=50, deadline=None)
def test_an_odd_but_sound_body_is_read(body):
    assert read_request(body).volume.hu.size


BOX = {"center_ras_mm": [1, 2, 3], "size_mm": [4, 5, 6], "look": True}


def test_a_revision_is_read():
    turn = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    revision = asked(
        revision={
            "boxes": [BOX, {**BOX, "look": False, "concept": "calcified", "axes": turn}],
            "rejected": ["spiculated"],
            "mode": "zero",
            "elsewhere": 0,
        }
    ).revision
    assert revision == Revision(
        boxes=(
            Box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), True),
            Box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), False, "calcified", tuple(map(tuple, turn))),
        ),
        rejected=("spiculated",),
        mode="zero",
        elsewhere=0.0,
    )


def test_without_a_revision_nothing_is_corrected():
    assert asked().revision == asked(revision={}).revision == Revision()
    assert asked(revision={"boxes": [{**BOX, "concept": None}]}).revision.boxes == (
        Box((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), True),
    )


def test_the_key_does_not_depend_on_the_revision():
    """Corrections need no new pass through the network."""
    revision = {"boxes": [BOX], "rejected": ["spiculated"], "mode": "zero", "elsewhere": 0.5}
    assert asked(revision=revision).key == asked().key


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ([], "wanted a JSON object for revision, got \\[\\]"),
        (None, "wanted a JSON object for revision, got None"),
        ({"box": []}, r"the revision holds unknown fields: \['box'\]"),
        ({"boxes": {}}, "boxes must be a list of at most 100, got {}"),
        ({"boxes": [BOX] * (MOST_BOXES + 1)}, "boxes must be a list of at most 100"),
        ({"boxes": [7]}, "wanted a JSON object for box, got 7"),
        ({"boxes": [{**BOX, "colour": 1}]}, r"the box holds unknown fields: \['colour'\]"),
        ({"boxes": [{"center_ras_mm": [1, 2, 3], "look": True}]}, "lacks 'size_mm'"),
        ({"boxes": [{"size_mm": [1, 2, 3], "look": True}]}, "lacks 'center_ras_mm'"),
        ({"boxes": [{**BOX, "look": 1}]}, "look must be true or false, got 1"),
        ({"boxes": [{"center_ras_mm": [1, 2, 3], "size_mm": [1, 1, 1]}]}, "look must be true"),
        ({"boxes": [{**BOX, "concept": 3}]}, "concept must be a text, got 3"),
        ({"boxes": [{**BOX, "center_ras_mm": [1, 2]}]}, "center_ras_mm must be 3 numbers"),
        ({"boxes": [{**BOX, "center_ras_mm": [1, 2, 1e6]}]}, "3 numbers of at most 100000"),
        ({"boxes": [{**BOX, "center_ras_mm": [1, 2, -(10**400)]}]}, "center_ras_mm must be 3"),
        ({"boxes": [{**BOX, "center_ras_mm": [1, 2, True]}]}, "center_ras_mm must be 3 numbers"),
        ({"boxes": [{**BOX, "size_mm": "12"}]}, "size_mm must be 3 numbers"),
        ({"boxes": [{**BOX, "size_mm": [1, 0, 1]}]}, "a box must have positive sides"),
        ({"boxes": [{**BOX, "size_mm": [1, -1, 1]}]}, "a box must have positive sides"),
        ({"boxes": [{**BOX, "axes": [[1, 0, 0]]}]}, "axes must be 3 x 3 numbers"),
        ({"boxes": [{**BOX, "axes": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}]}, "must have right angles"),
        ({"boxes": [{**BOX, "axes": [[1e5] * 3] * 3}]}, "must have right angles"),
        ({"rejected": "spiculated"}, "rejected must be a list of texts, got 'spiculated'"),
        ({"rejected": [None]}, "rejected must be a list of texts"),
        ({"mode": "median"}, "mode must be absent_median or zero, got median"),
        ({"mode": 0}, "mode must be a text, got 0"),
        ({"elsewhere": 1.1}, "elsewhere must lie between 0 and 1, got 1.1"),
        ({"elsewhere": -1}, "elsewhere must lie between 0 and 1, got -1"),
        ({"elsewhere": 10**400}, "elsewhere must be a number, got 1000"),
        ({"elsewhere": "0.2"}, "elsewhere must be a number, got '0.2'"),
        ({"elsewhere": True}, "elsewhere must be a number, got True"),
        ({"elsewhere": None}, "elsewhere must be a number, got None"),
    ],
)
def test_an_odd_revision_is_refused(revision, message):
    with pytest.raises(InputError, match=message):
        asked(revision=revision)
    with pytest.raises(InputError, match=message):
        read_revision(revision)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_of_a_revision_are_finite(number):
    """JSON without them is asked for earlier; this holds for itself."""
    for revision in (
        {"elsewhere": number},
        {"boxes": [{**BOX, "center_ras_mm": [0, number, 0]}]},
        {"boxes": [{**BOX, "axes": [[number, 0, 0], [0, 1, 0], [0, 0, 1]]}]},
    ):
        with pytest.raises(InputError, match="number"):
            read_revision(revision)


def test_as_many_boxes_as_are_allowed_are_read():
    edge = {**BOX, "center_ras_mm": [FARTHEST_MM, -FARTHEST_MM, 0]}
    assert len(asked(revision={"boxes": [edge] * MOST_BOXES}).revision.boxes) == MOST_BOXES


@given(document=revisions())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_revision_is_read_or_refused(document):
    try:
        revision = read_revision(document)
    except InputError as error:
        told = str(error)
        assert 5 < len(told) < 1000
    else:
        numbers = [revision.elsewhere]
        for box in revision.boxes:
            numbers += [*box.center_ras_mm, *box.size_mm, *np.ravel(box.axes)]
        assert np.isfinite(numbers).all()
        assert all(isinstance(x, float) for x in numbers[1:] if not isinstance(x, np.number))
        assert revision.mode in ("zero", "absent_median")
        assert all(isinstance(name, str) for name in revision.rejected)
