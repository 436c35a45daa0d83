"""MODEL_CARD.md, made from what a bundle knows about itself; its words are in `templates`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from contrastdiagnosis.bundle.card_concepts import concept_metrics
from contrastdiagnosis.bundle.card_metrics import case_counts, gate_metrics, vote_metrics
from contrastdiagnosis.bundle.card_quality import quality_metrics
from contrastdiagnosis.trust.confidence import normal_factor
from contrastdiagnosis.trust.confidence_rule import CUT_THROUGH, MOST_UNMEASURED, NODULE_MM

if TYPE_CHECKING:
    from contrastdiagnosis.bundle.info import BundleInfo
    from contrastdiagnosis.cases.library import CaseLibrary


def model_card(info: BundleInfo, library: CaseLibrary) -> str:
    """Markdown text of the card."""
    return (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            info=info,
            cases=case_counts(library),
            normal_factor=normal_factor(info.similarity_quantile),
            vote=vote_metrics(info.metrics),
            concepts=concept_metrics(info),
            limits=info.limits,
            cut_through=CUT_THROUGH,
            most_unmeasured=MOST_UNMEASURED,
            nodule_mm=NODULE_MM,
            gate=gate_metrics(info.metrics),
            quality=quality_metrics(info.metrics),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("contrastdiagnosis.bundle"),
        autoescape=select_autoescape(),  # Of HTML alone: in Markdown & stays &.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": "{:.0%}".format, "short": "{:g}".format, "fixed": _fixed}
    return environment


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"
