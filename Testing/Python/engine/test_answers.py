"""What the server says: complete, and readable without Python."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, sha256
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.concepts.atlas import Prototype
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import Volume, apply_affine
from contrastdiagnosis.maps.explanation import NO_PICTURE
from contrastdiagnosis.protocol.map_variant import SIGNS
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.protocol.tensors import unpack
from contrastdiagnosis.report.summary import case_summary, concept_summary, summarise
from contrastdiagnosis.service.answers import (
    atlas_document,
    bundle_facts,
    case_row,
    concepts_body,
    diagnosis_body,
    maps_body,
    picture_png,
    pixels_body,
    prototype_png,
    report_html,
)
from contrastdiagnosis.service.engine_queue import Engine
from contrastdiagnosis.service.requests import read_request, request_body
from PIL import Image

from engine.asking import one_thread, refuse  # noqa: F401
from engine.conftest import CONCEPTS, NODULE, PROTOTYPES
from engine.test_diagnoser import DenseIsNodule

SHAPE = (32, 64, 64)


def made_pixels(seed=0):
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 20:40, 25:45] = True
    mask[12, 18:42, 20:50] = True
    intensity = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    return CasePixels(intensity, np.ones(SHAPE, bool), mask)


@pytest.fixture(scope="module")
def asked(phantom):
    return read_request(request_body(phantom.volume, NODULE.center_ras_mm))


@pytest.fixture(scope="module")
def engine(bundle, asked, tmp_path_factory):
    """An engine whose bundle has a picture of the second of the nearest cases."""
    plain = Engine(bundle, "cpu")
    store = PixelStore(tmp_path_factory.mktemp("pixels"))
    store.write(plain.diagnose(asked).cases[1].case.case_id, made_pixels())
    return Engine(replace(bundle, pixels=store), "cpu")


def strict(body):
    """Tensors and JSON; the JSON holds neither NaN nor infinity."""
    tensors, document = unpack(body)
    json.loads(json.dumps(document), parse_constant=refuse)
    return tensors, document


def test_a_diagnosis_tells_all(engine, asked):
    bundle = replace(engine.bundle, network=DenseIsNodule(engine.bundle.network))
    engine = Engine(bundle, "cpu")
    tensors, told = strict(diagnosis_body(engine, asked))
    diagnosis = engine.diagnose(asked)
    expected = summarise(diagnosis, asked.volume, engine.bundle.info)
    assert {name: told[name] for name in expected if name != "cases"} == {
        name: value for name, value in expected.items() if name != "cases"
    }
    pictured = [bundle.pixels.has(c.case.case_id) for c in diagnosis.cases]
    assert [row["has_pixels"] for row in told["cases"]] == pictured
    for row, case in zip(told["cases"], expected["cases"], strict=True):
        row.pop("has_pixels")
        assert row == json.loads(json.dumps(case))
    assert told["threshold"] == engine.bundle.indicator.threshold
    assert set(tensors) == {"mask"}
    assert tensors["mask"].dtype == np.uint8
    whole = np.zeros(asked.volume.hu.shape, np.uint8)
    box = tuple(
        slice(a, a + n) for a, n in zip(told["mask_start_kji"], tensors["mask"].shape, strict=True)
    )
    whole[box] = tensors["mask"]
    np.testing.assert_array_equal(whole, diagnosis.mask.full())
    assert whole.any()


def test_without_a_nodule_the_mask_is_empty(engine, asked):
    air = replace(
        asked, volume=Volume(np.full_like(asked.volume.hu, -900), asked.volume.ijk_to_ras)
    )
    air.volume.hu[0, 0, 0] = -901
    tensors, told = strict(diagnosis_body(engine, replace(air, key="air")))
    assert not told["nodule"]["found"]
    assert tensors["mask"].shape == (0, 0, 0)
    assert told["mask_start_kji"] == [0, 0, 0]


def test_maps_of_both_sides(engine, asked):
    tensors, told = strict(maps_body(engine, asked))
    diagnosis, explanations = engine.explain(asked)
    assert told["notices"] == []
    np.testing.assert_array_equal(told["patch_ijk_to_ras"], diagnosis.encoding.patch.ijk_to_ras)
    assert [p["case_id"] for p in told["pairs"]] == [c.case.case_id for c in diagnosis.cases]
    names = {f"{n}.query.{sign}" for n in range(6) for sign in SIGNS}
    names |= {f"1.case.{part}" for part in (*SIGNS, "intensity", "mask")}
    assert set(tensors) == names
    for n, (pair, explanation) in enumerate(zip(told["pairs"], explanations, strict=True)):
        assert pair["distance"] == explanation.distance
        assert (NO_PICTURE in pair["remarks"]) == (pair["case"] is None) == (n != 1)
        for sign in SIGNS:
            evidence = explanation.query.of_sign(sign)
            values = tensors[f"{n}.query.{sign}"]
            assert values.shape == SHAPE and values.dtype == np.float16
            np.testing.assert_allclose(values, evidence.values, atol=5e-4)
            assert pair["query"][sign] == {
                "highest": evidence.highest,
                "contour_level": evidence.contour_level,
                "slice_index": evidence.slice_index,
            }
    np.testing.assert_array_equal(tensors["1.case.mask"], made_pixels().mask)
    np.testing.assert_allclose(
        tensors["1.case.intensity"], explanations[1].pixels.intensity, atol=5e-4
    )


def test_maps_of_the_cases_that_are_named(engine, asked):
    wanted = engine.diagnose(asked).cases[1].case.case_id
    tensors, told = strict(maps_body(engine, replace(asked, case_ids=(wanted,))))
    assert [p["case_id"] for p in told["pairs"]] == [wanted]
    assert "0.case.similar" in tensors and "1.query.similar" not in tensors


def test_a_report_shows_all_cases_and_the_overview_that_was_sent(engine, asked, phantom):
    k = round(float(phantom.volume.ijk_from_ras(NODULE.center_ras_mm)[2]))
    affine = phantom.volume.ijk_to_ras.copy()
    affine[:3, 3] = phantom.volume.ras_from_ijk([0, 0, k - 1])
    slab = Volume(phantom.volume.hu[k - 1 : k + 2], affine)
    some = replace(asked, case_ids=(engine.diagnose(asked).cases[0].case.case_id,))
    plain, wide = (report_html(engine, replace(some, overview=o)) for o in (None, slab))
    assert plain.count('<article class="card') == wide.count('<article class="card') == 6
    assert overview_width(plain) < 45 < 180 <= overview_width(wide)
    assert "1.9 &times; 1.9 &times; 2.5 mm" in plain
    assert str(asked.volume.hu.shape[0]) + " of" not in plain


def overview_width(html):
    picture = html.partition('aria-label="slice of the point"')[0].rpartition("viewBox=")[2]
    return float(picture.split()[2])


def test_facts_of_a_bundle(engine):
    facts = bundle_facts(engine.bundle)
    assert (facts.cases, facts.malignant_cases, facts.cases_with_pixels) == (40, 14, 1)
    assert facts.figures["auc_ci"] == [0.4, 0.6]
    assert (facts.voters, facts.vote) == (5, "distance-weighted")
    json.dumps(facts.model_dump(), allow_nan=False)


def test_a_bundle_that_was_not_measured_tells_no_metrics(engine):
    facts = bundle_facts(replace(engine.bundle, info=replace(engine.bundle.info, metrics={})))
    assert (facts.figures, facts.protocol) == ({}, "")


def test_a_figure_that_could_not_be_measured_is_null(engine):
    """A bundle holds it as null or, JSON of Python, as NaN."""
    figures = {"auc": float("nan"), "auc_ci": [float("nan")] * 2, "accuracy": None, "other": 1}
    info = replace(engine.bundle.info, metrics={"exclude3": figures})
    facts = bundle_facts(replace(engine.bundle, info=info))
    told = json.loads(facts.model_dump_json(), parse_constant=refuse)
    assert told["figures"] == {"auc": None, "auc_ci": [None, None], "accuracy": None}


def test_a_row_of_the_case_table(engine, asked):
    pictured = engine.diagnose(asked).cases[1].case
    row = case_row(engine.bundle, pictured).model_dump()
    assert row == {**case_summary(pictured), "has_pixels": True}


def test_a_cases_pixels(engine, asked):
    pixels = engine.bundle.pixels.read(engine.diagnose(asked).cases[1].case.case_id)
    tensors, _ = strict(pixels_body(pixels))
    np.testing.assert_allclose(tensors["intensity"], made_pixels().intensity, atol=3e-3)
    np.testing.assert_array_equal(tensors["mask"], made_pixels().mask)
    assert tensors["valid"].all()


def test_a_cases_picture_outlines_the_largest_cross_section():
    pixels = made_pixels()
    pixels.intensity[:] = 0.5
    pixels.intensity[12] = 0.25
    picture = np.asarray(Image.open(io.BytesIO(picture_png(pixels))))
    assert picture.shape == (256, 256, 3)
    grey = (picture == 64).all(axis=-1)
    yellow = (picture == (255, 214, 0)).all(axis=-1)
    assert (grey | yellow).all()
    j, i = np.argwhere(yellow).T
    found = j.min(), j.max() + 1, i.min(), i.max() + 1
    # The pen is two pixels wide.
    np.testing.assert_allclose(found, [4 * 18, 4 * 42, 4 * 20, 4 * 50], atol=2)


def test_a_picture_without_a_mask_is_the_middle_slice():
    pixels = replace(made_pixels(), mask=np.zeros(SHAPE, bool))
    assert Image.open(io.BytesIO(picture_png(pixels))).size == (256, 256)


BOX = Box(NODULE.center_ras_mm, (14.0, 14.0, 14.0), True, "spiculated")
REVISION = Revision(boxes=(BOX,), rejected=("calcified",), mode="zero", elsewhere=0.1)


@pytest.mark.parametrize("revision", [Revision(), REVISION], ids=["plain", "revised"])
def test_concepts_with_their_maps(engine, asked, revision):
    request = replace(asked, revision=revision)
    tensors, told = strict(concepts_body(engine, request))
    diagnosis = engine.revised(request)
    prediction, grid = diagnosis.concepts, diagnosis.encoding.grid
    assert set(tensors) == {"maps"}
    assert tensors["maps"].dtype == np.float32
    np.testing.assert_array_equal(tensors["maps"], prediction.maps)
    assert tensors["maps"].min() >= 0 and tensors["maps"].max() <= 1
    summary = json.loads(json.dumps(concept_summary(prediction)))
    assert {name: told[name] for name in summary} == summary
    assert told["disagreement"] == diagnosis.disagreement
    np.testing.assert_allclose(
        apply_affine(np.array(told["cells_ijk_to_ras"]), [3, 2, 1]), grid.centers_ras_mm[1, 2, 3]
    )
    total = told["baseline"] + sum(row["contribution"] for row in told["concepts"])
    assert total == pytest.approx(told["logit"], abs=1e-5)
    for row, example in zip(told["concepts"], told["examples"], strict=True):
        assert (example["concept"], example["number"]) == (row["name"], row["prototype"])
        assert example["has_pixels"] == engine.bundle.pixels.has(example["case_id"])
        assert example["label"] in ("malignant", "benign")


def test_a_revision_changes_what_is_told_of_concepts(engine, asked):
    _, plain = strict(concepts_body(engine, asked))
    _, told = strict(concepts_body(engine, replace(asked, revision=REVISION)))
    assert told["logit"] != plain["logit"]
    assert [row["rejected"] for row in told["concepts"]] == [False, False, True]
    assert told["concepts"][2]["presence"] is None
    assert told["revision"] == {
        "boxes": [
            {
                "center_ras_mm": list(BOX.center_ras_mm), "size_mm": [14.0] * 3, "look": True,
                "concept": "spiculated", "axes": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            }
        ],
        "rejected": ["calcified"],
        "mode": "zero",
        "elsewhere": 0.1,
    }  # fmt: skip


def test_without_concepts_a_diagnosis_says_so(engine, asked):
    plain = Engine(replace(engine.bundle, concepts=None), "cpu")
    _, told = strict(diagnosis_body(plain, asked))
    assert told["concepts"] is None and told["disagreement"] == ""
    with pytest.raises(InputError, match="the bundle tiny has no concepts"):
        concepts_body(plain, asked)
    assert atlas_document(plain.bundle).model_dump() == {"head_sha256": "", "prototypes": []}


def test_the_atlas_names_the_head_that_it_is_of(engine):
    document = atlas_document(engine.bundle).model_dump()
    assert document["head_sha256"] == sha256(engine.bundle.folder / CONCEPTS_FILE)
    assert len(document["prototypes"]) == len(CONCEPTS) * PROTOTYPES
    for row, p in zip(document["prototypes"], engine.bundle.concepts.atlas, strict=True):
        assert (row["concept"], row["number"], row["case_id"]) == (p.concept, p.number, p.case_id)
        assert row["has_pixels"] == engine.bundle.pixels.has(p.case_id)
        assert row["kept"] is True
    json.dumps(document, allow_nan=False)


def test_the_atlas_tells_what_is_known_of_each_case(engine):
    cases = {case.case_id: case for case in engine.bundle.library.cases}
    labels = set()
    for row in atlas_document(engine.bundle).prototypes:
        case = cases[row.case_id]
        labels.add(row.label)
        assert row.label == ("malignant" if case.malignant else "benign")
        assert row.diameter_mm == round(case.diameter_mm, 1)
        assert row.ratings == pytest.approx(case.ratings, abs=0.005)
        assert len(row.ratings) == len(LIDC.scales)
    assert labels == {"malignant", "benign"}


def test_a_prototype_of_an_unknown_case_tells_nothing_of_it(engine):
    part = engine.bundle.concepts
    atlas = tuple(replace(p, case_id="nobody") for p in part.atlas)
    strange = replace(engine.bundle, concepts=replace(part, atlas=atlas))
    for row in atlas_document(strange).prototypes:
        assert row.label is row.diameter_mm is row.ratings is None
        assert row.has_pixels is False


@pytest.mark.parametrize("cell", [(0, 0, 0), (2, 3, 5), (7, 7, 7)])
def test_a_prototypes_picture_frames_its_cell(cell):
    intensity = np.zeros(SHAPE, np.float32)
    intensity[4 * cell[0] + 2] = 0.25
    pixels = CasePixels(intensity, np.ones(SHAPE, bool), np.zeros(SHAPE, bool))
    prototype = Prototype("spiculated", 0, "P0_0", cell, 0.9, 3)
    picture = np.asarray(Image.open(io.BytesIO(prototype_png(pixels, prototype))))
    assert picture.shape == (256, 256, 3)
    frame = (picture == (0, 255, 255)).all(axis=-1)
    # The slice is one through the cell.
    assert (picture[~frame] == 64).all()
    j, i = np.argwhere(frame).T
    _, y, x = cell
    found = [j.min(), j.max() + 1, i.min(), i.max() + 1]
    wanted = [32 * y, 32 * y + 32, 32 * x, 32 * x + 32]
    assert found == wanted
