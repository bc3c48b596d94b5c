"""Comparisons: which versions, in which order, and that nothing tells them apart."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from schemas.completion import Arm, Shown
from schemas.errors import InvalidInput, NotFound
from schemas.events import AnswerDisplayed
from schemas.feedback import ComparisonTarget
from schemas.handles import verify_handle
from server.request.comparisons import choose_candidates, comparisons_router
from server.request.routing import RoutingTable
from tests.unit.server.request.conftest import DIGEST, World, open_world

CANARY = RoutingTable("support", 1, 2, 0.5, {0: None, 1: DIGEST, 2: "e" * 64})
PLAIN = RoutingTable("support", 1, loaded={0: None, 1: DIGEST, 2: "e" * 64})


def numbers(
    table: RoutingTable, pinned: int | None = None, versions: list[str] | None = None, k: int | None = None
) -> list[int]:
    chosen = choose_candidates(table, pinned, versions, k, subject="u", split_salt="s")
    return [one.version for one in chosen]


def test_which_versions_make_the_candidates() -> None:
    assert numbers(CANARY) == [1, 2]
    assert numbers(CANARY, k=3) == [1, 2, 1]
    assert numbers(PLAIN) == [1, 1]
    assert numbers(PLAIN, k=4) == [1, 1, 1, 1]
    assert numbers(CANARY, pinned=2) == [2, 2]
    assert numbers(PLAIN, versions=["support@v2", "support@v0"]) == [2, 0]
    arms = [one.arm for one in choose_candidates(CANARY, None, None, None, subject="u", split_salt="s")]
    assert arms == [Arm.STABLE, Arm.CANARY]
    with pytest.raises(InvalidInput, match="k is 3 and versions names 2"):
        numbers(PLAIN, versions=["support@v2", "support@v0"], k=3)
    with pytest.raises(InvalidInput, match="versions of support"):
        numbers(PLAIN, versions=["sales@v0", "support@v0"])
    with pytest.raises(NotFound):
        numbers(PLAIN, versions=["support@v8", "support@v0"])


async def test_candidates_are_blinded_recorded_and_bound_to_one_handle(world: World) -> None:
    world.routing["support"] = CANARY
    response = await world.chat(path="/v1/comparisons", user="ann", session_id="s")
    body = response.json()
    assert response.status_code == 200
    assert set(body) == {"id", "object", "handle", "expires_at", "candidates"}
    assert [set(candidate) for candidate in body["candidates"]] == [{"index", "content"}] * 2
    assert [candidate["index"] for candidate in body["candidates"]] == [0, 1]

    claims = verify_handle(body["handle"], world.secrets.keyring, now=body["expires_at"] - 1)
    target = claims.target
    assert isinstance(target, ComparisonTarget)
    assert target.comparison_id == body["id"]
    completions = {event.completion_id: event for event in world.completions()}
    assert len(completions) == 2
    for candidate, ref in zip(body["candidates"], target.candidates, strict=True):
        event = completions[ref.completion_id]
        assert world.content(event).choices[0].text == candidate["content"]
        assert (event.version, event.shown, event.comparison_id) == (ref.version, Shown.COMPARISON, body["id"])
        assert event.conversation == claims.conversation
    assert {event.arm for event in completions.values()} == {Arm.STABLE, Arm.CANARY}
    (shown,) = [event for event in world.feedback() if isinstance(event, AnswerDisplayed)]
    assert (shown.surface, shown.comparison_id, shown.candidates) == ("comparison", body["id"], target.candidates)
    assert world.engine.in_flight("support@v1") == world.engine.in_flight("support@v2") == 0


async def test_nothing_in_a_response_tells_a_version(world: World) -> None:
    world.routing["support"] = CANARY
    ids: set[str] = set()
    for asked in ({}, {"versions": ["support@v0", "support@v2"]}, {"k": 5}, {"model": "support@v2", "k": 2}):
        response = await world.chat(path="/v1/comparisons", **asked)
        said = response.text + json.dumps(dict(response.headers))
        assert not re.search(r"@v|attune-|version|stable|canary|cmpl", said), said
        ids |= {event.completion_id.removeprefix("cmpl_") for event in world.completions()}
        assert not any(one in said for one in ids)


async def test_the_order_is_drawn_anew(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.routing["support"] = CANARY
        app = FastAPI()
        app.include_router(comparisons_router(world.path, random.Random(0)))
        firsts = []
        async with AsyncClient(transport=ASGITransport(app), base_url="http://server") as client:
            for _ in range(60):
                response = await client.post(
                    "/v1/comparisons",
                    json={"model": "support", "messages": [{"role": "user", "content": "x"}]},
                    headers={"authorization": f"Bearer {world.keys['acme']}"},
                )
                target = verify_handle(response.json()["handle"], world.secrets.keyring, now=0).target
                assert isinstance(target, ComparisonTarget)
                firsts.append(target.candidates[0].version)
        assert 15 < firsts.count(1) < 45


async def test_seeds_differ_between_candidates(world: World) -> None:
    response = await world.chat(path="/v1/comparisons", seed=7, k=3)
    assert len({candidate["content"] for candidate in response.json()["candidates"]}) == 3
    assert sorted(event.sampling.seed or 0 for event in world.completions()) == [7, 8, 9]


async def test_without_consent_nothing_is_recorded(world: World) -> None:
    body = (await world.chat(path="/v1/comparisons", key="private")).json()
    assert (body["handle"], len(body["candidates"])) == (None, 2)
    assert world.completions() == []
    assert world.feedback() == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"k": 1}, "k"),
        ({"k": 9}, "k"),
        ({"k": "two"}, "k"),
        ({"versions": "support@v1"}, "versions"),
        ({"versions": ["support@v1"]}, "versions"),
        ({"versions": ["support", "support"]}, "versions"),
        ({"versions": ["sales@v0", "support@v0"]}, "versions"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"temperature": 0}, "temperature"),
        ({"messages": []}, "messages"),
        ({"model": "nobody"}, "model"),
    ],
)
async def test_nonsense_is_refused_naming_the_field(world: World, body: dict[str, Any], field: str) -> None:
    response = await world.chat(path="/v1/comparisons", **body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == field, response.text


async def test_rights(world: World) -> None:
    for key, status in ((None, 401), ("reader", 403), ("sales", 404)):
        assert (await world.chat(path="/v1/comparisons", key=key)).status_code == status


async def test_the_engines_refusal_does_not_name_the_version(world: World) -> None:
    await world.engine.unload_adapter("support@v1")
    response = await world.chat(path="/v1/comparisons")
    assert response.status_code == 400
    assert "support" in response.text
    assert "@v" not in response.text


async def test_a_client_that_leaves_takes_its_candidates_with_it(tmp_path: Path) -> None:
    async with open_world(tmp_path, seconds_per_step=0.2) as world:
        asked = {"model": "support", "messages": [{"role": "user", "content": "x"}]}
        inbox: list[dict[str, Any]] = [{"type": "http.request", "body": json.dumps(asked).encode()}]
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            return None

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/comparisons",
            "headers": [(b"authorization", f"Bearer {world.keys['acme']}".encode())],
            "query_string": b"",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
        }
        task = asyncio.create_task(world.app(scope, receive, send))
        while world.engine.in_flight("support@v1") < 4:  # two candidates, each held by the server and the engine
            await asyncio.sleep(0.01)
        left.set()
        await asyncio.wait_for(task, 5)
        assert world.engine.in_flight("support@v1") == 0
        events = world.completions()
        assert [event.choices[0].finish_reason for event in events] == ["abort", "abort"]
        assert not any(choice.seen for event in events for choice in event.choices)


async def test_what_is_collected_was_shown_to_nobody(world: World) -> None:
    for domain in ("collected", "orders"):
        assert (await world.chat(path="/v1/comparisons", metadata={"domain": domain})).status_code == 200
    shown = [event for event in world.feedback() if isinstance(event, AnswerDisplayed)]
    (orders,) = ({event.completion_id for event in world.completions() if event.domain == "orders"},)
    assert {ref.completion_id for event in shown for ref in event.candidates} == orders
