"""The in-memory engine keeps the port's promises: equal requests, equal answers, and one record for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.engine.errors import AdapterError
from server.engine.memory import InMemoryEngine
from server.engine.port import Engine
from server.engine.record import EngineRecord
from server.request.context import current_request
from tests.engine_server import request_context

MESSAGES = [{"role": "user", "content": "Where is my order?"}]


@pytest.fixture
def records() -> list[EngineRecord]:
    return []


@pytest.fixture
def engine(records: list[EngineRecord]) -> InMemoryEngine:
    engine = InMemoryEngine()
    as_port: Engine = engine
    as_port.set_sink(records.append)
    return engine


@pytest.fixture
async def client(engine: InMemoryEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=engine.app), base_url="http://engine") as client:
        yield client


async def chat(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    current_request.set(request_context("c1"))
    body = {"model": "support@v0", "messages": MESSAGES, **more}
    return await client.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "c1"})


async def test_answer_and_record_agree(client: httpx.AsyncClient, records: list[EngineRecord]) -> None:
    answer = (await chat(client, n=2, seed=4, logprobs=True, return_token_ids=True)).json()
    (record,) = records
    assert answer["id"] == "chatcmpl-c1"
    assert record.context.completion_id == "c1"
    assert record.prompt_token_ids == tuple(answer["prompt_token_ids"])
    for choice, shown in zip(record.choices, answer["choices"], strict=True):
        assert choice.text == shown["message"]["content"]
        assert bytes(choice.token_ids[:-1]).decode() == choice.text
        assert choice.token_ids == tuple(shown["token_ids"])
        assert list(choice.logprobs or ()) == [entry["logprob"] for entry in shown["logprobs"]["content"]]
        assert (choice.finish_reason, choice.seen) == ("stop", True)
    assert record.choices[0].text != record.choices[1].text
    assert (await chat(client, n=2, seed=4)).json()["choices"][0]["message"] == answer["choices"][0]["message"]


async def test_stream_says_what_the_whole_answer_says(client: httpx.AsyncClient, records: list[EngineRecord]) -> None:
    whole = (await chat(client, n=2, seed=4)).json()
    events = (await chat(client, n=2, seed=4, stream=True, stream_options={"include_usage": True})).text
    assert events.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    for index in (0, 1):
        text = "".join(
            choice["delta"].get("content", "")
            for chunk in chunks
            for choice in chunk["choices"]
            if choice["index"] == index
        )
        assert text == whole["choices"][index]["message"]["content"] == records[1].choices[index].text
    assert chunks[-1]["usage"] == whole["usage"]
    assert records[0].choices == records[1].choices


async def test_stop_and_length_cut(client: httpx.AsyncClient, records: list[EngineRecord]) -> None:
    await chat(client, seed=4)
    full = records[0].choices[0]
    stop = full.text.split()[1]
    await chat(client, seed=4, stop=[stop])
    cut = records[1].choices[0]
    assert cut.text == full.text[: full.text.index(stop)]
    assert bytes(cut.token_ids).decode() == cut.text + stop
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    await chat(client, seed=4, max_tokens=3)
    assert (records[2].choices[0].token_ids, records[2].choices[0].finish_reason) == (full.token_ids[:3], "length")


async def test_client_that_leaves_is_recorded_once(engine: InMemoryEngine, records: list[EngineRecord]) -> None:
    slow = InMemoryEngine(seconds_per_step=0.02)
    slow.set_sink(records.append)
    current_request.set(request_context("gone"))
    body = json.dumps({"model": "support@v0", "messages": MESSAGES, "stream": True}).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    sent: list[bytes] = []
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 4:
            incoming.put_nowait({"type": "http.disconnect"})

    await slow.app(scope, incoming.get, send)
    (record,) = records
    choice = record.choices[0]
    assert (choice.finish_reason, choice.seen) == ("abort", False)
    assert choice.token_ids
    assert choice.text.encode() == bytes(choice.token_ids)
    assert slow.in_flight("support@v0") == 0


async def test_without_context_nothing_is_recorded(client: httpx.AsyncClient, records: list[EngineRecord]) -> None:
    current_request.set(None)
    response = await client.post("/v1/chat/completions", json={"model": "support@v0", "messages": MESSAGES})
    assert response.status_code == 200
    assert records == []


async def test_adapters_follow_the_port(engine: InMemoryEngine, client: httpx.AsyncClient) -> None:
    await engine.load_adapter("support@v1", Path("v1"))
    assert engine.loaded() == ["support@v1"]
    assert await engine.probe("support@v1") != await engine.probe("support@v0")
    assert (await chat(client, model="support@v1")).status_code == 200
    with engine.hold("support@v1"):
        drained = asyncio.create_task(engine.drain("support@v1"))
        await asyncio.sleep(0)
        assert not drained.done()
        with pytest.raises(AdapterError, match="still used by 1"):
            await engine.unload_adapter("support@v1")
    await drained
    await engine.unload_adapter("support@v1")
    assert (await chat(client, model="support@v1")).status_code == 404
    with pytest.raises(AdapterError, match="used before"):
        await engine.load_adapter("support@v1", Path("other"))
    with pytest.raises(AdapterError, match="not loaded"):
        await engine.probe("support@v1")


async def test_bad_requests_are_refused(client: httpx.AsyncClient, records: list[EngineRecord]) -> None:
    assert (await chat(client, use_beam_search=True)).status_code == 400
    assert (await chat(client, messages=[])).status_code == 400
    assert (await chat(client, model="nobody")).status_code == 404
    assert records == []
