"""Small parts of ASGI: reading a bounded body, and calling an app within this process.

Knows messages and scopes; knows nothing of chats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import TooLarge, WrongMedia, error_response

BODY_S = 60.0
"""How long the body of a request may take to come, from its headers on."""
_PASSED_ON = ("host", "accept", "user-agent", "traceparent", "tracestate")
_SCOPE = ("type", "asgi", "http_version", "scheme", "client", "server", "root_path", "state")


class ClientGone(Exception):
    """The client left before its request had come."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body, which must say that it is JSON.

    Raises:
        WrongMedia: it says that it is something else, or that it is compressed.
        TooLarge: it has more than `limit` bytes.
        ClientGone: the client left before the end.
    """
    headers = Headers(scope=scope)
    check_media(headers)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:18]) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def check_media(headers: Headers) -> None:
    """Whether a body is said to be plain JSON, or nothing is said. Nothing is ever unpacked, so nothing can swell.

    Raises:
        WrongMedia: it says that it is something else, or that it is compressed.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise WrongMedia(
            "compressed bodies are not taken", field="content-encoding", remedy="Send the body as it is, without it."
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json") and not (kind.startswith("application/") and kind.endswith("+json")):
        raise WrongMedia(
            "the body must be JSON", field="content-type", remedy="Send the header `Content-Type: application/json`."
        )


class BoundedBodies:
    """Middleware that holds for every route, whoever reads its body: it has at most `limit` bytes, and comes within
    `BODY_S` seconds. What it refuses is 413 and 408.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:18]) > self._limit:
            await error_response(_too_large(self._limit))(scope, receive, send)
            return
        deadline, size, whole = asyncio.get_running_loop().time() + BODY_S, 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body did not come within {BODY_S:.0f} seconds") from error
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > self._limit:  # not our own error: where FastAPI reads the body, it would make a 400 of it
                raise HTTPException(413) from _too_large(self._limit)
            return message

        await self._app(scope, bounded, send)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", field="body")


def inner_scope(scope: Scope, *, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The scope of a POST of `body` to another app: what the outer request's server said, none of its routing, and
    only those of its headers that cannot steer anything.
    """
    outer = Headers(scope=scope)
    kept = {name: outer[name] for name in _PASSED_ON if name in outer}
    sent = {**kept, "content-type": "application/json", "content-length": str(len(body)), **headers}
    return {
        **{name: scope[name] for name in _SCOPE if name in scope},
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
    }


class Replay:
    """A `receive` that gives `body` first and then what the client goes on to say, which is that it left."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self.client_gone = False

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        self.client_gone = self.client_gone or message["type"] == "http.disconnect"
        return message


@dataclass
class Captured:
    """A `send` that keeps the whole response."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


async def never() -> Message:
    """A `receive` of a client that neither says anything more nor leaves."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets the event")


async def until_gone(receive: Receive) -> None:
    """Return when the client leaves. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
