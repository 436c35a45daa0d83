"""The panel "Result": the nodules, the diagnosis of one, and the gallery of its cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

PICTURE_PIXELS = 72

NODULE_COLUMNS = (
    _("nodule"), _("finding"), _("probability"), _("confident"), _("axes (mm)"), _("volume (mm3)"),
)  # fmt: skip
CASE_COLUMNS = (
    _("picture"), _("case"), _("label"), _("diameter (mm)"), _("distance"), _("similarity"),
)  # fmt: skip


class ResultPanel:
    """Shows documents of the engine; knows neither nodes nor requests."""

    def __init__(self, onNodule: Callable[[int], None], onCase: Callable[[int], None]) -> None:
        """Makes the widgets.

        Args:
            onNodule: Called with the row of the nodule that the user selects.
            onCase: Called with the place of the case that the user selects.
        """
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.nodules = makeTable(NODULE_COLUMNS)
        self.nodules.setMaximumHeight(160)
        self.headline = makeLabel(bold=True)
        self.measures = makeLabel()
        self.confidence = makeLabel()
        self.cases = makeTable(CASE_COLUMNS)
        self.cases.setIconSize(qt.QSize(PICTURE_PIXELS, PICTURE_PIXELS))
        self.cases.setMinimumHeight(230)
        self.ratings = makeLabel()
        self.notice = makeLabel()
        for widget in (
            self.nodules, self.headline, self.confidence, self.measures, self.cases, self.ratings,
        ):  # fmt: skip
            layout.addWidget(widget)
        self._items: dict[str, list[Any]] = {}
        self._rows: dict[str, Sequence[Sequence[str]]] = {}
        self._shown: Sequence[dict[str, Any]] = ()
        self._filling = False
        self._onNodule, self._onCase = onNodule, onCase
        self.nodules.itemSelectionChanged.connect(self._onNoduleSelected)
        self.cases.itemSelectionChanged.connect(self._onCaseSelected)
        self.showDiagnosis(None)

    def showNodules(
        self, rows: Sequence[tuple[int, dict[str, Any] | None, bool]], selected: int
    ) -> None:
        """Fills the list of nodules.

        Args:
            rows: Number and document of each, and whether the point was moved since; the document
                is None for a point that is not diagnosed yet.
            selected: Row that is shown; -1 for none.
        """
        table = []
        for number, document, moved in rows:
            if document is None or moved:
                told = _("not diagnosed") if document is None else _("point moved: diagnose anew")
                table.append([str(number), told, "", "", "", ""])
                continue
            nodule = document["nodule"]
            axes = f"{nodule['long_axis_mm']:.1f} x {nodule['short_axis_mm']:.1f}"
            table.append(
                [
                    str(number),
                    _(document["verdict"]),
                    f"{document['probability']:.2f}",
                    _("yes") if document["confident"] else _("no"),
                    axes if nodule["found"] else "-",
                    f"{nodule['volume_mm3']:.0f}",
                ]
            )
        self._fill(self.nodules, "nodules", table, selected)

    def showDiagnosis(self, document: dict[str, Any] | None, case: int = -1) -> None:
        """Shows one diagnosis and its cases, or that there is none."""
        self._shown = document["cases"] if document else ()
        if document is None:
            self.headline.setText(_("Place a point on a nodule."))
            for label in (self.measures, self.confidence):
                label.setText("")
        else:
            vote = document["vote"]
            self.headline.setText(
                _(
                    "{verdict}: probability {probability:.2f}; {malignant} of {cases} nearest"
                    " cases are malignant"
                ).format(
                    verdict=_(document["verdict"]), probability=document["probability"], **vote
                )
            )
            self.confidence.setText(
                _("confident")
                if document["confident"]
                else _("NOT CONFIDENT: {reasons}").format(reasons="; ".join(document["reasons"]))
            )
            self.measures.setText("\n".join([_measuresText(document), *document["notices"]]))
        table = [
            [
                "",
                c["case_id"],
                _(c["label"]),
                f"{c['diameter_mm']:.1f}",
                f"{c['distance']:.3f}",
                f"{c['similarity']:.2f}",
            ]
            for c in self._shown
        ]
        self._fill(self.cases, "cases", table, case)
        self.cases.setColumnHidden(0, not any(c["has_pixels"] for c in self._shown))
        self._showRatings(case)

    def showPicture(self, caseId: str, png: bytes) -> None:
        """Puts a picture beside a case of the gallery."""
        for row, case in enumerate(self._shown):
            if case["case_id"] == caseId:
                pixmap = qt.QPixmap()
                pixmap.loadFromData(qt.QByteArray(png))
                self.cases.item(row, 0).setIcon(qt.QIcon(pixmap))
                self.cases.setRowHeight(row, PICTURE_PIXELS + 4)
                self.cases.setColumnWidth(0, PICTURE_PIXELS + 8)

    def _fill(self, table: Any, name: str, rows: Sequence[Sequence[str]], selected: int) -> None:
        self._filling = True
        if self._rows.get(name) != rows:
            self._rows[name] = rows
            table.setRowCount(len(rows))
            # PythonQt does not keep the items alive for us.
            self._items[name] = []
            for r, row in enumerate(rows):
                for c, text in enumerate(row):
                    item = qt.QTableWidgetItem(text)
                    table.setItem(r, c, item)
                    self._items[name].append(item)
            table.resizeColumnsToContents()
        if 0 <= selected < len(rows):
            table.selectRow(selected)
        else:
            table.clearSelection()
        self._filling = False

    def _onNoduleSelected(self) -> None:
        row = selectedRow(self.nodules)
        if not self._filling and row >= 0:
            self._onNodule(row)

    def _onCaseSelected(self) -> None:
        row = selectedRow(self.cases)
        if not self._filling and row >= 0:
            self._showRatings(row)
            self._onCase(row)

    def _showRatings(self, row: int) -> None:
        if not 0 <= row < len(self._shown):
            self.ratings.setText("")
            return
        case = self._shown[row]
        text = ", ".join(f"{name} {value:.1f}" for name, value in case["ratings"].items())
        told = _("Readers' ratings of {case}: {ratings}").format(case=case["case_id"], ratings=text)
        self.ratings.setText(told)


def selectedRow(table: Any) -> int:
    """-1 if none; `currentRow` may still be the row before."""
    items = table.selectedItems()
    return items[0].row() if items else -1


def _measuresText(document: dict[str, Any]) -> str:
    nodule = document["nodule"]
    if not nodule["found"]:
        return _("no nodule was found at the point")
    return _(
        "axial diameters {long_axis_mm:.1f} x {short_axis_mm:.1f} mm, volume {volume_mm3:.0f} mm3"
    ).format(**nodule)


def makeLabel(bold: bool = False) -> Any:
    """Text that wraps and can be copied."""
    label = qt.QLabel()
    label.setWordWrap(True)
    if bold:
        font = label.font
        font.setBold(True)
        label.setFont(font)
    label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    return label


def makeTable(columns: Sequence[str]) -> Any:
    """A table of which one row at a time can be selected."""
    table = qt.QTableWidget()
    table.setColumnCount(len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
    table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
    table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    table.verticalHeader().setVisible(False)
    table.horizontalHeader().setStretchLastSection(True)
    return table
