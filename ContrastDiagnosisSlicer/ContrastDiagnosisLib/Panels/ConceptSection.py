"""From corrections in the scene to a new prediction of the concepts, live and one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import slicer
from contrastdiagnosis.protocol.tensors import unpack
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Panels.ConceptPanel import (
    KEPT,
    NO_CONCEPTS,
    NOT_DIAGNOSED,
    NOT_JUDGED,
    ConceptPanel,
    Shown,
)
from ContrastDiagnosisLib.Scene import ConceptView, NoduleScene, Revisions
from ContrastDiagnosisLib.Scene.CompareView import hideFromCaseView
from ContrastDiagnosisLib.Scene.NodeWatch import NodeWatch
from ContrastDiagnosisLib.Scene.Tables import isJudged
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, requestBody


class ConceptSection:
    """The concepts of the shown nodule: `ConceptPanel` on one side, scene and engine on the other.

    What is wanted stands in the scene. `_follow` compares it with what the engine last said and
    asks where they differ; each answer, good or bad, makes it compare again. So there is one
    request on its way at most, and a box that is dragged is asked about as often as answers come.
    """

    def __init__(self, session: Any, onMapChanged: Callable[[], None]) -> None:
        """Makes the widgets.

        Args:
            session: The `DiagnosisSession` of the panel.
            onMapChanged: Called when a map was shown or removed.
        """
        self._onMapChanged = onMapChanged
        self.panel = ConceptPanel(self)
        self._session = session
        self._node: Any = None
        self._document: dict[str, Any] | None = None
        self._question: Any = None
        self._maps: dict[str, Any] = {}
        self._refused: Any = None
        self._pictures: dict[tuple[str, int], bytes] = {}
        self._watch = NodeWatch(self._follow)

    @property
    def isRunning(self) -> bool:
        """Whether an answer is awaited."""
        return self._question is not None

    def show(self, parameterNode: Any, document: dict[str, Any] | None) -> None:
        """Shows the concepts of the selected nodule; `document` is its diagnosis, None if none."""
        self._node, self._document = parameterNode, document
        self._follow()

    def clear(self) -> None:
        """The scene closes: what is on its way is dropped."""
        self._node = self._document = self._refused = None
        self._watch.follow([])
        self._cancel()
        self.panel.showNothing(NOT_DIAGNOSED)

    def onVolumeChanged(self) -> None:
        """The map is of another CT; points of two CTs have the same IDs."""
        self._cancel()
        if self._node is not None:
            ConceptView.removeMap(self._node)

    def onEngineChanged(self) -> None:
        """Another bundle may stand behind the same names."""
        self._cancel()
        self._pictures.clear()
        self._refused = None

    def onConcept(self, name: str) -> None:
        """Shows the map of a concept; none if the name is empty."""
        self._refused = None
        self._node.concept = name
        self._follow()

    def onReject(self, name: str, rejected: bool) -> None:
        """A rejected concept no longer counts."""
        names = set(Revisions.rejectedOf(self._node, self._node.nodule)) - {name}
        names |= {name} if rejected else set()
        Revisions.setRejected(self._node, self._node.nodule, names)
        self._follow()

    def onBox(self, look: bool, forAll: bool) -> None:
        """Adds a box around the nodule's point."""
        node = self._node
        point = NoduleScene.pointWorld(node, node.nodule)
        if point is None or not self._prediction():
            return
        if not (forAll or node.concept):
            self.panel.showMessage(_("Select a concept that the box is about, or all concepts."))
            return
        number = NoduleScene.numberOfPoint(node, node.nodule)
        concept = "" if forAll else node.concept
        hideFromCaseView(Revisions.addBox(node, node.nodule, look, concept, point, number))
        self._follow()

    def onReset(self) -> None:
        """Takes all corrections of the nodule back."""
        Revisions.removeRevision(self._node.inputVolume, self._node.nodule)
        self._refused = None
        self._follow()

    def _follow(self) -> None:
        """Shows what is known and asks for what is not."""
        node = self._node
        if node is None or slicer.mrmlScene.IsImporting() or slicer.mrmlScene.IsClosing():
            return
        prediction = self._prediction()
        concept = self._concept(prediction)
        boxes = Revisions.boxesOf(node, node.nodule) if self._document else []
        self._watch.follow(boxes)
        if not concept:
            ConceptView.removeMap(node)
            self._onMapChanged()
            self._maps["shown"] = ""
        self._showExample(prediction, concept)
        if not (self._document and prediction):
            self.panel.showNothing(self._whyNothing(len(boxes)))
            return
        rejected = tuple(Revisions.rejectedOf(node, node.nodule))
        self.panel.show(Shown(self._document, prediction, rejected, len(boxes), concept))
        try:
            wanted = Revisions.revisionOf(node, node.nodule)
        except InputError as error:
            self.panel.showMessage(str(error))
            return
        if self._isShown(wanted, prediction, concept):
            self.panel.showMessage("")
        elif not self._isRefused(wanted, concept):
            self._ask(wanted, concept)

    def _whyNothing(self, boxes: int) -> str:
        """Why there are no concepts to show, and that corrections of them are not lost."""
        if not self._document:
            return NOT_DIAGNOSED
        if isJudged(self._document):
            return NO_CONCEPTS
        rejected = len(Revisions.rejectedOf(self._node, self._node.nodule))
        kept = KEPT.format(boxes=boxes, rejected=rejected)
        return f"{NOT_JUDGED} {kept}" if boxes or rejected else NOT_JUDGED

    def _prediction(self) -> dict[str, Any]:
        """The last answer about the nodule, else what its diagnosis says; empty if nothing."""
        document = self._document
        # Scenes of older versions say nothing of concepts, or tell them where no nodule is.
        said = document.get("concepts") if document and isJudged(document) else None
        return (Revisions.predictionOf(self._node, self._node.nodule) or said) if said else {}

    def _concept(self, prediction: dict[str, Any]) -> str:
        """The chosen concept; empty if the bundle has none of that name."""
        names = [row["name"] for row in prediction.get("concepts", ())]
        return self._node.concept if self._node.concept in names else ""

    def _isShown(self, wanted: dict[str, Any], prediction: dict[str, Any], concept: str) -> bool:
        """Whether the prediction is of what is wanted, and the concept's map is in the scene."""
        node = self._node
        if not Revisions.isSame(wanted, prediction["revision"]):
            return False
        if not concept:
            return True
        maps = self._maps
        if maps.get("pointId") == node.nodule and maps["said"] == json.dumps(prediction):
            if maps["shown"] != concept:
                maps["shown"] = concept
                values = maps["values"][[r["name"] for r in prediction["concepts"]].index(concept)]
                affine = np.array(prediction["cells_ijk_to_ras"])
                ConceptView.showMap(node, node.nodule, concept, values, affine)
                self._onMapChanged()
            return True
        # A loaded scene brings its map along.
        isLoaded = "pointId" not in maps and "cells_ijk_to_ras" in prediction
        return isLoaded and ConceptView.shownMap(node) == (node.nodule, concept)

    def _isRefused(self, wanted: dict[str, Any], concept: str) -> bool:
        """Whether the same was asked before and could not be answered."""
        if self._refused is None:
            return False
        pointId, refused, asked = self._refused
        same = (pointId, asked) == (self._node.nodule, concept)
        return same and Revisions.isSame(refused, wanted)

    def _ask(self, wanted: dict[str, Any], concept: str) -> None:
        if self._question:
            return
        node = self._node
        asked = self._session.asked(node.nodule)
        if asked is None:
            return
        self._refused = None

        def onError(message: str, _reached: bool) -> None:
            self._question = None
            self._refused = asked.pointId, wanted, concept
            self._follow()
            self.panel.showMessage(_("{message} The last answer is shown.").format(message=message))

        self._question = self._session.client.ask(
            "/concepts",
            requestBody(
                node.inputVolume,
                asked.crop,
                revision=wanted,
                tellSeries=self._session.client.engine.isLocal,
            ),
            lambda body: self._onAnswer(asked, body),
            onError,
        )

    def _onAnswer(self, asked: Any, body: bytes) -> None:
        self._question = None
        if self._session.stillFits(asked):
            tensors, prediction = unpack(body)
            Revisions.storePrediction(self._node, asked.pointId, prediction)
            # As text, so that what is not a number equals itself.
            said = json.dumps(prediction)
            self._maps = {"pointId": asked.pointId, "said": said, "values": tensors["maps"]}
            self._maps["shown"] = ""
        self._follow()

    def _showExample(self, prediction: dict[str, Any], concept: str) -> None:
        """The prototype that is evidence for what the chosen concept adds."""
        found = [e for e in prediction.get("examples", ()) if e["concept"] == concept]
        if not found:
            self.panel.showExample("", None)
            return
        example = found[0]
        score = next(row["score"] for row in prediction["concepts"] if row["name"] == concept)
        told = _(
            "{concept}: similarity {score:.2f} with prototype {number}, which case {case_id} stands"
            " for"
        ).format(score=score, **example)
        if "usual_score" in example:  # Scenes of older versions do not know it.
            usual = _("({usual_score:.2f} is usual without the concept)").format(**example)
            told = f"{told} {usual}"
        key = concept, example["number"]
        self.panel.showExample(told, self._pictures.get(key))
        if example["has_pixels"] and key not in self._pictures:
            self._pictures[key] = b""
            self._session.client.ask(
                f"/atlas/{quote(concept, safe='')}/{example['number']}/picture",
                None,
                lambda png: self._onPicture(key, png),
                lambda _message, _reached: None,
            )

    def _onPicture(self, key: tuple[str, int], png: bytes) -> None:
        self._pictures[key] = png
        if self._node is not None:
            prediction = self._prediction()
            self._showExample(prediction, self._concept(prediction))

    def _cancel(self) -> None:
        if self._question:
            self._question.cancel()
        self._question = None
        self._maps = {}
