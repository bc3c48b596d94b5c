"""Stored completions: listed in OpenAI's shape, for whom they belong to, and gone with the person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from exchange.log.memory import MemoryLog, MemoryReader
from exchange.log.port import TopicPartition
from exchange.reading.completions import CompletionIndex
from schemas.errors import NotFound
from schemas.wire import encode_event
from server.auth import Scope
from tests.factories import Maker
from tests.unit.server.request.conftest import World


async def stored(world: World, text: str, **more: Any) -> str:
    """Ask something to be stored; returns the id of the answer."""
    asked = {"messages": [{"role": "user", "content": text}], "store": True, **more}
    return str((await world.chat(**asked)).json()["id"])


async def listed(world: World, query: str = "", key: str = "reader") -> dict[str, Any]:
    world.settle()
    response = await get(world, f"/v1/chat/completions{query}", key)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def get(world: World, path: str, key: str | None = "reader") -> httpx.Response:
    headers = {"authorization": f"Bearer {world.keys.get(key, key)}"} if key else {}
    return await world.client.get(path, headers=headers)


async def test_only_what_was_to_be_stored_is_listed_as_it_was_answered(world: World) -> None:
    await world.chat(messages=[{"role": "user", "content": "forget this"}])
    await world.chat(store=False)
    metadata = {"channel": "web", "session_id": "s", "language": "en"}
    answer = (await world.chat(store=True, user="ann", metadata=metadata)).json()
    page = await listed(world)
    (one,) = page["data"]
    assert (page["object"], page["has_more"]) == ("list", False)
    assert page["first_id"] == page["last_id"] == one["id"] == answer["id"]
    assert one["object"] == "chat.completion"
    assert one["model"] == answer["model"] == "support@v1"
    assert one["choices"][0]["message"]["content"] == answer["choices"][0]["message"]["content"]
    assert one["usage"]["completion_tokens"] == world.completions()[-1].choices[0].token_count
    assert one["metadata"] == {"channel": "web", "language": "en"}, "what names a session is not kept"
    assert (await get(world, f"/v1/chat/completions/{answer['id']}")).json() == one
    assert (await get(world, f"/v1/chat/completions/{answer['attune']['completion_id']}")).json() == one


async def test_pages_go_both_ways_and_join_without_gaps(world: World) -> None:
    ids = [await stored(world, f"question {number}") for number in range(5)]
    world.settle()
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        found: list[str] = []
        query, more = f"?limit=2&order={order}", True
        while more:
            page = await listed(world, query)
            found += [one["id"] for one in page["data"]]
            assert page["first_id"] == page["data"][0]["id"]
            more, query = page["has_more"], f"?limit=2&order={order}&after={page['last_id']}"
        assert found == expected
    assert (await listed(world, f"?after={ids[-1]}")) == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


async def test_filters_are_all_to_be_met(world: World) -> None:
    web = await stored(world, "a", metadata={"channel": "web", "domain": "orders"})
    await stored(world, "b", metadata={"channel": "mail"})
    pinned = await stored(world, "c", model="support@v2", metadata={"channel": "web"})
    for query, expected in (
        ("?metadata[channel]=web", [web, pinned]),
        ("?metadata[channel]=web&metadata[domain]=orders", [web]),
        ("?model=support@v2", [pinned]),
        ("?model=support&metadata[channel]=web", [web, pinned]),
        ("?model=sales", []),
        ("?metadata[channel]=", []),
    ):
        assert [one["id"] for one in (await listed(world, query))["data"]] == expected, query


async def test_nobody_sees_what_is_not_theirs(world: World) -> None:
    mine = await stored(world, "mine")
    theirs = await stored(world, "theirs", key="other")
    await stored(world, "a rival's", model="sales", key="sales")
    (only,) = (await listed(world, "?model=support"))["data"]
    assert only["id"] == mine
    world.keys["narrow"] = world.path.auth.create(
        tenant="acme",
        scopes=(Scope.READ,),
        default_consent=world.path.auth.list()[0].default_consent,
        aliases=("sales",),
    )[1]
    assert [one["model"] for one in (await listed(world, key="narrow"))["data"]] == ["sales@v0"]
    for name in (theirs, "chatcmpl-unknown", "nonsense", "cmpl_" + "x" * 300):
        response = await get(world, f"/v1/chat/completions/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), name
    assert (await get(world, "/v1/chat/completions", None)).status_code == 401
    assert (await get(world, "/v1/chat/completions", "acme")).status_code == 403
    assert (await get(world, f"/v1/chat/completions/{mine}", "acme")).status_code == 403


async def test_an_erased_persons_completions_are_gone_and_pages_stay_full(world: World) -> None:
    await stored(world, "secret", user="ann")
    kept = [await stored(world, f"kept {number}") for number in range(2)]
    world.settle()
    subject = world.completions()[0].subject_of()
    world.store.destroy(subject)
    page = await listed(world, "?limit=2")
    assert [one["id"] for one in page["data"]] == kept
    assert page["has_more"] is False


async def test_comparisons_are_never_listed_as_that_would_unblind_them(world: World) -> None:
    assert (await world.chat(path="/v1/comparisons", k=2, versions=["support@v1", "support@v2"], store=True)).is_success
    assert (await listed(world))["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=many", "limit"),
        ("?order=up", "order"),
        ("?after=chatcmpl-unknown", "after"),
        ("?metdata=x", "metdata"),
        ("?limit=1&limit=2", "limit"),
        ("?model=support@v", "model"),
        ("?" + "&".join(f"metadata[k{number}]=v" for number in range(17)), "metadata"),
    ],
)
async def test_queries_that_are_wrong_are_refused_by_name(world: World, query: str, field: str) -> None:
    await stored(world, "a")
    world.settle()
    response = await get(world, f"/v1/chat/completions{query}")
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == field


async def test_the_index_holds_the_newest_alone(world: World) -> None:
    make = Maker(tenant="acme")
    events = [make.completion(number, store=True) for number in range(30)]
    world.log.append([encode_event(event) for event in events])
    size = len(encode_event(events[0]).value)
    index = CompletionIndex(world.log, limit=1000, stored_bytes=size * 10)
    assert 5 <= len(index.stored("acme")) <= 10
    assert index.stored("other") == []
    assert index.find(events[0].completion_id).end_user == "ann"
    few = CompletionIndex(world.log, limit=6)
    assert len(few.stored("acme")) <= 6
    index.close()
    few.close()


async def test_a_late_reader_passes_over_what_is_no_completion(world: World) -> None:
    record = encode_event(Maker(tenant="acme").completion(store=True))
    world.log.append([type(record)(record.topic, record.key, b"{", record.headers), record])
    world.log.append([record])
    assert len(CompletionIndex(world.log).stored("acme")) == 1


async def test_what_breaks_the_contract_hides_no_other_and_logprobs_are_not_kept(world: World) -> None:
    record = encode_event(Maker(tenant="acme").completion(id="cmpl-good", store=True))
    bad = [{"started_at": "soon"}, {"started_at": float("inf")}, {"choices": [{"index": "first"}]}, {"store": {}}]
    body = json.loads(record.value) | {"completion_id": "cmpl-bad"}
    world.log.append([replace(record, value=json.dumps(body | change).encode()) for change in bad])
    world.log.append([record])
    index = CompletionIndex(world.log)
    assert [one.completion_id for one in index.stored("acme")] == ["cmpl-good"]
    assert [choice.model_dump() for choice in index.find("cmpl-good").choices] == [{"index": 0}]
    with pytest.raises(NotFound):
        index.find("cmpl-bad")


def test_a_log_that_takes_its_time_hides_nothing() -> None:
    class Slow(MemoryLog):
        def reader(self, offsets: Mapping[TopicPartition, int]) -> MemoryReader:
            reader, silent = super().reader(offsets), iter([True, True])
            poll = reader.poll
            reader.poll = lambda **how: [] if next(silent, False) else poll(**how)  # type: ignore[method-assign]
            return reader

    log, make = Slow(), Maker(tenant="acme")
    log.append([encode_event(make.completion(number, store=True)) for number in range(3)])
    assert len(CompletionIndex(log).stored("acme")) == 3
