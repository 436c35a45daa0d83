"""The panel "Compare": the maps of the nodule against the chosen case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Scene.CompareView import CompareView
from ContrastDiagnosisLib.Scene.OwnNodes import isOurs, roleOf
from ContrastDiagnosisLib.Scene.Parameter import Sign
from ContrastDiagnosisLib.Session.MapOptions import MapOptions, mapOptionsOf

SIGNS = (Sign.SIMILAR, Sign.DIFFERENT)

NOTHING = _("Select a case above to compare it with the nodule.")
NO_PICTURE = _(
    "No picture of this case: the cases' images stay with their\n"
    "archive. With a local copy of it, the command\n"
    "'contrastdiagnosis cases add-pixels' brings them."
)


class ComparePanel:
    """Asks for the maps of one pair and shows them."""

    def __init__(
        self, ui: Any, session: Any, view: CompareView, onMapChanged: Callable[[], None]
    ) -> None:
        """Connects the widgets.

        Args:
            ui: With `signComboBox`, `remarksLabel` and `mapOptionsCollapsibleButton`.
            session: Asks for the maps.
            view: Shows them.
            onMapChanged: Called when maps were shown.
        """
        self._onMapChanged = onMapChanged
        self._ui, self._session, self._view = ui, session, view
        self._node: Any = None
        self._maps: tuple[Any, Any] | None = None
        self._updating = self._isAsking = False
        self.options = MapOptions()
        self._variant: dict[str, Any] = {}
        # Long remarks make the panel higher, not wider.
        policy = ui.remarksLabel.sizePolicy
        policy.setHorizontalPolicy(qt.QSizePolicy.Ignored)
        ui.remarksLabel.setSizePolicy(policy)
        ui.mapOptionsCollapsibleButton.layout().addWidget(self.options.widget)
        ui.signComboBox.currentIndexChanged.connect(self.onSign)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Another scene's choices; None while a scene closes."""
        self._node, self._maps = parameterNode, None
        self._isAsking = False
        # Maps that come with a scene were made as it says.
        self._variant = {} if parameterNode is None else mapOptionsOf(parameterNode)
        self._ui.remarksLabel.setText(NOTHING)
        self._view.note("")

    def follow(self) -> None:
        """Shows the choices as they stand in the scene."""
        self._updating = True
        self._ui.signComboBox.setCurrentIndex(SIGNS.index(self._node.sign))
        self._updating = False
        self.options.follow(self._node)
        self._view.setOpacity(self._node.mapOpacity)
        if not self._node.caseId and not isOurs(self._node.inputVolume):
            self._clear()
        elif self._view.isShown:
            self._view.note(_noteOf(self._node))

    def renew(self) -> None:
        """Asks anew where maps are shown or awaited that were made in another way than chosen."""
        variant = mapOptionsOf(self._node)
        if variant != self._variant:
            self._variant, self._maps = variant, None
            if self._node.caseId:
                self.request()

    def refresh(self, isMoved: bool) -> None:
        """Maps that were asked for and will not come can be asked for again.

        Args:
            isMoved: Whether the shown nodule's point lies elsewhere now; the maps go then.
        """
        isLost = self._isAsking and not self._session.isAskingMaps
        if isLost:
            self._isAsking = False
        if self._node.caseId and (isLost or isMoved):
            self._node.caseId = ""

    def _clear(self) -> None:
        """Nothing is compared: no map of what was compared before stays."""
        self.forget()
        self._ui.remarksLabel.setText(NOTHING)
        if roleOf(self._node, "queryMap") is not None:
            self._view.clear(self._node)
            self._onMapChanged()

    def forget(self) -> None:
        """The maps are of another CT."""
        self._maps = None

    def request(self) -> None:
        """Asks for the maps against the case of the parameter node."""
        self._maps = None
        self._ui.remarksLabel.setText(_("asking for the maps..."))
        self._isAsking = True
        self._session.requestMaps(self._node.caseId, self._onMaps)
        self.refresh(False)

    def onSign(self, index: int) -> None:
        """Switches between what is alike and what differs."""
        if self._updating or self._node is None:
            return
        self._node.sign = SIGNS[index]
        if self._maps:
            self._show()
        elif self._node.caseId:
            self.request()

    def _onMaps(self, pair: Any, tensors: Any) -> None:
        self._maps, self._isAsking = (pair, tensors), False
        self._view.showLayout()
        self._show()

    def _show(self) -> None:
        if self._maps and self._maps[0]["case_id"] == self._node.caseId:
            pair, tensors = self._maps
            self._view.showPair(self._node, pair, tensors)
            self._view.note(_noteOf(self._node))
            self._onMapChanged()
            self._ui.remarksLabel.setText(_remarksOf(pair))


def _remarksOf(pair: dict[str, Any]) -> str:
    """What is told of a pair; an older server does not tell of parts and variants."""
    told = _("Distance {distance:.3f}. Yellow line: the strongest tenth.")
    lines = [told.format(distance=pair["distance"])]
    if parts := pair.get("parts"):
        lines.append(_("Of the pair: {sentence}.").format(sentence=parts["sentence"]))
    lines += [_asSentence(remark) for remark in pair["remarks"]]
    if variant := pair["map_variant"]:
        lines.append(_("Not made as usual: {words}.").format(words=variant["words"]))
    return " ".join(lines)


def _asSentence(remark: str) -> str:
    """The engine's remarks are clauses; here sentences stand around them."""
    return remark[:1].upper() + remark[1:] + ("" if remark.endswith(".") else ".")


def _noteOf(parameterNode: Any) -> str:
    """What is known of the case that is compared; empty if none is."""
    document = NoduleScene.documentOf(parameterNode, parameterNode.nodule)
    cases = document["cases"] if document else ()
    case = next((c for c in cases if c["case_id"] == parameterNode.caseId), None)
    if case is None:
        return ""
    told = _("case {case_id}: {label}, {diameter_mm:.1f} mm").format(**case)
    ratings = [f"{name} {value:.1f}" for name, value in case["ratings"].items()]
    return "\n".join([told, *ratings, *([] if case["has_pixels"] else ["", NO_PICTURE])])
