"""The gallery of prototypes: what each looks like, and whether it shall stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.Prunings import Choice, Key, keyOf
from ContrastDiagnosisLib.Panels.ResultPanel import makeTable

PICTURE_PIXELS = 72

COLUMNS = {
    _("picture"): _("The slice through the case that is most alike, its cell framed."),
    _("no."): _("Number of the prototype in its concept."),
    _("case"): _(
        "The known nodule that is most like the prototype; its row's tip has the full name."
    ),
    _("label"): _(
        "What the readers suspected, not what a pathologist found: malignant by the rule that the"
        " bundle's model card tells."
    ),
    _("mm"): _("Diameter of the case's nodule."),
    _("sim."): _("Similarity (cosine) of the case and the prototype, at most 1."),
    _("hits"): _("Cases that show the concept and fire this prototype more than its others."),
    _("keep"): _("Untick a prototype that does not show its concept."),
    _("note"): _("Why; double-click to write. It is kept in the pruning file."),
}
"""Header and what it stands for. Short, so that a panel of 420 pixels shows all of them."""
PICTURE, NUMBER, CASE, LABEL, DIAMETER, SIMILARITY, HITS, KEEP, NOTE = range(9)
METRICS = (NUMBER, DIAMETER, SIMILARITY, HITS)

SHOWN = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable


class AtlasTable:
    """One row a prototype below the title of its concept; knows neither files nor requests."""

    def __init__(self, onEdited: Callable[[], None]) -> None:
        """Makes an empty table.

        Args:
            onEdited: Called when the user ticks or writes something.
        """
        self._onEdited = onEdited
        self._prototypes: list[Mapping[str, Any]] = []
        # PythonQt does not keep the items alive for us.
        self._items: list[list[Any]] = []
        self._titles: dict[str, Any] = {}
        self._filling = False
        self.widget = _makeWidget()
        self.widget.itemChanged.connect(lambda _item: self._onItemChanged())

    def show(self, prototypes: Sequence[Mapping[str, Any]]) -> None:
        """Shows other prototypes; all that take part are kept.

        Concept by concept, those that cases fire most come first: many never fire.
        """
        self._filling = True
        concepts = list(dict.fromkeys(p["concept"] for p in prototypes))
        self._prototypes = sorted(
            prototypes, key=lambda p: (concepts.index(p["concept"]), -p["hits"])
        )
        pictured = any(p["has_pixels"] for p in prototypes)
        shared = _sharedStart([p["case_id"] for p in prototypes])
        self._items, self._titles = [], {}
        self.widget.clearSpans()
        self.widget.setRowCount(0)
        self.widget.setRowCount(len(prototypes) + len(concepts))
        for prototype in self._prototypes:
            if prototype["concept"] not in self._titles:
                self._addTitle(prototype["concept"])
            self._addRow(prototype, shared, pictured)
        self._fitColumns(pictured)
        self._filling = False

    def rowOf(self, key: Key) -> int:
        """Where a prototype is shown."""
        return self._items[self._placeOf(key)][NUMBER].row()

    def showConcept(self, name: str) -> None:
        """Shows the prototypes of one concept alone; of all if the name is empty."""
        for prototype, items in zip(self._prototypes, self._items, strict=True):
            hidden = bool(name) and prototype["concept"] != name
            self.widget.setRowHidden(items[NUMBER].row(), hidden)
        for concept, title in self._titles.items():
            self.widget.setRowHidden(title.row(), bool(name) and concept != name)

    def showPicture(self, key: Key, png: bytes) -> None:
        """Puts a picture beside a prototype."""
        pixmap = qt.QPixmap()
        pixmap.loadFromData(qt.QByteArray(png))
        self._filling = True
        self._items[self._placeOf(key)][PICTURE].setIcon(qt.QIcon(pixmap))
        self._filling = False

    def choices(self) -> dict[Key, Choice]:
        """As the user ticked and wrote."""
        return {
            keyOf(p): Choice(
                p["kept"] and items[KEEP].checkState() == qt.Qt.Unchecked,
                items[NOTE].text().strip(),
            )
            for p, items in zip(self._prototypes, self._items, strict=True)
        }

    def setChoices(self, choices: Mapping[Key, Choice]) -> None:
        """Of a file; what it does not name is kept."""
        self._filling = True
        for prototype, items in zip(self._prototypes, self._items, strict=True):
            choice = choices.get(keyOf(prototype), Choice())
            if prototype["kept"]:
                items[KEEP].setCheckState(qt.Qt.Unchecked if choice.remove else qt.Qt.Checked)
            items[NOTE].setText(choice.note)
        self._filling = False

    def _placeOf(self, key: Key) -> int:
        return [keyOf(prototype) for prototype in self._prototypes].index(key)

    def _addTitle(self, concept: str) -> None:
        row = len(self._titles) + len(self._items)
        count = sum(p["concept"] == concept and p["kept"] for p in self._prototypes)
        item = qt.QTableWidgetItem(f"{_(concept)} ({count})")
        item.setFlags(qt.Qt.ItemIsEnabled)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setBackground(self.widget.palette.alternateBase())
        self.widget.setItem(row, 0, item)
        self.widget.setSpan(row, 0, 1, len(COLUMNS))
        self._titles[concept] = item

    def _addRow(self, prototype: Mapping[str, Any], shared: str, pictured: bool) -> None:
        row = len(self._titles) + len(self._items)
        self._items.append(_itemsOf(prototype, prototype["case_id"].removeprefix(shared), pictured))
        for column, item in enumerate(self._items[-1]):
            self.widget.setItem(row, column, item)
        if pictured:
            text = 3 * self.widget.fontMetrics().height()
            height = PICTURE_PIXELS if prototype["has_pixels"] else text
            self.widget.setRowHeight(row, height + 4)

    def _fitColumns(self, pictured: bool) -> None:
        """Beside a picture there is no room for the columns of what is known of the case."""
        self.widget.setColumnHidden(PICTURE, not pictured)
        for column, name in ((LABEL, "label"), (DIAMETER, "diameter_mm")):
            known = any(p.get(name) is not None for p in self._prototypes)
            self.widget.setColumnHidden(column, pictured or not known)
        self.widget.resizeColumnsToContents()
        self.widget.setColumnWidth(PICTURE, PICTURE_PIXELS + 8)

    def _onItemChanged(self) -> None:
        if not self._filling:
            self._onEdited()


def _makeWidget() -> Any:
    widget = makeTable(list(COLUMNS), tips=list(COLUMNS.values()))
    widget.setEditTriggers(qt.QAbstractItemView.DoubleClicked | qt.QAbstractItemView.EditKeyPressed)
    widget.setIconSize(qt.QSize(PICTURE_PIXELS, PICTURE_PIXELS))
    # A bold header of the selected columns would need more room.
    widget.horizontalHeader().setHighlightSections(False)
    # A last section that merely stretches would not become narrower than it once was.
    widget.horizontalHeader().setStretchLastSection(False)
    widget.horizontalHeader().setSectionResizeMode(NOTE, qt.QHeaderView.Stretch)
    widget.setVerticalScrollMode(qt.QAbstractItemView.ScrollPerPixel)
    widget.setMinimumHeight(200)
    return widget


def _sharedStart(caseIds: Sequence[str]) -> str:
    """What all ids begin with, such as "LIDC-IDRI-": the narrow table does without it."""
    first, last = min(caseIds, default=""), max(caseIds, default="")
    pairs = enumerate(zip(first, last, strict=False))
    differs = next((n for n, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind("-", 0, differs) + 1]


def _itemsOf(prototype: Mapping[str, Any], case: str, pictured: bool) -> list[Any]:
    label, diameter = _(prototype.get("label") or ""), prototype.get("diameter_mm")
    size = "" if diameter is None else f"{diameter:.1f}"
    lines = [case, label, _("{size} mm").format(size=size) if size else ""]
    texts = (
        "",
        str(prototype["number"]),
        "\n".join(filter(None, lines)) if pictured else case,
        label,
        size,
        f"{round(prototype['similarity'], 2) + 0:.2f}",  # no -0.00
        str(prototype["hits"]),
        "" if prototype["kept"] else _("gone"),
        "",
    )
    items = [qt.QTableWidgetItem(text) for text in texts]
    tip = _caseText(prototype)
    for item in items[:NOTE]:
        item.setFlags(SHOWN)
        item.setToolTip(tip)
    for column in METRICS:
        items[column].setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    if prototype["kept"]:
        items[KEEP].setFlags(SHOWN | qt.Qt.ItemIsUserCheckable)
        items[KEEP].setCheckState(qt.Qt.Checked)
    else:
        items[KEEP].setToolTip(_("It was removed when this bundle was made."))
    return items


def _caseText(prototype: Mapping[str, Any]) -> str:
    """What is known of a prototype's case, a fact a line."""
    lines = [prototype["case_id"]]
    if prototype.get("label") is not None:
        lines.append(_("{label} as the readers suspected").format(label=_(prototype["label"])))
    if prototype.get("diameter_mm") is not None:
        lines.append(_("{size:.1f} mm in diameter").format(size=prototype["diameter_mm"]))
    if ratings := prototype.get("ratings"):
        lines.append(_("Mean of the readers' ratings:"))
        lines += [f"{name} {value:.1f}" for name, value in ratings.items()]
    return "\n".join(lines)
