"""The description of the API names every route, and the bodies that routes take and give are of the shapes it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from exchange.log.memory import MemoryLog
from exchange.registry.memory import MemoryRegistry
from schemas.answers import ComparisonAnswer, ErrorBody, StoredCompletion, StoredCompletions
from schemas.fates import Fate
from schemas.operating import (
    ErasureDone,
    ErasureList,
    ErasureStatus,
    PolicyChanged,
    PolicyHistory,
    PolicyList,
    PolicyView,
    VersionCard,
    VersionOrigin,
)
from server.openapi import described, document
from tests.unit.server.control.whole import Whole, open_server
from tests.unit.server.control.world import Operator, publish

ADMIN = "/v1/admin"
CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "store": True}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Whole]:
    log, registry = MemoryLog(), MemoryRegistry()
    operator = Operator(log)
    for number in (1, 2):
        operator.candidate(number, publish(registry, tmp_path, number).digest)
    async with open_server(tmp_path, log=log, registry=registry) as opened:
        yield opened


async def test_every_route_is_described_and_nothing_else(server: Whole) -> None:
    written = (await server.http.get("/openapi.json")).json()["paths"]
    served = {
        (route.path, method.lower())
        for route in server.application.app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert {(path, method) for path, methods in written.items() for method in methods} == served - {
        ("/openapi.json", "get")
    }


async def test_every_reference_leads_somewhere_and_every_operation_says_how_it_fails(server: Whole) -> None:
    written = (await server.http.get("/openapi.json")).json()

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    known = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in written["components"][kind]}
    assert references(written) <= known
    assert references(written) == known, "nothing is described that nobody uses"
    for methods in written["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            if "requestBody" in operation:
                assert {"400", "413", "415"} <= set(operation["responses"])
            if operation.get("security"):
                assert {"401", "403"} <= set(operation["responses"])


def test_two_models_of_one_name_are_an_error() -> None:
    from fastapi import APIRouter

    one: Any = type("Same", (BaseModel,), {"__annotations__": {"a": int}})
    other: Any = type("Same", (BaseModel,), {"__annotations__": {"b": int}})
    router = APIRouter()
    for path, body in (("/a", one), ("/b", other)):
        router.post(path, **described("x", {200: dict[str, str]}, body=body))(lambda: None)
    with pytest.raises(ValueError, match="two models are called Same"):
        document(router.routes)


async def test_bodies_have_the_shapes_that_are_written(server: Whole) -> None:
    async def check(shape: Any, method: str, path: str, body: Any = None) -> Any:
        answer = await server.http.request(method, path, json=body)
        assert answer.status_code == (400 if shape is ErrorBody else 200), answer.text
        TypeAdapter(shape).validate_json(answer.content, strict=True)
        return answer.json()

    chat = await check(dict[str, Any], "POST", "/v1/chat/completions", CHAT)
    assert server.written()
    handle = chat["attune"]["handles"][0]
    said = await check(dict[str, str], "POST", "/v1/feedback", {"handle": handle, "kind": "thumbs", "value": "up"})
    await check(Fate, "GET", f"/v1/feedback/{said['id']}")
    await check(ComparisonAnswer, "POST", "/v1/comparisons", CHAT)
    stored = await check(StoredCompletions, "GET", "/v1/chat/completions?limit=1")
    await check(StoredCompletion, "GET", f"/v1/chat/completions/{stored['data'][0]['id']}")
    await check(ErrorBody, "GET", "/v1/chat/completions?after=cmpl_none")
    await check(PolicyChanged, "POST", f"{ADMIN}/policies/support/promote", {"version": "support@v1"})
    await check(PolicyList, "GET", f"{ADMIN}/policies")
    await check(PolicyView, "GET", f"{ADMIN}/policies/support")
    history = await check(PolicyHistory, "GET", f"{ADMIN}/policies/support/history")
    assert history["entries"]
    await check(VersionOrigin, "GET", f"{ADMIN}/policies/support/versions/v1")
    await check(VersionCard, "GET", f"{ADMIN}/policies/support/versions/v1/card")
    erased = await check(ErasureDone, "POST", f"{ADMIN}/erasures", {"user": "ann", "rebuild": True})
    await check(ErasureStatus, "GET", f"{ADMIN}/erasures/{erased['id']}")
    await check(ErasureList, "GET", f"{ADMIN}/erasures")
