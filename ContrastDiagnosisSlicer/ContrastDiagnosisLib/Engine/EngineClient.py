"""Requests to the engine that never block the panel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import qt
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE
from slicer.i18n import tr as _

ANSWER_LIMIT_MS = 150_000
"""The server itself gives up after 120 s."""

OnAnswer = Callable[[bytes], None]
OnError = Callable[[str, bool], None]
"""A message for the user, and whether the engine itself said so: then it can be asked again."""


class Question:
    """A request on its way; after `cancel` nothing more is heard of it."""

    def __init__(self, path: str, body: bytes | None, onAnswer: OnAnswer, onError: OnError) -> None:
        self.path = path
        self.body = body
        self.onAnswer = onAnswer
        self.onError = onError
        self.repeated = False
        self.done = False
        self.reply: Any = None
        self.url = ""

    def cancel(self) -> None:
        """The server notices that nobody waits and drops what has not begun."""
        self.done = True
        if self.reply is not None:
            self.reply.abort()


class EngineClient:
    """Asks an engine; a local one that was lost is started again once, and the request repeated."""

    def __init__(self, engine: Any, answerLimitMs: int = ANSWER_LIMIT_MS) -> None:
        self.engine = engine
        self._manager = qt.QNetworkAccessManager()
        # A proxy of the system is for servers elsewhere: no voxel may go through it to this one.
        self._direct = qt.QNetworkAccessManager()
        self._direct.setProxy(qt.QNetworkProxy(qt.QNetworkProxy.NoProxy))
        self._limitMs = answerLimitMs
        self._open: list[Question] = []
        self._retired: list[Any] = []

    @property
    def isBusy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._open)

    def ask(self, path: str, body: bytes | None, onAnswer: OnAnswer, onError: OnError) -> Question:
        """Sends a request when the engine is ready.

        Args:
            path: Such as "/diagnose".
            body: For POST; None for GET.
            onAnswer: Called with the answer's bytes.
            onError: Called with a message for the user, and whether the engine was reached.
        """
        question = Question(path, body, onAnswer, onError)
        self._open.append(question)
        self._send(question)
        return question

    def cancelAll(self, told: str = "") -> None:
        """Drops everything that is on its way; whoever still waits is told, or nothing is said."""
        questions, self._open = self._open, []
        waiting = [question for question in questions if not question.done]
        for question in questions:
            question.cancel()
        for question in waiting if told else ():
            question.onError(told, True)

    def replaceEngine(self, engine: Any) -> None:
        """Cancels everything and asks another engine from now on; the old one ends by itself."""
        self.engine.retire()
        self._retired.append(self.engine)
        self.engine = engine
        self.cancelAll(_("The set-up changed before the engine answered: ask again."))

    def stop(self) -> None:
        """Cancels everything and ends local engines."""
        self.cancelAll()
        for engine in (self.engine, *self._retired):
            engine.stop()

    def _send(self, question: Question) -> None:
        self.engine.whenReady(
            lambda url, token: self._post(question, url, token),
            lambda message: self._finish(question, question.onError, message, False),
        )

    def _post(self, question: Question, url: str, token: str) -> None:
        if question.done:
            self._forget(question)
            return
        request = qt.QNetworkRequest(qt.QUrl(url + question.path))
        request.setRawHeader(
            qt.QByteArray(b"Authorization"), qt.QByteArray(f"Bearer {token}".encode())
        )
        # A redirection would carry token and voxels to whom nobody agreed.
        policy = qt.QNetworkRequest.ManualRedirectPolicy
        request.setAttribute(qt.QNetworkRequest.RedirectPolicyAttribute, policy)
        manager = self._direct if self.engine.isLocal else self._manager
        if question.body is None:
            reply = manager.get(request)
        else:
            request.setHeader(qt.QNetworkRequest.ContentTypeHeader, CONTENT_TYPE)
            reply = manager.post(request, qt.QByteArray(question.body))
        question.reply, question.url = reply, url
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.connect("timeout()", reply.abort)
        timer.start(self._limitMs)
        reply.finished.connect(lambda: self._onFinished(question, reply, timer))

    def _onFinished(self, question: Question, reply: Any, timer: Any) -> None:
        late = not timer.isActive()
        timer.stop()
        status = reply.attribute(qt.QNetworkRequest.HttpStatusCodeAttribute)
        # After an abort the reply is closed.
        body = b"" if late or question.done else bytes(reply.readAll().data())
        reason = _("no answer in time") if late else reply.errorString()
        question.reply = None
        reply.deleteLater()
        if question.done:
            self._forget(question)
        elif status is None or late:
            self._onLost(question, reason)
        elif int(status) < 300:
            self._finish(question, lambda answer: _hand(question, answer), body)
        else:
            self._finish(question, question.onError, _problemOf(body, int(status)), True)

    def _onLost(self, question: Question, reason: str) -> None:
        told = self.engine.describeFailure(reason)
        if self.engine.isLocal and not question.repeated:
            question.repeated = True
            self.engine.giveUp(question.url)
            self._send(question)
        else:
            self._finish(question, question.onError, told, False)

    def _finish(self, question: Question, callback: Callable[..., None], *told: Any) -> None:
        self._forget(question)
        if not question.done:
            question.done = True
            callback(*told)

    def _forget(self, question: Question) -> None:
        if question in self._open:
            self._open.remove(question)


def unusable(error: Exception) -> str:
    """Says that an answer is damaged, or of a version that the panel does not understand."""
    return _("The engine's answer cannot be used: {e}").format(e=error)


def _hand(question: Question, answer: bytes) -> None:
    """Gives an answer to who asked; one that cannot be read is an error like any other."""
    try:
        question.onAnswer(answer)
    except (LookupError, TypeError, ValueError) as error:
        question.onError(unusable(error), True)


def _problemOf(body: bytes, status: int) -> str:
    """The sentence of a problem document (RFC 9457)."""
    try:
        return str(json.loads(body)["detail"])
    except (KeyError, TypeError, ValueError):
        return _("The server answered with status {status}.").format(status=status)
