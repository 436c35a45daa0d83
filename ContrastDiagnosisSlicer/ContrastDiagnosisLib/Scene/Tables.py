"""Diagnoses as tables of the scene: a line a nodule, a line a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import vtk
from slicer.i18n import tr as _


def isJudged(document: dict[str, Any]) -> bool:
    """Whether a diagnosis has a verdict; those of older versions have one without a nodule too."""
    return document["verdict"] is not None and document["nodule"]["found"]


def findingOf(document: dict[str, Any]) -> str:
    """The verdict in a word, or why there is none."""
    if isJudged(document):
        return _(document["verdict"])
    return _("no nodule") if isNothing(document) else _("not judged")


def isNothing(document: dict[str, Any]) -> bool:
    """Whether no nodule was found; older versions had no other reason for no verdict."""
    if document["verdict"] is None:
        return document["finding"] == "no nodule"
    return not document["nodule"]["found"]


def fillFindings(table: Any, documents: Mapping[int, dict[str, Any]]) -> None:
    """One line a diagnosed nodule.

    Args:
        table: vtkMRMLTableNode; what stands in it is replaced.
        documents: What the engine said, by the nodule's number.
    """
    rows = []
    for number, document in documents.items():
        nodule, vote, isSure = document["nodule"], document["vote"], document["confident"]
        judged, found = isJudged(document), nodule["found"]
        rows.append(
            {
                _("nodule"): str(number),
                _("finding"): findingOf(document),
                _("probability"): f"{document['probability']:.2f}" if judged else "-",
                _("malignant cases"): f"{vote['malignant']} / {vote['cases']}" if judged else "-",
                _("confident"): _("yes") if judged and isSure else _("no"),
                _("why not"): "; ".join(document["reasons"]),
                _("long axis (mm)"): f"{nodule['long_axis_mm']:.1f}" if found else "-",
                _("short axis (mm)"): f"{nodule['short_axis_mm']:.1f}" if found else "-",
                _("volume (mm3)"): f"{nodule['volume_mm3']:.0f}" if found else "-",
                _("notice"): document["notice"],
            }
        )
    _fill(table, rows)


def fillCases(table: Any, cases: Sequence[dict[str, Any]]) -> None:
    """One line a similar case, nearest first."""
    rows = []
    for rank, case in enumerate(cases, start=1):
        rows.append(
            {
                _("rank"): str(rank),
                _("case"): case["case_id"],
                _("label"): case["label"],
                _("diameter (mm)"): f"{case['diameter_mm']:.1f}",
                _("distance"): f"{case['distance']:.3f}",
                _("similarity"): f"{case['similarity']:.2f}",
                **{name: f"{value:.2f}" for name, value in case["ratings"].items()},
            }
        )
    _fill(table, rows)


def _fill(table: Any, rows: Sequence[dict[str, str]]) -> None:
    """Text columns, replaced in one step."""
    wasModifying = table.StartModify()
    table.RemoveAllColumns()
    for name in rows[0] if rows else ():
        column = vtk.vtkStringArray()
        column.SetName(name)
        for row in rows:
            column.InsertNextValue(row.get(name, ""))
        table.AddColumn(column)
    table.EndModify(wasModifying)
