"""The panel "Compare": the maps of the nodule against the chosen case."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ContrastDiagnosisLib.CompareView import CompareView
from ContrastDiagnosisLib.Parameter import Sign

SIGNS = (Sign.SIMILAR, Sign.DIFFERENT)


class ComparePanel:
    """Asks for the maps of one pair and shows them."""

    def __init__(self, ui: Any, session: Any, view: CompareView) -> None:
        """Connects the widgets.

        Args:
            ui: With `signComboBox` and `remarksLabel`.
            session: Asks for the maps.
            view: Shows them.
        """
        self._ui, self._session, self._view = ui, session, view
        self._node: Any = None
        self._maps: tuple[Any, Any] | None = None
        self._updating = False
        ui.signComboBox.currentIndexChanged.connect(self.onSign)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Another scene's choices; None while a scene closes."""
        self._node, self._maps = parameterNode, None

    def follow(self) -> None:
        """Shows the choices as they stand in the scene."""
        self._updating = True
        self._ui.signComboBox.setCurrentIndex(SIGNS.index(self._node.sign))
        self._updating = False
        self._view.setOpacity(self._node.mapOpacity)

    def forget(self) -> None:
        """The maps are of another CT."""
        self._maps = None

    def request(self) -> None:
        """Asks for the maps against the case of the parameter node."""
        self._maps = None
        self._ui.remarksLabel.setText(_("asking for the maps..."))
        self._session.requestMaps(self._node.caseId, self._onMaps)

    def onSign(self, index: int) -> None:
        """Switches between what is alike and what differs."""
        if self._updating or not self._node:
            return
        self._node.sign = SIGNS[index]
        if self._maps:
            self._show()
        elif self._node.caseId:
            self.request()

    def _onMaps(self, pair: Any, tensors: Any) -> None:
        self._maps = (pair, tensors)
        self._view.showLayout()
        self._show()

    def _show(self) -> None:
        if self._maps and self._maps[0]["case_id"] == self._node.caseId:
            pair, tensors = self._maps
            self._view.showPair(self._node, pair, tensors)
            told = _("distance {distance:.3f}. The yellow line holds the strongest tenth.")
            self._ui.remarksLabel.setText(
                " ".join([told.format(distance=pair["distance"]), *pair["remarks"]])
            )
