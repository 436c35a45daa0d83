"""The gallery of prototypes: what each looks like, and whether it shall stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Prunings import Choice, Key, keyOf
from ContrastDiagnosisLib.ResultPanel import makeTable

PICTURE_PIXELS = 72

COLUMNS = (
    _("picture"), _("concept"), _("no."), _("case"), _("similarity"), _("hits"), _("keep"),
    _("note"),
)  # fmt: skip
PICTURE, CONCEPT, NUMBER, CASE, SIMILARITY, HITS, KEEP, NOTE = range(8)


class AtlasTable:
    """One row a prototype; knows neither files nor requests."""

    def __init__(self, onEdited: Callable[[], None]) -> None:
        """Makes an empty table.

        Args:
            onEdited: Called when the user ticks or writes something.
        """
        self._onEdited = onEdited
        self._prototypes: list[Mapping[str, Any]] = []
        # PythonQt does not keep the items alive for us.
        self._items: list[list[Any]] = []
        self._filling = False
        self.widget = makeTable(COLUMNS)
        self.widget.setEditTriggers(
            qt.QAbstractItemView.DoubleClicked | qt.QAbstractItemView.EditKeyPressed
        )
        self.widget.setIconSize(qt.QSize(PICTURE_PIXELS, PICTURE_PIXELS))
        self.widget.setMinimumHeight(480)
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
        self._items = []
        self.widget.setRowCount(0)
        self.widget.setRowCount(len(self._prototypes))
        for row, prototype in enumerate(self._prototypes):
            self._items.append(_itemsOf(prototype))
            for column, item in enumerate(self._items[-1]):
                self.widget.setItem(row, column, item)
        self.widget.setColumnHidden(PICTURE, not any(p["has_pixels"] for p in prototypes))
        self.widget.resizeColumnsToContents()
        self._filling = False

    def showConcept(self, name: str) -> None:
        """Shows the prototypes of one concept alone; of all if the name is empty."""
        for row, prototype in enumerate(self._prototypes):
            self.widget.setRowHidden(row, bool(name) and prototype["concept"] != name)

    def showPicture(self, key: Key, png: bytes) -> None:
        """Puts a picture beside a prototype."""
        for row, prototype in enumerate(self._prototypes):
            if keyOf(prototype) == key:
                pixmap = qt.QPixmap()
                pixmap.loadFromData(qt.QByteArray(png))
                self._filling = True
                self._items[row][PICTURE].setIcon(qt.QIcon(pixmap))
                self._filling = False
                self.widget.setRowHeight(row, PICTURE_PIXELS + 4)
                self.widget.setColumnWidth(PICTURE, PICTURE_PIXELS + 8)

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

    def _onItemChanged(self) -> None:
        if not self._filling:
            self._onEdited()


def _itemsOf(prototype: Mapping[str, Any]) -> list[Any]:
    texts = (
        "",
        _(prototype["concept"]),
        str(prototype["number"]),
        prototype["case_id"],
        f"{prototype['similarity']:.2f}",
        str(prototype["hits"]),
        "" if prototype["kept"] else _("removed before"),
        "",
    )
    items = [qt.QTableWidgetItem(text) for text in texts]
    shown = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
    for item in items[:NOTE]:
        item.setFlags(shown)
    if prototype["kept"]:
        items[KEEP].setFlags(shown | qt.Qt.ItemIsUserCheckable)
        items[KEEP].setCheckState(qt.Qt.Checked)
        items[KEEP].setToolTip(_("Untick a prototype that does not show its concept."))
    items[NOTE].setToolTip(_("Double-click to write why."))
    items[HITS].setToolTip(_("Cases that fire this prototype of the concept."))
    return items
