"""Exports as Open WebUI and Langfuse write them, in small: made-up chats, the shapes of the real ones."""

from __future__ import annotations

from typing import Any


def open_webui_row(rating: int | str | None = 1, **changes: Any) -> dict[str, Any]:
    """One row of Open WebUI's feedback export: a chat with two branches, of which the second was rated."""
    message = {"role": "user", "content": "hello", "parentId": None, "childrenIds": ["a1", "a2"]}
    answers = {
        name: {"id": name, "role": "assistant", "content": text, "parentId": "q", "childrenIds": [], "model": "m"}
        for name, text in (("a1", "go away"), ("a2", "hello yourself"))
    }
    row: dict[str, Any] = {
        "id": "f1",
        "user_id": "u-17",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m", "reason": "", "comment": "", "sibling_model_ids": ["m"]},
        "meta": {"arena": False, "chat_id": "c-1", "message_id": "a2", "message_index": 2, "base_models": {"m": None}},
        "snapshot": {
            "chat": {
                "id": "c-1",
                "user_id": "u-17",
                "title": "hello",
                "chat": {"params": {}, "history": {"messages": {"q": message, **answers}, "currentId": "a2"}},
            }
        },
        "created_at": 1_750_000_000,
        "updated_at": 1_750_000_100,
    }
    return row | changes


def langfuse_trace(name: str = "t1", **changes: Any) -> dict[str, Any]:
    """One row of the batch export of Langfuse's table of traces."""
    row: dict[str, Any] = {
        "id": name,
        "timestamp": "2026-05-29T13:46:19.963Z",
        "name": "chat",
        "userId": "u-17",
        "sessionId": "s-1",
        "release": None,
        "environment": "default",
        "tags": ["web"],
        "input": '{"messages": [{"role": "user", "content": "hello"}]}',
        "output": '{"role": "assistant", "content": "hello yourself"}',
        "metadata": {},
        "comments": [],
    }
    return row | changes


def langfuse_score(trace: str = "t1", value: float | None = 1, **changes: Any) -> dict[str, Any]:
    """One row of the batch export of Langfuse's table of scores."""
    row: dict[str, Any] = {
        "id": f"score-{trace}-{value}",
        "traceId": trace,
        "observationId": None,
        "timestamp": "2026-05-29T13:47:00.000Z",
        "source": "API",
        "name": "user-feedback",
        "dataType": "BOOLEAN",
        "value": value,
        "stringValue": "True" if value else "False",
        "comment": None,
    }
    return row | changes
