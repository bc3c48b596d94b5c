"""The engine's answer on its way out: headers are added, bodies and streams are decorated, and how it ended is noted.

Knows ASGI messages of one response; knows nothing of who asked.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from server.request.decorate import Rename, StreamDecorator, decorated_json
from server.request.prepare import Prepared

_CHUNKED = ("chat.completions", "completions")
"""Protocols whose stream is one kind of chunk. The others have typed events, which only headers go with."""


class AnswerSender:
    """A `send` for one answer. JSON is held until it is whole; streams never are."""

    def __init__(
        self,
        send: Send,
        prepared: Prepared,
        protocol: str,
        rename: Rename | None,
        client_gone: Callable[[], bool],
    ) -> None:
        self._send = send
        self._prepared = prepared
        self._protocol = protocol
        self._rename = rename
        self._client_gone = client_gone
        self._start: Message | None = None
        self._json: bytearray | None = None
        self._stream: StreamDecorator | None = None
        self._status = 0
        self.complete = False

    @property
    def outcome(self) -> str:
        """What became of the request: ok, refused or error."""
        if not self.complete or self._status >= 500:
            return "error"
        return "refused" if self._status >= 400 else "ok"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._body(message.get("body", b""), message.get("more_body", False), message)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self._status = message["status"]
        headers = MutableHeaders(raw=list(message.get("headers", ())))
        kind = headers.get("content-type", "").partition(";")[0]
        answered = self._status < 400
        for name, value in self._prepared.headers(answered=answered).items():
            headers[name] = value
        self._start = {**message, "headers": headers.raw}
        if answered and kind == "application/json":
            self._json = bytearray()
            return  # its length is known only at the end
        if answered and kind == "text/event-stream":
            attune = self._prepared.attune() if self._protocol in _CHUNKED else None
            self._stream = StreamDecorator(attune, self._rename)
            headers["cache-control"] = "no-store"
            self._start["headers"] = headers.raw
        await self._send(self._start)

    async def _body(self, body: bytes, more: bool, message: Message) -> None:
        if self._json is not None:
            self._json += body
            if not more:
                await self._send_json(bytes(self._json))
        elif self._stream is not None:
            out = self._stream.feed(body) + (b"" if more else self._stream.close())
            if out or not more:
                await self._send({"type": "http.response.body", "body": out, "more_body": more})
        else:
            await self._send(message)
        # An engine that learns that the client has left may still send an end, which says nothing.
        self.complete = self.complete or not (more or self._client_gone())

    async def _send_json(self, body: bytes) -> None:
        assert self._start is not None, "a response starts before its body"  # noqa: S101
        body = decorated_json(body, self._prepared.attune(), self._prepared.route.name)
        headers = MutableHeaders(raw=list(self._start["headers"]))
        headers["content-length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
