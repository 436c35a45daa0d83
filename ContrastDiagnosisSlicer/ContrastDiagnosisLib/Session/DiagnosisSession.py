"""From points to diagnoses in the scene: asks the engine, one nodule after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer
from contrastdiagnosis.protocol.tensors import unpack
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.EngineClient import unusable
from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Scene.NoduleScene import Diagnosed
from ContrastDiagnosisLib.Scene.Revisions import isEmpty, revisionOf
from ContrastDiagnosisLib.Scene.Tables import isJudged
from ContrastDiagnosisLib.Scene.VolumeBridge import (
    Crop,
    InputError,
    cropAround,
    ijkToRasOf,
    pointInVolume,
    requestBody,
    sequenceRemark,
)
from ContrastDiagnosisLib.Session.MapOptions import mapOptionsOf


@dataclass(frozen=True)
class Asked:
    """What was asked, to tell whether the answer still fits the scene.

    Attributes:
        pointId: ID of the control point.
        volumeId: The CT.
        voxelsTime: Modification time of its voxels.
        crop: What was sent.
    """

    pointId: str
    volumeId: str
    voxelsTime: int
    crop: Crop


@dataclass(frozen=True)
class Step:
    """What a diagnosis replaced; None if the point had none."""

    volumeId: str
    pointId: str
    before: Diagnosed | None


class DiagnosisSession:
    """Diagnoses of one parameter node; without widgets, so that scripts can use it too."""

    def __init__(
        self,
        client: Any,
        onChanged: Callable[[], None],
        onError: Callable[[str, bool], None],
    ) -> None:
        """Nothing is started yet.

        Args:
            client: Asks the engine, as `EngineClient` does.
            onChanged: Called when a result or the progress changed.
            onError: Called with a message for the user, and whether the engine was reached or not
                needed; the scene is as it was.
        """
        self.client = client
        self.parameterNode: Any = None
        self._onChanged, self._onError = onChanged, onError
        self._queue: list[str] = []
        self._running: str = ""
        self._question: Any = None
        self._mapsQuestion: Any = None
        self._done = self._total = 0
        self._steps: list[Step] = []
        self._isStoring = False

    @property
    def isRunning(self) -> bool:
        """Whether a diagnosis is awaited."""
        return bool(self._running or self._queue)

    @property
    def isStoring(self) -> bool:
        """Whether an answer is on its way into the scene; `onChanged` is called when it is."""
        return self._isStoring

    @property
    def isAskingMaps(self) -> bool:
        """Whether the maps of a comparison are awaited."""
        return self._mapsQuestion is not None

    @property
    def progress(self) -> tuple[int, int]:
        """How many are done of how many."""
        return self._done, self._total

    @property
    def canUndo(self) -> bool:
        """Whether there is a diagnosis to take back."""
        return bool(self._steps)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Another scene or none: what is on its way is dropped."""
        held = self.parameterNode
        both = held is not None and parameterNode is not None
        if both and held.parameterNode is parameterNode.parameterNode:
            self.parameterNode = parameterNode
            return
        self.cancel()
        self._steps.clear()
        self.parameterNode = parameterNode

    def diagnose(self, pointIds: Sequence[str]) -> None:
        """Queues points; one that waits already is not queued twice."""
        new = [p for p in pointIds if p not in self._queue]
        if not new:
            return
        if not self.isRunning:
            self._done = self._total = 0
        self._queue += new
        self._total += len(new)
        if not self._running:
            self._next()

    def cancel(self) -> None:
        """Drops what is waiting and what is on its way; the scene stays as it is."""
        self._queue.clear()
        self._running = ""
        for question in (self._question, self._mapsQuestion):
            if question:
                question.cancel()
        self._question = self._mapsQuestion = None

    def removePoint(self, pointId: str) -> None:
        """The user deleted a point: its diagnosis goes too."""
        self._queue = [p for p in self._queue if p != pointId]
        volumeId = self.parameterNode.inputVolume.GetID()
        gone = volumeId, pointId
        self._steps = [s for s in self._steps if (s.volumeId, s.pointId) != gone]
        NoduleScene.removeDiagnosis(self.parameterNode, pointId)
        if self.parameterNode.nodule == pointId:
            self._show("")

    def undo(self) -> None:
        """Takes back the last diagnosis: the one before it returns, and the point to its place."""
        if not self._steps:
            return
        step = self._steps.pop()
        volume = slicer.mrmlScene.GetNodeByID(step.volumeId)
        if volume is None:
            self._onChanged()
            return
        if self.parameterNode.inputVolume is not volume:
            # Points of two CTs have the same IDs.
            self.parameterNode.inputVolume = volume
            NoduleScene.selectVolume(self.parameterNode)
        if step.before is None:
            NoduleScene.removeDiagnosis(self.parameterNode, step.pointId)
            self._show("")
        else:
            NoduleScene.putPointBack(self.parameterNode, step.before)
            NoduleScene.storeDiagnosis(self.parameterNode, step.before)
            self._showSurfacesSoon()
            self._show(step.pointId)
        self._onChanged()

    def requestMaps(
        self, caseId: str, onMaps: Callable[[dict[str, Any], dict[str, np.ndarray]], None]
    ) -> None:
        """Asks for the maps of the shown nodule against a case; the last request wins.

        They are made as the parameter node says at that time.
        """
        if self._mapsQuestion:
            self._mapsQuestion.cancel()
            self._mapsQuestion = None
        asked = self.asked(self.parameterNode.nodule)
        if asked is None:
            return
        volume = self.parameterNode.inputVolume

        def onAnswer(body: bytes) -> None:
            self._mapsQuestion = None
            if not self.stillFits(asked):
                return
            tensors, document = unpack(body)
            pair = {**document["pairs"][0], "n": 0}
            for name in ("patch_ijk_to_ras", "map_variant"):
                pair[name] = document.get(name)
            onMaps(pair, tensors)

        options = mapOptionsOf(self.parameterNode)
        local = self.client.engine.isLocal
        body = requestBody(volume, asked.crop, [caseId], mapOptions=options, tellSeries=local)
        question = self.client.ask("/maps", body, onAnswer, self._onNoMaps)
        # An engine that cannot be reached at all says so at once.
        self._mapsQuestion = None if question.done else question

    def _onNoMaps(self, message: str, reached: bool) -> None:
        self._mapsQuestion = None
        self._onError(message, reached)
        self._onChanged()

    def requestReport(self, pointId: str, forPaper: bool, onHtml: Callable[[bytes], None]) -> None:
        """Asks for the HTML report of a nodule, for the screen or plain enough for Qt to print."""
        node = self.parameterNode
        asked = self.asked(pointId)
        document = NoduleScene.documentOf(node, pointId)
        revision = None
        # What is not judged has no concepts to correct: a box of no use is no reason to refuse.
        if document is None or isJudged(document):
            try:
                corrected = revisionOf(node, pointId)
            except InputError as error:
                self._onError(str(error), True)
                return
            revision = None if isEmpty(corrected) else corrected
        if asked is not None:
            body = requestBody(
                node.inputVolume,
                asked.crop,
                overview=True,
                revision=revision,
                mapOptions=mapOptionsOf(node),
                tellSeries=self.client.engine.isLocal,
            )
            path = "/report?form=print" if forPaper else "/report"
            self.client.ask(path, body, onHtml, self._onError)

    def requestPicture(self, caseId: str, onPng: Callable[[bytes], None]) -> None:
        """Asks for the picture of a case; that there is none is no error."""
        self.client.ask(f"/cases/{caseId}/picture", None, onPng, lambda _message, _reached: None)

    def _next(self) -> None:
        """Sends the next point that can be sent."""
        while self._queue:
            pointId = self._queue.pop(0)
            asked = self.asked(pointId)
            if asked is None:
                self._done += 1
                continue
            self._running = pointId
            local = self.client.engine.isLocal
            self._question = self.client.ask(
                "/diagnose",
                requestBody(self.parameterNode.inputVolume, asked.crop, tellSeries=local),
                lambda body, asked=asked: self._onDiagnosis(asked, body),
                self._onFailure,
            )
            break
        self._onChanged()

    def asked(self, pointId: str) -> Asked | None:
        """The question about a point; None, and a message, where there is nothing to ask."""
        point = NoduleScene.pointWorld(self.parameterNode, pointId)
        if point is None:
            return None
        volume = self.parameterNode.inputVolume
        try:
            crop = cropAround(volume, point)
        except InputError as error:
            self._onError(self._ofPoint(pointId, str(error)), True)
            return None
        return Asked(pointId, volume.GetID(), volume.GetImageData().GetMTime(), crop)

    def _onDiagnosis(self, asked: Asked, body: bytes) -> None:
        self._question, self._running = None, ""
        self._done += 1
        if self.stillFits(asked):
            self._isStoring = True
            try:
                self._store(asked, body)
            except (LookupError, TypeError, ValueError) as error:
                self._onError(unusable(error), True)
            finally:
                self._isStoring = False
        self._next()

    def _store(self, asked: Asked, body: bytes) -> None:
        tensors, document = unpack(body)
        node = self.parameterNode
        remark = sequenceRemark(node.inputVolume)
        if remark:
            document["notices"] = [*document["notices"], remark]
        diagnosed = NoduleScene.diagnosedOf(
            node.inputVolume, asked.pointId, asked.crop, tensors["mask"], document
        )
        before = NoduleScene.readDiagnosed(node, asked.pointId)
        NoduleScene.storeDiagnosis(node, diagnosed)
        self._showSurfacesSoon()
        self._steps.append(Step(asked.volumeId, asked.pointId, before))
        self._show(asked.pointId)

    def _show(self, pointId: str) -> None:
        """Another nodule, or another diagnosis of it: it is compared with no case yet."""
        # One event, so that the panel follows once.
        with slicer.util.NodeModify(self.parameterNode.parameterNode):
            self.parameterNode.nodule, self.parameterNode.caseId = pointId, ""

    def _showSurfacesSoon(self) -> None:
        """After the slices and the tables are drawn: it takes as long as all the rest of these."""
        segmentation = self.parameterNode.segmentation
        qt.QTimer.singleShot(0, lambda: NoduleScene.showSurfaces(segmentation))

    def _onFailure(self, message: str, reached: bool) -> None:
        """The other points go on, unless the engine is lost."""
        pointId, self._running, self._question = self._running, "", None
        self._done += 1
        if not reached:
            self._queue.clear()
        else:
            message = self._ofPoint(pointId, message)
        self._onError(message, reached)
        self._next()

    def _ofPoint(self, pointId: str, message: str) -> str:
        number = NoduleScene.numberOfPoint(self.parameterNode, pointId)
        return _("Nodule {number}: {message}").format(number=number, message=message)

    def stillFits(self, asked: Asked) -> bool:
        """Whether the volume and the point are as they were when it was asked."""
        node = self.parameterNode
        volume = slicer.mrmlScene.GetNodeByID(asked.volumeId)
        if node is None or volume is None or node.inputVolume is not volume:
            return False
        image = volume.GetImageData()
        if image is None or image.GetMTime() != asked.voxelsTime:
            return False
        point = NoduleScene.pointWorld(node, asked.pointId)
        # A transform moves CT and point together.
        if point is None or not np.allclose(pointInVolume(volume, point), asked.crop.pointRas):
            return False
        k, j, i = asked.crop.startKji
        begins = (ijkToRasOf(volume) @ [i, j, k, 1])[:3]
        return np.allclose(begins, asked.crop.ijkToRas[:3, 3])
