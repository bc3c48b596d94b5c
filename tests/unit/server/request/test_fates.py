"""GET /v1/feedback/{id}: who may ask, by what proof, and what an answer never says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from exchange.reading.accepted import AcceptedWords
from exchange.reading.fates import Fates
from exchange.registry.memory import MemoryRegistry
from schemas.base import now_ms
from schemas.handles import issue_handle, verify_handle
from server.request import fates as fates_module
from server.request.fates import FateDesk, fates_router
from tests.unit.server.request.conftest import World
from tests.unit.server.request.test_feedback import comparison_of, handle_of


@pytest.fixture
async def desk(world: World) -> AsyncIterator[FateDesk]:
    words = AcceptedWords(world.log)
    desk = FateDesk(world.path.auth, world.secrets.keyring, words, Fates(MemoryRegistry()))
    world.app.include_router(fates_router(desk))
    yield desk
    words.close()


async def say(world: World, handle: str, key: str | None = None, **signal: Any) -> str:
    body = {"handle": handle, **(signal or {"kind": "thumbs", "value": "up"})}
    return str((await world.post("/v1/feedback", body, key=key)).json()["id"])


async def ask(world: World, name: str, key: str | None = None, handle: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {world.keys.get(key, key)}"} if key else {}
    if handle is not None:
        headers["attune-handle"] = handle
    return await world.client.get(f"/v1/feedback/{name}", headers=headers)


async def test_the_bearer_of_the_handle_and_keys_of_the_tenant_may_ask(world: World, desk: FateDesk) -> None:
    handle = await handle_of(world, user="ann")
    name = await say(world, handle)
    for proof in ({"handle": handle}, {"key": "acme"}, {"key": "reader"}):
        answer = await ask(world, name, **proof)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["id"], body["status"], body["policy"], body["kind"]) == (name, "waiting", "support", "thumbs")
        assert body["accepted"]["topic"] == "attune.feedback"
        assert "safe on the log" in body["explanation"]
        assert answer.headers["cache-control"] == "no-store"


async def test_without_a_proof_nobody_may_ask(world: World, desk: FateDesk) -> None:
    handle = await handle_of(world)
    name = await say(world, handle)
    assert (await ask(world, name)).status_code == 401
    assert (await ask(world, name, key="ak_no_good")).status_code == 401
    claims = verify_handle(handle, world.secrets.keyring, now=0)
    expired = issue_handle(claims.model_copy(update={"expires_at": now_ms() - 1}), world.secrets.keyring)
    for bad, status, code in (
        ("nonsense", 400, "handle_malformed"),
        (expired, 403, "handle_expired"),
        (handle[:-3], 403, "handle_forged"),
        ("a" * 20_000, 400, "handle_malformed"),
    ):
        answer = await ask(world, name, handle=bad)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_other_peoples_words_do_not_exist(world: World, desk: FateDesk) -> None:
    handle, own = await handle_of(world, user="ann"), await handle_of(world, user="ann")
    name = await say(world, handle)
    nothing = await ask(world, "fb_none", key="acme")
    assert nothing.status_code == 404
    for proof in (
        {"key": "other"},  # another tenant
        {"key": "sales"},  # another policy
        {"handle": own},  # the same person's handle of another answer
        {"handle": await handle_of(world, user="bob")},
        {"handle": await handle_of(world, key="other", user="ann")},
    ):
        answer = await ask(world, name, **proof)
        assert (answer.status_code, answer.json()) == (404, nothing.json()), proof
    for odd in ("..%2f..%2fetc", "%00", "x" * 500, "fb%20"):
        assert (await ask(world, odd, key="acme")).status_code == 404


async def test_the_answer_unblinds_nothing_and_names_nobody(world: World, desk: FateDesk) -> None:
    comparison = await comparison_of(world, user="ann", versions=["support@v1", "support@v2"])
    name = await say(world, comparison["handle"], kind="comparison", winner=0)
    (event,) = [event for event in world.feedback() if event.id == name]
    told = json.dumps((await ask(world, name, handle=comparison["handle"])).json())
    secret = [event.end_user, event.conversation, *(ref.completion_id for ref in event.target.candidates)]  # type: ignore[attr-defined]
    assert not [word for word in (*secret, "support@v1", "support@v2", "acme", "winner") if str(word) in told]


async def test_a_browser_may_ask_by_handle_from_an_allowed_origin(world: World, desk: FateDesk) -> None:
    headers = {
        "origin": "https://app.example.com",
        "access-control-request-method": "GET",
        "access-control-request-headers": "attune-handle",
    }
    allowed = await world.client.options("/v1/feedback/fb_1", headers=headers)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    refused = await world.client.options("/v1/feedback/fb_1", headers={**headers, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


async def test_a_bare_handle_never_makes_the_server_search_the_log(
    world: World, desk: FateDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await handle_of(world)
    name = await say(world, handle)
    for _ in range(20):
        await say(world, await handle_of(world))
    desk.words = AcceptedWords(world.log, limit=1)
    await ask(world, "fb_none", handle=handle)
    desk.words._known.clear()
    assert (await ask(world, name, handle=handle)).status_code == 404
    assert (await ask(world, name, key="acme")).status_code == 200


async def test_too_many_askers_are_turned_away(world: World, desk: FateDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await say(world, await handle_of(world))
    monkeypatch.setattr(fates_module, "WAITING", -fates_module.AT_ONCE)
    answer = await ask(world, name, key="acme")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    monkeypatch.undo()
    assert (await ask(world, name, key="acme")).status_code == 200
