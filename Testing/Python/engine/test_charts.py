"""Charts: places on the picture, ticks, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.report.charts import (
    HEIGHT,
    WIDTH,
    Chart,
    Series,
    metric_charts,
    similarity_chart,
)
from contrastdiagnosis.trust.confidence import SimilarityIndicator


def test_places_run_from_the_lower_left_and_stay_within():
    chart = Chart("", "", "", (), (2.0, 4.0), (0.0, 10.0))
    assert (chart.x(2), chart.x(4), chart.x(3)) == (0, WIDTH, WIDTH / 2)
    assert (chart.y(0), chart.y(10)) == (HEIGHT, 0)
    assert (chart.x(99), chart.y(-5)) == (WIDTH, HEIGHT)
    line = Series("", "line", "", [(2, 0), (4, 10)])
    assert chart.path(line) == f"M0.0 {HEIGHT:.1f}L{WIDTH:.1f} 0.0"


@pytest.mark.parametrize("span", [(0, 1), (0, 0.37), (0, 0.083), (2.2, 17.9), (-3, 4), (0, 1e-4)])
def test_ticks_are_a_few_round_values_within_the_range(span):
    ticks = Chart.ticks(span)
    values = [value for value, _ in ticks]
    assert 3 <= len(ticks) <= 7
    assert span[0] <= values[0] and values[-1] <= span[1] * (1 + 1e-9)
    np.testing.assert_allclose(np.diff(values), values[1] - values[0], rtol=1e-6)
    for value, text in ticks:
        assert float(text) == pytest.approx(value, rel=1e-3, abs=1e-12)
        assert text != "-0"


def test_the_similarity_chart_shows_the_threshold_and_the_cases():
    indicator = SimilarityIndicator(np.random.default_rng(0).gamma(2, 1, 500))
    chart = similarity_chart(indicator, [0.5, 1.0, 30.0])
    bars, cases = chart.series
    assert sum(share for _, share in bars.points) == pytest.approx(1, abs=0.02)
    assert [x for x, _ in cases.points] == [0.5, 1.0, 30.0]
    assert chart.x_range[1] > 30
    assert chart.marks[0].x == indicator.threshold
    assert chart.marks[0].label == "95%"


def test_the_similarity_chart_names_the_end_of_a_normal_interval():
    indicator = SimilarityIndicator(np.random.default_rng(0).gamma(2, 1, 500), 0.95, "normal")
    (mark,) = similarity_chart(indicator, [0.5]).marks
    assert (mark.x, mark.label) == (indicator.threshold, "mean + 1.96 SD")


def test_measured_curves_become_three_charts():
    curves = {
        "reliability": [(0.2, 0.1, 30), (0.8, 0.9, 30)],
        "roc": [(0, 0), (1, 1)],
        "roc_diameter": [(0, 0), (1, 1)],
        "risk_coverage": [(0.1, 0.02), (1.0, 0.13)],
    }
    metrics = {"auc": 0.91, "auc_diameter": 0.88, "curves": curves}
    reliability, roc, risk = metric_charts(metrics, 0.7)
    assert reliability.marks[0].x == 0.7
    assert reliability.series[1].points == [(0.2, 0.1), (0.8, 0.9)]
    assert [s.label for s in roc.series[1:]] == [
        "vote of the cases, AUC 0.910", "diameter alone, AUC 0.880",
    ]  # fmt: skip
    assert risk.y_range[1] > 0.13
    assert not metric_charts(metrics)[0].marks
