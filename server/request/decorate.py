"""Adds the top-level `attune` object to answers: JSON bodies, and the first and last chunk of streams.

Knows the shape of OpenAI's answers and of server-sent events. A stream passes through as it comes: only an event that
may turn out to be the last one is held, until the next one shows whether it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

_END = b"\n\n"
_DATA = b"data: {"
_DONE = b"data: [DONE]"
_MAY_BE_LAST = re.compile(rb'"finish_reason":\s*"|"choices":\s*\[\]|^data: \{"error"')
"""A chunk with a reason to end, the usage chunk, an error. Inside of strings the quotes would be escaped."""


@dataclass(frozen=True)
class Rename:
    """The engine's name for a model, and the one to show."""

    engine: str
    public: str

    def apply(self, event: bytes) -> bytes:
        """Rename in an event as the engine writes it: compact JSON, in which no string can hold a bare quote."""
        return event.replace(f'"model":"{self.engine}"'.encode(), f'"model":"{self.public}"'.encode())


def decorated_json(body: bytes, attune: Mapping[str, object], model: str) -> bytes:
    """A JSON body with `attune` and the model's public name; a body that is no object stays as it is."""
    try:
        content = json.loads(body)
    except ValueError:
        return body
    if not isinstance(content, dict):
        return body
    return json.dumps({**content, "model": model, "attune": attune}, ensure_ascii=False).encode()


class StreamDecorator:
    """One stream of server-sent events. With `attune` None, the events only get the model's public name."""

    def __init__(self, attune: Mapping[str, object] | None, rename: Rename | None = None) -> None:
        self._attune = attune
        self._rename = rename
        self._partial = b""
        self._held: bytes | None = None
        self._first = True

    def feed(self, data: bytes) -> bytes:
        """What can be sent on now that `data` has come."""
        if self._attune is None and self._rename is None:
            return data
        *events, self._partial = (self._partial + data).split(_END)
        return b"".join(self._event(event) + _END if event else _END for event in self._released(events))

    def close(self) -> bytes:
        """What is left when the stream ends without a [DONE]."""
        held, self._held = self._held, None
        partial, self._partial = self._partial, b""
        return (b"" if held is None else self._event(self._with_attune(held)) + _END) + partial

    def _released(self, events: list[bytes]) -> list[bytes]:
        released: list[bytes] = []
        for event in events:
            if self._attune is None or not event.startswith((_DATA, _DONE)):
                released.append(event)
                continue
            if self._held is not None:
                held, self._held = self._held, None
                released.append(self._with_attune(held) if event == _DONE else held)
            if _MAY_BE_LAST.search(event):
                self._held = self._maybe_first(event)
            else:
                released.append(self._maybe_first(event))
        return released

    def _maybe_first(self, event: bytes) -> bytes:
        if self._first and event.startswith(_DATA):
            self._first = False
            return self._with_attune(event)
        return event

    def _event(self, event: bytes) -> bytes:
        return event if self._rename is None else self._rename.apply(event)

    def _with_attune(self, event: bytes) -> bytes:
        try:
            content = json.loads(event.removeprefix(b"data: "))
        except ValueError:
            return event
        content["attune"] = self._attune
        return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
