"""HTML pages of the training package's reports."""

from __future__ import annotations

from datetime import date
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: Any) -> str:
    """A page without scripts and without links to anything outside it.

    Args:
        package: Under `contrastdiagnosis_training.evaluation`, whose `templates` hold the page's.
        template: Name of the file.
        values: What it shows; `created`, today, is told to every page.
    """
    evaluation = "contrastdiagnosis_training.evaluation"
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader(f"{evaluation}.{package}"),
                PackageLoader(evaluation),
                PackageLoader("contrastdiagnosis.report"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(created=date.today().isoformat(), **values)
