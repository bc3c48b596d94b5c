"""GET /v1/feedback/{id}: what became of a word, for whoever may know.

An API key of the word's tenant may ask (scope feedback, read or admin), and so may the bearer of the handle that the
word was said with: in a header, since addresses end up in logs. To everyone else the word does not exist. The answer
names no person and no candidate of a comparison. Log and registry are read in threads, few at a time; a bare handle
is answered from the newest words only, so that no browser makes the server search a log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from exchange.reading.accepted import AcceptedWord, AcceptedWords
from exchange.reading.fates import Fates
from schemas.base import Id, now_ms
from schemas.errors import NotFound, Unavailable
from schemas.fates import Fate
from schemas.handles import HandleClaims, Keyring, verify_handle
from server.auth import ApiKey, KeyFile, Scope
from server.errors import Unauthorized
from server.openapi import described

HANDLE_HEADER = "attune-handle"
AT_ONCE = 2
WAITING = 32
"""Askers beyond those that are answered right now; more are turned away."""
_MAX_HANDLE = 8_192
_SCOPES = (Scope.FEEDBACK, Scope.READ, Scope.ADMIN)
_ID: TypeAdapter[str] = TypeAdapter(Id)


@dataclass
class FateDesk:
    """Answers askers. For one event loop."""

    keys: KeyFile
    keyring: Keyring
    words: AcceptedWords
    fates: Fates
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)
    _asking: int = field(default=0, init=False)

    async def ask(self, feedback_id: str, headers: Mapping[str, str]) -> Response:
        """The fate of a word.

        Raises:
            Unauthorized, Forbidden, HandleRefused: the asker may not ask at all.
            NotFound: there is no such word, or none that this asker may know of.
            Unavailable: log or registry cannot be read now, or too many ask.
        """
        asker = self._asker(headers)
        try:
            _ID.validate_python(feedback_id)
        except ValidationError as error:
            raise _unknown() from error
        if self._asking >= AT_ONCE + WAITING:
            raise Unavailable("too many ask for the fate of feedback", remedy="Try again in a moment.")
        self._asking += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._answer, feedback_id, asker)
        finally:
            self._asking -= 1

    def _asker(self, headers: Mapping[str, str]) -> ApiKey | HandleClaims:
        authorization, handle = headers.get("authorization"), headers.get(HANDLE_HEADER)
        if authorization is not None:
            return self.keys.authorize(authorization, *_SCOPES)
        if not handle:
            raise Unauthorized("neither an API key nor, as `attune-handle`, the handle of the feedback was sent")
        return verify_handle(handle[:_MAX_HANDLE], self.keyring, now=now_ms())

    def _answer(self, feedback_id: str, asker: ApiKey | HandleClaims) -> Response:
        word = self.words.find(feedback_id, search=isinstance(asker, ApiKey))
        if not _may_know(asker, word):
            raise _unknown()
        body = self.fates.of(word).model_dump(mode="json")
        return JSONResponse(body, headers={"cache-control": "no-store"})


def _may_know(asker: ApiKey | HandleClaims, word: AcceptedWord) -> bool:
    event = word.event
    if isinstance(asker, ApiKey):
        return asker.tenant == event.tenant and asker.may_use(event.policy)
    said = (event.tenant, event.policy, event.conversation, event.end_user, event.target)
    return said == (asker.tenant, asker.policy, asker.conversation, asker.end_user, asker.target)


def _unknown() -> NotFound:
    # The very words of a word that is not there: nobody learns that it is another's.
    return NotFound("there is no such feedback")


def fates_router(desk: FateDesk) -> APIRouter:
    """The route GET /v1/feedback/{feedback_id}."""
    router = APIRouter(tags=["feedback"])

    about = described(
        "What became of a word of feedback", {200: Fate}, scopes=_SCOPES, or_handle=True, refuses=(400, 404, 503)
    )

    @router.get("/v1/feedback/{feedback_id}", **about)
    async def fate(feedback_id: str, request: Request) -> Response:
        return await desk.ask(feedback_id, request.headers)

    return router
