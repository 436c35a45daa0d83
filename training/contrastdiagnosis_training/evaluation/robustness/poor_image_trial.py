"""`PoorImageTrial`: what telling poor images changes about confident answers, on unseen nodules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrastdiagnosis.trust.confidence_rule import CaseLimits

from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer
from contrastdiagnosis_training.evaluation.robustness.figures import Judges, robust_figures
from contrastdiagnosis_training.evaluation.robustness.poor_verdicts import Verdicts
from contrastdiagnosis_training.evaluation.shipped_rule import Part


@dataclass(frozen=True, eq=False)
class PoorImageTrial:
    """Unseen nodules in poorer scans, judged without and with what tells poor images.

    Attributes:
        parts: Support sets and unseen nodules in their scans as they are, one a fold.
        poorer: The same by the way their scans were made poorer.
        told: Verdicts by the kind that their images are told to be poor in.
        thresholds: Distances beyond which a case is unlike, one a fold.
        blind: Limits of each fold that tell no poor images.
        aware: Those that do, by detectors and verdicts of other patients.
    """

    parts: Sequence[Part]
    poorer: Mapping[Poorer, Sequence[Part]]
    told: Mapping[str, Sequence[tuple[int, Verdicts]]]
    thresholds: Sequence[float]
    blind: Sequence[CaseLimits]
    aware: Sequence[CaseLimits]

    def confident_table(self) -> list[dict[str, Any]]:
        """Confident answers and how many of them are wrong, before poor images were told, and now.

        A row for the scans as they are and for every way.
        """
        table = []
        seen: list[tuple[Poorer | None, Sequence[Part]]] = [(None, self.parts)]
        for way, images in [*seen, *self.poorer.items()]:
            before = robust_figures(self.parts, images, Judges(self.thresholds, self.blind))
            after = robust_figures(self.parts, images, Judges(self.thresholds, self.aware))
            table.append(
                {
                    "operation": way.operation if way else "clean",
                    "severity": way.severity if way else 0,
                    "auc": before.auc,
                    "confident_before": before.confident,
                    "wrong_before": before.confident_wrong,
                    "confident": after.confident,
                    "wrong": after.confident_wrong,
                }
            )
        return table
