"""The layer in front of the engine's OpenAI app: who asks, which version answers, what is recorded, what is added.

Knows keys, routes and the four protocols. Knows nothing of how answers are made: the engine's own app does all
protocol work, and streams pass through as they come.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from schemas.errors import AttuneError
from server import auth
from server.asgi import ClientGone, Replay, inner_scope, read_body
from server.errors import error_response
from server.request.answer import AnswerSender
from server.request.chat_request import PROTOCOLS, parse_generation, parse_json
from server.request.context import current_request
from server.request.decorate import Rename
from server.request.prepare import Prepared, caller_of, prepare
from server.request.request_path import RequestPath
from server.request.routing import Route, route, split_model

CHAT_PATH = "/v1/chat/completions"
TOKEN_PATHS = ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
"""Paths that need a model but generate nothing."""


async def ask_engine(
    deps: RequestPath, prepared: Prepared, scope: Scope, path: str, receive: Receive, send: Send
) -> None:
    """One call into the engine's app, held in flight on its version and recorded under its context."""
    inner = inner_scope(scope, path=path, body=prepared.body, headers={"x-request-id": prepared.request_id})
    token = current_request.set(prepared.context)
    try:
        with deps.engine.hold(prepared.route.name):
            await deps.engine.app(inner, receive, send)
    finally:
        current_request.reset(token)


class Gateway:
    """The ASGI endpoint of all paths that generate or count tokens."""

    def __init__(self, deps: RequestPath) -> None:
        self._deps = deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            if path in TOKEN_PATHS:
                await self._count(scope, path, receive, send)
            else:
                await self._generate(scope, path, receive, send)
        except AttuneError as error:  # raised before the engine was asked, so nothing has been sent yet
            self._deps.metrics.request("-", "-", "refused")
            more = {"type": "error"} if path.startswith("/v1/messages") else None  # as that API's clients expect
            await error_response(error, more)(scope, receive, send)
        except ClientGone:
            self._deps.metrics.request("-", "-", "aborted")

    async def _generate(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        deps, headers = self._deps, Headers(scope=scope)
        key = deps.auth.authorize(headers.get("authorization"), auth.Scope.CHAT)
        body = parse_json(await read_body(scope, receive, deps.max_body_bytes))
        request = parse_generation(PROTOCOLS[path], body, headers)
        caller = caller_of(deps, request, key)
        policy, pinned = split_model(request.model)
        chosen = route(deps.table(key, policy), pinned, subject=caller.subject, split_salt=deps.secrets.split_salt)
        prepared = prepare(deps, request, caller, chosen)
        replay = Replay(prepared.body, receive)
        answer = AnswerSender(send, prepared, request.protocol, self._rename(chosen), lambda: replay.client_gone)
        finished = False
        try:
            await ask_engine(deps, prepared, scope, path, replay, answer)
            finished = True
        finally:
            # Not in flight any more, however it ended; an exception goes on to the server, which logs it.
            arm = prepared.context.arm if prepared.context else chosen.arm
            gone = replay.client_gone and not answer.complete
            outcome = "aborted" if gone else (answer.outcome if finished else "error")
            deps.metrics.request(chosen.policy, arm, outcome)

    async def _count(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        deps = self._deps
        key = deps.auth.authorize(Headers(scope=scope).get("authorization"), auth.Scope.CHAT)
        body = parse_json(await read_body(scope, receive, deps.max_body_bytes))
        policy, pinned = split_model(str(body.get("model", "")))
        chosen = route(deps.table(key, policy), pinned, subject=key.id, split_salt=deps.secrets.split_salt)
        sent = json.dumps({**body, "model": chosen.name}).encode()
        inner = inner_scope(scope, path=path, body=sent, headers={})
        with deps.engine.hold(chosen.name):
            await deps.engine.app(inner, Replay(sent, receive), send)

    def _rename(self, chosen: Route) -> Rename | None:
        """The engine calls its base by one name, whatever policy was asked for."""
        base = self._deps.engine.base_names[0]
        return Rename(base, chosen.name) if chosen.version == 0 and chosen.name != base else None
