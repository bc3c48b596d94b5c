"""Small helpers that talk to the shared engine server over HTTP."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx

from server.engine.record import EngineRecord
from tests.engine_server import EngineServer

FULL_DISTRIBUTION = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}
MESSAGES = [{"role": "user", "content": "Where is my order?"}]


def body(model: str = "support@v0", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "max_tokens": 24, **FULL_DISTRIBUTION, **more}


def chat(server: EngineServer, **request: Any) -> tuple[dict[str, Any], EngineRecord]:
    """One answer that is not streamed, and its record."""
    completion_id = uuid.uuid4().hex
    response = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=body(**request),
        headers={"X-Test-Completion": completion_id, "X-Request-Id": completion_id},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return response.json(), server.record(completion_id)


def stream(server: EngineServer, leave_after: int | None = None, **request: Any) -> tuple[list[dict[str, Any]], str]:
    """Chunks of a streamed answer, and its completion id. Hangs up after `leave_after` chunks, if given."""
    completion_id = uuid.uuid4().hex
    chunks: list[dict[str, Any]] = []
    with httpx.stream(
        "POST",
        f"{server.url}/v1/chat/completions",
        json=body(stream=True, **request),
        headers={"X-Test-Completion": completion_id, "X-Request-Id": completion_id},
        timeout=60,
    ) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
                if leave_after is not None and len(chunks) >= leave_after:
                    break
    return chunks, completion_id


def streamed(chunks: list[dict[str, Any]], index: int) -> tuple[str, list[int], list[float]]:
    """Text, token ids and logprobs of one choice, put together from its chunks."""
    text, token_ids, logprobs = "", [], []
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                text += choice["delta"].get("content") or ""
                token_ids += choice.get("token_ids") or []
                logprobs += [entry["logprob"] for entry in (choice.get("logprobs") or {}).get("content") or []]
    return text, token_ids, logprobs
