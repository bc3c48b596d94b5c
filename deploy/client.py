"""A small client of a running Attune server, for the command line.

Knows the HTTP surface and turns its errors into `AttuneError`; knows nothing of terminals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from schemas.errors import AttuneError, InvalidInput, Unavailable

_LATER = frozenset({429, 502, 503, 504})
_FAULTY = frozenset({400, 413, 422})


class AttuneClient:
    """Blocking calls to one server. `api_key` is sent as a bearer token and appears in no message."""

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_keepalive_connections=0),  # nobody closes a client, so nothing is left open in one
        )

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON answer to one request.

        Raises:
            Unavailable: the server cannot be reached, or not now.
            InvalidInput: it does not take the body.
            AttuneError: it answered with another error; the message is the server's own.
        """
        with self._translated():
            response = self._http.request(method, path, json=body, headers=headers)
        _raise_for_error(response)
        answer: dict[str, Any] = response.json()
        return answer

    def text(self, path: str) -> str:
        """The body of one GET as it is. Raises as `request`."""
        with self._translated():
            response = self._http.get(path)
        _raise_for_error(response)
        return response.text

    def policies(self) -> list[dict[str, Any]]:
        """The state of every policy."""
        found: list[dict[str, Any]] = self.request("GET", "/v1/admin/policies")["policies"]
        return found

    def policy(self, name: str) -> dict[str, Any]:
        """The state of one policy."""
        return self.request("GET", f"/v1/admin/policies/{name}")

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every journal entry of one policy, with what became of it."""
        entries: list[dict[str, Any]] = self.request("GET", f"/v1/admin/policies/{name}/history")["entries"]
        return entries

    def promote(self, name: str, version: str, reason: str) -> dict[str, Any]:
        """Make a version stable."""
        return self.request("POST", f"/v1/admin/policies/{name}/promote", {"version": version, "reason": reason})

    def rollback(self, name: str, *, version: str | None, to: str | None, reason: str) -> dict[str, Any]:
        """Take a version back: the stable one unless `version` names another."""
        body = {"version": version, "to": to, "reason": reason}
        return self.request("POST", f"/v1/admin/policies/{name}/rollback", {k: v for k, v in body.items() if v})

    def explain(self, name: str, version: str) -> dict[str, Any]:
        """Where a version (`v3`) came from."""
        return self.request("GET", f"/v1/admin/policies/{name}/versions/{version}")

    def card(self, name: str, version: str) -> dict[str, Any]:
        """What the model card of a version (`v3`) is written from."""
        return self.request("GET", f"/v1/admin/policies/{name}/versions/{version}/card")

    def raters(self, policy: str) -> list[dict[str, Any]]:
        """Everybody of the key's tenant who is or was quarantined."""
        found: list[dict[str, Any]] = self.request("GET", f"/v1/admin/policies/{policy}/raters")["raters"]
        return found

    def judge_rater(self, policy: str, **body: str) -> dict[str, Any]:
        """Quarantine or release a rater; returns where they stand once it is durable."""
        return self.request("POST", f"/v1/admin/policies/{policy}/raters", body)

    def fate(self, feedback_id: str) -> dict[str, Any]:
        """What became of a word of feedback."""
        return self.request("GET", f"/v1/feedback/{quote(feedback_id, safe='')}")

    def feedback(self, **body: Any) -> dict[str, Any]:
        """Send one piece of feedback; returns once it is durable."""
        return self.request("POST", "/v1/feedback", body)

    def compare(self, **body: Any) -> dict[str, Any]:
        """Ask for blinded candidates."""
        return self.request("POST", "/v1/comparisons", body)

    def stream_chat(self, **body: Any) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed chat completion, as parsed JSON."""
        with (
            self._translated(),
            self._http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response,
        ):
            if response.is_error:
                response.read()
                _raise_for_error(response)
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line[len("data: ") :])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(
                f"no answer from {self._http.base_url}: {error}",
                remedy="Is the server running? Name it with --url or ATTUNE_URL.",
            ) from error


def _raise_for_error(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500] or response.reason_phrase
    status = response.status_code
    remedy = "Name a key that has the right with --api-key or ATTUNE_API_KEY." if status == 401 else None
    kind = Unavailable if status in _LATER else InvalidInput if status in _FAULTY else AttuneError
    raise kind(f"{status}: {message}", remedy=remedy)
