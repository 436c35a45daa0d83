"""Metrics of concepts on made scores: each against a slow reference, or counted by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.vote import Calibration, fit_calibration
from contrastdiagnosis.concepts.fit import fit_decision, fit_presence
from contrastdiagnosis.concepts.head import DIAMETER, Concept, ConceptConfig, ConceptHead
from contrastdiagnosis_training.concept_head.scores import ConceptScores
from contrastdiagnosis_training.evaluation.concepts.metrics import (
    LEAST_SLOPE,
    alive_counts,
    calibrate_concepts,
    concept_metrics,
    decision_metrics,
    decision_score,
    mean_logits,
    presence_alone,
    presence_score,
    refined_head,
    rising_calibration,
)
from sklearn.linear_model import LogisticRegression

CONCEPTS = (
    Concept("spiculated", "spiculation", at_least=3),
    Concept("ill-defined margin", "margin", at_most=3),
    Concept("large", DIAMETER, at_least=8),
)
K, M = len(CONCEPTS), 2

pytestmark = pytest.mark.usefixtures("few_draws", "one_thread")


def made_head(seed=0, count=K, each=M):
    """An untrained head whose linear layers say something."""
    torch.manual_seed(seed)
    head = ConceptHead(ConceptConfig(count, each, 4, 1, 5)).requires_grad_(False)
    head.presence_weight.copy_(1 + torch.rand(count, each))
    head.presence_bias.copy_(torch.randn(count))
    head.decision_weight.copy_(torch.randn(count, each))
    head.decision_bias.copy_(torch.randn(()))
    head.absent.copy_(torch.rand(count, each) / 4)
    return head


def made_scores(n=60, seed=0, count=K, each=M):
    """Nodules of every rating, 3 and unknown among them."""
    random = np.random.default_rng(seed)
    return ConceptScores(
        case_id=np.array([f"c{i}" for i in range(n)]),
        patient_id=np.array([f"p{i // 2}" for i in range(n)]),
        scores=random.uniform(-0.2, 1, (n, count, each)).astype(np.float32),
        share=random.choice([0.0, 0.25, 0.5, 1.0], (n, count)),
        malignancy=random.choice([1.0, 2.25, 3.0, 3.5, 5.0, np.nan], n),
        diameter_mm=random.uniform(4, 20, n),
        place=random.integers(0, 512, (n, count, each)),
        inside=random.random((n, count, each)) < 0.5,
    )


def made_nodule(**ratings):
    return Nodule("c", "p", Path("i"), Path("m"), 4, ratings, "1.2", None, "made", LIDC)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numbers(calibration):
    return calibration.slope, calibration.intercept


def rated(malignancy):
    return np.array([n for n, x in enumerate(malignancy) if x == x and x != 3])


def test_scores_are_the_heads_logits_in_plain_loops_without_what_was_removed():
    head, scored = made_head(), made_scores(5)
    head.kept[0, 1] = head.kept[2, 0] = 0
    presence, decision = (f(head, scored.scores) for f in (presence_score, decision_score))
    assert presence.shape == (5, K)
    for n in range(5):
        total = float(head.decision_bias)
        for k in range(K):
            logit = float(head.presence_bias[k])
            for m in range(M):
                if head.kept[k, m]:
                    score = float(scored.scores[n, k, m])
                    logit += score * float(head.presence_weight[k, m])
                    total += score * float(head.decision_weight[k, m])
            assert presence[n, k] == pytest.approx(sigmoid(logit), abs=1e-6)
        assert decision[n] == pytest.approx(sigmoid(total), abs=1e-6)


@pytest.mark.parametrize("planted", [Calibration(1.5, 0.3), Calibration(0.4, -1.0)])
def test_a_planted_calibration_is_found_again(planted):
    score = np.linspace(0.02, 0.98, 80)
    found = rising_calibration(score, planted.probability(score))
    assert numbers(found) == pytest.approx(numbers(planted), abs=1e-3)


def test_where_a_higher_score_does_not_mean_more_the_mean_is_told():
    score = np.linspace(0.02, 0.98, 80)
    share = Calibration(-1.5, -0.8).probability(score)
    assert fit_calibration(score, share).slope < 0
    found = rising_calibration(score, share)
    assert found.slope == LEAST_SLOPE
    probability = found.probability(score)
    np.testing.assert_allclose(probability, share.mean(), atol=2e-3)
    assert (np.diff(probability) > 0).all()


def test_every_concept_gets_its_calibration_on_the_scores_of_the_nodules_own_heads():
    planted = [Calibration(1.5, 0.3), Calibration(0.6, -0.5), Calibration(2.0, 0.0)]
    parts = []
    for seed in (0, 1):
        head, scored = made_head(seed), made_scores(seed=seed)
        presence = presence_score(head, scored.scores)
        share = np.stack([planted[k].probability(presence[:, k]) for k in range(K)], axis=1)
        share[seed::7, 1] = np.nan
        parts.append((head, replace(scored, share=share)))
    concepts, _ = calibrate_concepts(CONCEPTS, parts)
    for k, concept in enumerate(concepts):
        assert concept == replace(CONCEPTS[k], calibration=concept.calibration)
        assert numbers(concept.calibration) == pytest.approx(numbers(planted[k]), abs=5e-3)


def test_the_decision_is_calibrated_on_the_rated_nodules_of_all_parts():
    parts = []
    for seed in (0, 1):
        head, scored = made_head(seed), made_scores(seed=seed)
        malignant = decision_score(head, scored.scores) > np.linspace(0.1, 0.9, 60)
        malignancy = np.where(malignant, 4.5, 1.5)
        malignancy[::5], malignancy[1::9] = 3, np.nan
        parts.append((head, replace(scored, malignancy=malignancy)))
    _, found = calibrate_concepts(CONCEPTS, parts)
    score, truth = [], []
    for head, scored in parts:
        for n in rated(scored.malignancy):
            score.append(float(decision_score(head, scored.scores[n : n + 1])[0]))
            truth.append(scored.malignancy[n] > 3)
    expected = fit_calibration(np.array(score), np.array(truth))
    assert expected.slope > LEAST_SLOPE
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-3)


def test_agreement_with_the_readers_as_counted_by_hand():
    nodules = [
        made_nodule(spiculation=(4, 4, 4)),
        made_nodule(spiculation=(1, 1, 2)),
        made_nodule(spiculation=(3, 1, 4)),
        made_nodule(),
    ]
    presence, share = (
        np.array([[0.9], [0.6], [0.4], [0.99]]),
        np.array([[1], [0], [2 / 3], [np.nan]]),
    )
    metrics = concept_metrics(CONCEPTS[:1], presence, share, nodules)["spiculated"]
    assert metrics == pytest.approx(
        {
            "n": 3,
            "prevalence": 2 / 3,
            "auroc": 1 / 2,
            "balanced_accuracy": 1 / 4,
            "accuracy": 1 / 3,
            "accuracy_majority_constant": 2 / 3,
            # Of 9 pairs 4 agree; 6 and 5 of their opinions are positive.
            "kappa": (4 / 9 - 42 / 81) / (39 / 81),
            # Of 18 pairs 14 agree; 10 of the 18 opinions are positive.
            "kappa_readers": (14 / 18 - 164 / 324) / (160 / 324),
        }
    )


def test_half_of_the_readers_are_enough_and_half_a_presence_is_not():
    nodules = [made_nodule(spiculation=votes) for votes in ((4, 1), (1, 1), (2, 1))]
    presence, share = np.array([[0.5], [0.3], [0.2]]), np.array([[0.5], [0.0], [0.0]])
    metrics = concept_metrics(CONCEPTS[:1], presence, share, nodules)["spiculated"]
    assert metrics["prevalence"] == pytest.approx(1 / 3)
    for name in ("accuracy", "accuracy_majority_constant"):
        assert metrics[name] == pytest.approx(2 / 3)
    assert metrics["balanced_accuracy"] == 0.5
    assert metrics["auroc"] == 1


def test_a_measured_concept_that_all_nodules_show_has_no_figure_of_agreement():
    nodules = [made_nodule(spiculation=(4, 1))] * 3
    presence, share = np.array([[0.2], [0.8], [0.9]]), np.ones((3, 1))
    metrics = concept_metrics(CONCEPTS[2:], presence, share, nodules)["large"]
    assert np.isnan([metrics[name] for name in ("auroc", "kappa", "kappa_readers")]).all()
    assert metrics["balanced_accuracy"] is None
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["prevalence"] == metrics["accuracy_majority_constant"] == 1


def test_each_concept_has_the_metrics_that_it_has_alone():
    random, scored = np.random.default_rng(0), made_scores(30)
    nodules = [
        made_nodule(
            spiculation=tuple(random.integers(1, 6, 3)), margin=tuple(random.integers(1, 6, 4))
        )
        for _ in range(30)
    ]
    presence = presence_score(made_head(), scored.scores)
    together = concept_metrics(CONCEPTS, presence, scored.share, nodules)
    assert list(together) == [concept.name for concept in CONCEPTS]
    for k, concept in enumerate(CONCEPTS):
        alone = concept_metrics(
            [concept], presence[:, k : k + 1], scored.share[:, k : k + 1], nodules
        )
        assert together[concept.name] == pytest.approx(alone[concept.name], nan_ok=True)


def test_malignancy_as_counted_by_hand_without_threes_and_unknown_ratings():
    malignancy = np.array([5, 4, 3.5, 1, 2, 3, np.nan])
    probability = np.array([0.9, 0.8, 0.5, 0.6, 0.1, 0.99, 0.99])
    metrics = decision_metrics(probability, malignancy, np.array(["p"] * 7))
    # Two true and one false positive, one true and one false negative.
    assert metrics == {
        "n": 5,
        "auc": pytest.approx(5 / 6),
        # Of one patient all draws are alike.
        "auc_ci": pytest.approx((5 / 6, 5 / 6)),
        "accuracy": pytest.approx(3 / 5),
        "f1": pytest.approx(4 / 6),
        "macro_f1": pytest.approx((4 / 6 + 2 / 4) / 2),
    }


def test_more_patients_make_an_interval_around_the_auc():
    random = np.random.default_rng(0)
    malignancy = random.choice([1.0, 5.0], 60)
    probability = np.clip(malignancy / 10 + random.normal(0.2, 0.3, 60), 0, 1)
    metrics = decision_metrics(probability, malignancy, np.arange(60))
    low, high = metrics["auc_ci"]
    assert 0.5 < low < metrics["auc"] < high < 1


def parts_of_three():
    return [(made_head(seed), made_scores(40 + 5 * seed, seed)) for seed in range(3)]


def test_presence_alone_fits_each_part_on_the_others():
    parts = parts_of_three()
    expected = []
    for n, (head, scored) in enumerate(parts):
        x, y = [], []
        for m, (other, theirs) in enumerate(parts):
            if m != n:
                for i in rated(theirs.malignancy):
                    p = presence_score(other, theirs.scores[i : i + 1])[0]
                    x.append(np.log(p / (1 - p)))
                    y.append(theirs.malignancy[i] > 3)
        model = LogisticRegression().fit(np.array(x), np.array(y))
        p = presence_score(head, scored.scores)
        expected.append(model.predict_proba(np.log(p / (1 - p)))[:, 1])
    found = presence_alone(parts)
    assert found.shape == (40 + 45 + 50,)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-6)


def test_presence_alone_never_looks_at_a_parts_own_labels():
    parts = parts_of_three()
    before = presence_alone(parts)
    head, scored = parts[1]
    parts[1] = head, replace(scored, malignancy=6 - scored.malignancy)
    after = presence_alone(parts)
    np.testing.assert_array_equal(after[40:85], before[40:85])
    assert np.abs(after[:40] - before[:40]).max() > 1e-3
    assert np.abs(after[85:] - before[85:]).max() > 1e-3


def test_presence_alone_hears_nothing_of_prototypes_that_show_no_concept():
    parts = parts_of_three()
    for head, _ in parts:
        head.presence_weight[:, 1] = 0
    before = presence_alone(parts)
    for _, scored in parts:
        # All that there is to know of malignancy, but in silent prototypes.
        scored.scores[:, :, 1] = np.nan_to_num(scored.malignancy, nan=3)[:, None]
    np.testing.assert_array_equal(presence_alone(parts), before)


def test_presence_alone_holds_extreme_presences_within_bounds():
    parts = parts_of_three()
    for head, _ in parts:
        head.presence_weight.mul_(1e4)
    found = presence_alone(parts)
    assert np.isfinite(found).all() and ((found > 0) & (found < 1)).all()


def made_training():
    """Three concepts of four prototypes, each with one nodule that is nearest to it."""
    scored = made_scores(50, count=K, each=4)
    scores = scored.scores.clip(max=0.8)
    nearest = np.arange(K * 4).reshape(K, 4)
    share, inside = np.ones((50, K)), np.ones((50, K, 4), bool)
    for k, m in np.ndindex(K, 4):
        scores[nearest[k, m], k, m] = 0.9 + 0.01 * m
    return replace(scored, scores=scores, share=share, inside=inside), nearest


def kept_of(scored):
    return refined_head(made_head(each=4), scored).kept.tolist()


def test_only_prototypes_that_the_atlas_condemns_are_removed():
    scored, nearest = made_training()
    assert kept_of(scored) == [[1] * 4] * K
    scored.share[nearest[0, 1], 0] = 0.25
    scored.share[nearest[0, 2], 0] = 0.5
    scored.inside[nearest[1, 3], 1, 3] = False
    scored.share[nearest[2, 0], 2] = np.nan
    # What is said of other concepts, prototypes and nodules does not count.
    scored.share[nearest[0, 3], 1] = 0
    scored.inside[nearest[1, 0], 1, 1] = False
    scored.share[40, :], scored.inside[40] = 0, False
    assert kept_of(scored) == [[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]]


def test_of_a_concept_that_is_condemned_as_a_whole_the_best_prototype_stays():
    scored, nearest = made_training()
    scored.share[nearest[1], 1] = 0
    scored.inside[nearest[2], 2] = False
    scored.scores[nearest[2, 1], 2, 1] = 0.99
    assert kept_of(scored) == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_presence_and_decision_are_fitted_anew_to_what_is_left_and_nothing_else_changes():
    scored, nearest = made_training()
    scored.inside[nearest[1, 3], 1, 3] = False
    scored.share[40:] = 0
    head = made_head(each=4)
    before = copy.deepcopy(head.state_dict())
    refined = refined_head(head, scored)
    rows = rated(scored.malignancy)
    assert 10 < len(rows) < 50
    expected = fit_decision(
        scored.scores[rows].astype(float), scored.malignancy[rows] > 3, scored.share[rows],
        refined.kept.numpy(),
        head.absent.double().numpy(),
    )  # fmt: skip
    np.testing.assert_allclose(refined.decision_weight, expected.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(refined.decision_bias, expected.bias, rtol=1e-5)
    assert not refined.decision_weight[1, 3] and not refined.presence_weight[1, 3]
    presence = fit_presence(scored.scores.astype(float), scored.share, refined.kept.numpy())
    np.testing.assert_allclose(refined.presence_weight, presence.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(refined.presence_bias, presence.bias, rtol=1e-5)
    assert np.abs(expected.weight).max() > 0.1
    for name, value in refined.state_dict().items():
        assert torch.equal(head.state_dict()[name], before[name])
        changed = {"kept"} | {
            f"{layer}_{part}" for layer in ("presence", "decision") for part in ("weight", "bias")
        }
        assert torch.equal(value, before[name]) == (name not in changed)


def test_alive_is_a_prototype_that_is_nearest_to_a_nodule_with_the_concept():
    scores = np.zeros((5, 3, 3))
    share = np.zeros((5, 3))
    share[:, 0] = [1, 0.5, 0.25, np.nan, 1]
    share[:3, 1] = 1
    for n, m in enumerate([0, 2, 1, 1, 0]):
        scores[n, 0, m] = 0.5
    scores[:, 0, 1] -= 0.1
    scores[:, 1, 1] = 0.1
    assert alive_counts(scores, share) == [2, 1, 0]


def test_mean_logits_are_told_by_whether_a_concept_is_seen():
    presence = np.array([[0.01, 0.9], [0.04, 0.05], [np.nan, 0.51]])
    contribution = np.array([[0.1, -2.0], [-0.3, 5.0], [7.0, 1.0]])
    told = mean_logits(presence, contribution)
    assert told == {"hardly_seen": pytest.approx(0.2), "seen": pytest.approx(1.5)}
    nothing = mean_logits(np.full((2, 2), 0.3), np.ones((2, 2)))
    assert np.isnan(list(nothing.values())).all()
