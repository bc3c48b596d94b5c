"""An OpenAI-compatible endpoint in this process, whose judge is a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
from openai import OpenAI

KEY = "sk-very-secret"
Asked = dict[str, Any]
"""What the judge is shown: conversation, A and B."""


class Endpoint:
    """Answers chat completions with what `judge` says of what it is shown; keeps every request."""

    def __init__(self, judge: Callable[[Asked], str], status: int = 200) -> None:
        self.judge, self.status = judge, status
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.requests.append(body)
        if self.status != 200:
            error = {"message": f"no, not with {KEY}\x1b[2J", "type": "invalid_request_error"}
            return httpx2.Response(self.status, json={"error": error})
        said = self.judge(json.loads(body["messages"][1]["content"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        made = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return httpx2.Response(200, json=made)

    def client(self) -> OpenAI:
        """A client of the pinned library that reaches this endpoint."""
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return OpenAI(base_url="http://judge/v1", api_key=KEY, max_retries=0, http_client=http)


def says(better: str) -> str:
    """A reply as the judge is asked for."""
    return json.dumps({"better": better})
