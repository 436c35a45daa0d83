"""CaseLibrary: exact, own-patient-free, stable search (docs/methods.md 7.7: A5, A7, A8, A11)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.library import Case, CaseLibrary, read_cases, write_cases
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.errors import InputError
from sklearn.neighbors import NearestNeighbors


def case(n, patient=None, malignant=None, **values):
    return Case(
        case_id=f"case{n:04}",
        patient_id=patient or f"patient{n // 2:04}",
        malignant=n % 3 == 0 if malignant is None else malignant,
        diameter_mm=5.0 + n % 20,
        **({"ratings": {"margin": 3.5, "malignancy": 4.25}} | values),
    )


def library(count=200, dimensions=16, seed=0, offset=0.0):
    embedding = np.random.default_rng(seed).normal(size=(count, dimensions)) + offset
    return CaseLibrary([case(n) for n in range(count)], embedding.astype(np.float32))


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_the_search_is_exact(offset):
    """A5: also far from the origin, where a float32 matrix product loses the digits."""
    cases = library(offset=offset)
    query = cases.embedding.mean(axis=0) + np.float32(0.1)
    exact = np.linalg.norm(cases.embedding.astype(np.float64) - query, axis=1)
    order = np.argsort(exact, kind="stable")[:15]
    found = cases.nearest(query, 15)
    assert [n.position for n in found] == order.tolist()
    np.testing.assert_allclose([n.distance for n in found], exact[order], rtol=1e-12)
    naive = torch.cdist(
        torch.from_numpy(query[None]),
        torch.from_numpy(cases.embedding),
        compute_mode="use_mm_for_euclid_dist",
    )[0]
    if offset:
        assert np.abs(naive.numpy() - exact).max() > 1e-3


def test_the_search_agrees_with_scikit_learn():
    cases = library(1000)
    reference = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(cases.embedding)
    for query in np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32):
        _, indices = reference.kneighbors(query[None])
        assert [n.position for n in cases.nearest(query, 7)] == indices[0].tolist()


def test_a_case_is_at_distance_zero_of_itself():
    cases = library(offset=50.0)
    nearest = cases.nearest(cases.embedding[17], 1)[0]
    assert nearest.position == 17
    assert nearest.distance == 0


def test_a7_the_order_of_the_library_changes_nothing():
    cases = library(60)
    doubled = np.repeat(cases.embedding[:30], 2, axis=0)
    order = np.random.default_rng(3).permutation(60)
    first = CaseLibrary(cases.cases, doubled)
    second = CaseLibrary([cases.cases[n] for n in order], doubled[order])
    for query in cases.embedding[:10]:
        a, b = (
            [(n.case.case_id, n.distance) for n in lib.nearest(query, 9)] for lib in (first, second)
        )
        assert a == b


def test_equal_distances_come_in_the_order_of_case_id():
    cases = [case(n) for n in (3, 1, 2, 0)]
    found = CaseLibrary(cases, np.ones((4, 2))).nearest([0, 0], 4)
    assert [n.case.case_id for n in found] == ["case0000", "case0001", "case0002", "case0003"]


def test_a8_the_own_patient_never_votes():
    cases = library()
    query, own = cases.embedding[40], cases.cases[40].patient_id
    assert cases.nearest(query, 1)[0].position == 40
    patients = {n.case.patient_id for n in cases.nearest(query, 200, exclude_patient=own)}
    assert own not in patients
    assert len(cases.nearest(query, 500, exclude_patient=own)) == 198


def test_a11_half_precision_keeps_the_nearest_five():
    """Stored embeddings are exact to 1e-3; only cases tied to that precision may swap."""
    cases = library(500)
    half = CaseLibrary(cases.cases, cases.embedding.astype(np.float16).astype(np.float32))
    for query in np.random.default_rng(5).normal(size=(20, 16)):
        full = cases.nearest(query, 6)
        kept = {n.position for n in half.nearest(query, 5)}
        fifth = full[4].distance
        assert all(n.position in kept or fifth - n.distance < 1e-3 * fifth for n in full[:5])


def test_fewer_cases_than_asked_for_are_all_returned():
    assert len(library(10).nearest(np.zeros(16), 99)) == 10


@pytest.mark.parametrize(
    ("cases", "embedding", "message"),
    [
        ([], np.zeros((0, 3)), "case library is empty"),
        ([case(0), case(1)], np.zeros((3, 3)), "one embedding for each of 2 cases"),
        ([case(0), case(1)], np.full((2, 3), np.nan), "not finite"),
        ([case(0), case(0, malignant=False)], np.zeros((2, 3)), "holds case case0000 twice"),
        (
            [case(0, malignant=True), case(1, malignant=True)],
            np.zeros((2, 3)),
            "all 2 cases.*malignant",
        ),
        (
            [case(0, malignant=False), case(1, malignant=False)],
            np.zeros((2, 3)),
            "all 2 cases.*benign",
        ),
    ],
)
def test_a_library_that_cannot_vote_is_refused(cases, embedding, message):
    with pytest.raises(InputError, match=message):
        CaseLibrary(cases, embedding)


def test_a_library_of_the_own_patient_alone_is_refused():
    cases = CaseLibrary([case(0, patient="p"), case(1, patient="p")], np.zeros((2, 3)))
    with pytest.raises(InputError, match="every case of the library is of patient p"):
        cases.nearest(np.zeros(3), 1, exclude_patient="p")


def test_a_query_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"shape \(16,\), got \(3,\)"):
        library().nearest(np.zeros(3), 1)


def test_cases_survive_their_table(tmp_path):
    file = tmp_path / "cases.csv"
    cases = [
        case(0, series_uid="1.2.3", center_ras_mm=(1.5, -2.25, 3.0), source="lidc_stacks"),
        case(1, ratings=dict.fromkeys((scale.name for scale in LIDC.scales), 2.5)),
        case(2, ratings={}),
    ]
    write_cases(file, cases, LIDC)
    assert read_cases(file, LIDC) == cases


def test_a_damaged_table_is_refused_with_its_line(tmp_path):
    file = tmp_path / "cases.csv"
    write_cases(file, [case(0), case(1)], LIDC)
    text = file.read_text()
    file.write_text(text.replace("patient_id,", "patient,"))
    with pytest.raises(InputError, match="lacks the columns patient_id"):
        read_cases(file, LIDC)
    file.write_text(text.replace(",1,5.0", ",maybe,5.0"))
    with pytest.raises(InputError, match="line 2: label must be 0 or 1, got 'maybe'"):
        read_cases(file, LIDC)


def test_without_a_patient_nobody_is_left_out():
    """Also where the table does not name patients."""
    cases = [Case(f"c{n}", "", n % 2 == 0, 8.0, {}) for n in range(6)]
    nameless = CaseLibrary(cases, np.eye(6, dtype=np.float32))
    assert len(nameless.nearest(np.zeros(6), 6)) == 6


def test_a_series_tells_its_patient():
    cases = [case(n, series_uid=f"1.2.{n}") for n in range(8)]
    of_series = CaseLibrary(cases, np.eye(8, dtype=np.float32))
    assert of_series.patient_of_series("1.2.5") == "patient0002"
    assert of_series.patient_of_series("1.2.50") is None
    assert of_series.patient_of_series("") is None
    assert of_series.count_of_patient("patient0002") == 2
