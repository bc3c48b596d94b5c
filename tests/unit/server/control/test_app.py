"""The whole server on the in-memory engine: operators' API, health, metrics, models, and what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog, TopicPartition
from exchange.registry.port import Registry
from schemas.completion import ConsentLevel
from schemas.events import ReplicaReported
from schemas.wire import decode_event
from server.app import Application, Parts, build_app
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from server.settings import ServerSettings
from tests.unit.server.control.world import Operator, publish, until

POLICIES = "/v1/admin/policies"


@dataclass
class Server:
    """A running server without a socket, and keys for it."""

    application: Application
    engine: InMemoryEngine
    http: httpx.AsyncClient
    keys: KeyFile

    def key(self, *scopes: Scope, aliases: tuple[str, ...] = ("*",)) -> dict[str, str]:
        """Headers of a fresh API key."""
        _, text = self.keys.create(tenant="acme", scopes=scopes, default_consent=ConsentLevel.TRAIN, aliases=aliases)
        return {"authorization": f"Bearer {text}"}

    async def post(self, path: str, body: dict[str, Any], *scopes: Scope) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self.key(*(scopes or (Scope.ADMIN,))))

    async def get(self, path: str, *scopes: Scope) -> httpx.Response:
        return await self.http.get(path, headers=self.key(*(scopes or (Scope.ADMIN,))))


def settings_for(folder: Path, **sections: dict[str, Any]) -> ServerSettings:
    server = {
        "policies": ("support", "sales"),
        "data_dir": folder / "data",
        "api_keys": folder / "api-keys.json",
        "replica_id": "r1",
    }
    values = {"engine": {"model": "none", "max_loras": 4}, **sections}
    return ServerSettings.model_validate(values | {"server": server | sections.get("server", {})})


@pytest.fixture
def log() -> MemoryLog:
    """The fast one: what differs between logs shows in their own tests and in test_swap."""
    return MemoryLog()


@pytest.fixture
async def server(log: EventLog, registry: Registry, tmp_path: Path) -> AsyncIterator[Server]:
    settings = settings_for(tmp_path, swap={"admin_wait_seconds": 10.0})
    engine = InMemoryEngine(base_names=("support@v0", "sales@v0"), seconds_per_step=0.002)
    keys = KeyFile(settings.server.api_keys)
    parts = Parts(
        engine=engine,
        log=log,
        registry=registry,
        keys=MemoryKeys(),
        api_keys=keys,
        metrics_registry=CollectorRegistry(),
    )
    application = build_app(settings, parts)
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        yield Server(application, engine, http, keys)


@pytest.fixture
def two_versions(operator: Operator, registry: Registry, tmp_path: Path) -> None:
    """v1 and v2 of `support` are candidates."""
    for number in (1, 2):
        operator.candidate(number, publish(registry, tmp_path, number).digest)


async def test_promote_and_roll_back_answer_once_traffic_follows(server: Server, two_versions: None) -> None:
    for version in ("support@v1", "support@v2"):
        answer = await server.post(f"{POLICIES}/support/promote", {"version": version, "reason": "looks good"})
        assert answer.status_code == 200, answer.text
        state = answer.json()
        assert state["stable"] == state["routed"]["stable"] == version
        assert state["in_effect"] is True
        assert 0 < state["seconds"] < 5
    assert {"support@v0", "support@v1", "support@v2"} == set(state["serving"])
    answer = await server.post(f"{POLICIES}/support/rollback", {"reason": "rude"})
    state = answer.json()
    assert (answer.status_code, state["stable"], state["routed"]["stable"]) == (200, "support@v1", "support@v1")
    assert state["seconds"] < 5
    stages = {version["version"]: (version["stage"], version["reason"]) for version in state["versions"]}
    assert stages["support@v2"] == ("rolled_back", "rude")
    assert stages["support@v1"] == ("stable", "rolled back from support@v2")
    answer = await server.post(f"{POLICIES}/support/rollback", {"version": "support@v1", "to": "support@v0"})
    assert answer.json()["stable"] == "support@v0"
    read = (await server.get(f"{POLICIES}/support", Scope.READ)).json()
    assert {name: read[name] for name in ("stable", "canary", "canary_share")} == {
        "stable": "support@v0",
        "canary": None,
        "canary_share": 0.0,
    }
    assert read["lease"]["holder"] == "tester"
    listed = (await server.get(POLICIES, Scope.READ)).json()["policies"]
    assert [state["policy"] for state in listed] == ["support", "sales"]


async def test_history_says_who_did_what_and_what_became_of_it(server: Server, two_versions: None) -> None:
    await server.post(f"{POLICIES}/support/promote", {"version": "support@v1", "reason": "looks good"})
    refused = await server.post(f"{POLICIES}/support/promote", {"version": "support@v1"})
    assert refused.status_code == 409
    assert refused.json()["error"]["message"] == "support@v1 is stable and cannot become stable"
    entries = (await server.get(f"{POLICIES}/support/history", Scope.READ)).json()["entries"]
    assert [entry["entry"] for entry in entries[:3]] == ["lease_acquired", "version_reserved", "candidate_published"]
    done, again = entries[-2:]
    assert (done["entry"], done["version"], done["applied"], done["refused"]) == (
        "version_promoted",
        "support@v1",
        True,
        None,
    )
    assert done["actor"].startswith("key:")
    assert done["reason"] == "looks good"
    assert (again["applied"], again["refused"]) == (False, "support@v1 is stable and cannot become stable")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("support/promote", {"version": "support@v9"}, 409, "support@v9 does not exist"),
        ("support/promote", {"version": "support@v1", "expected_generation": 1}, 409, "stale"),
        ("support/promote", {"version": "sales@v1"}, 400, "sales@v1 is not a version of support"),
        ("support/promote", {"version": "v1"}, 400, "not the name of a policy version"),
        ("support/promote", {}, 400, "version: Field required"),
        ("support/promote", {"version": "support@v1", "share": 1}, 400, "share: this field is not known here"),
        ("support/promote", {"version": "support@v1", "reason": "x" * 2001}, 400, "reason: String should have at most"),
        ("support/rollback", {}, 409, "no version before support@v0 to go back to"),
        ("support/rollback", {"version": "support@v1"}, 409, "support@v1 is candidate"),
        ("nobody/promote", {"version": "nobody@v1"}, 404, "no such policy for this API key"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_reason(
    server: Server, two_versions: None, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    answer = await server.post(f"{POLICIES}/{path}", body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


async def test_scopes_and_aliases_guard_the_operators_api(server: Server, two_versions: None) -> None:
    promote, body = f"{POLICIES}/support/promote", {"version": "support@v1"}
    assert (await server.http.post(promote, json=body)).status_code == 401
    assert (await server.http.get(POLICIES)).status_code == 401
    wrong = {"authorization": "Bearer ak_none_none"}
    assert (await server.http.get(POLICIES, headers=wrong)).status_code == 401
    for scope in (Scope.CHAT, Scope.FEEDBACK):
        assert (await server.get(POLICIES, scope)).status_code == 403
    for scope in (Scope.CHAT, Scope.FEEDBACK, Scope.READ):
        assert (await server.post(promote, body, scope)).status_code == 403
    sales_only = server.key(Scope.ADMIN, aliases=("sales",))
    assert (await server.http.post(promote, json=body, headers=sales_only)).status_code == 404
    listed = (await server.http.get(POLICIES, headers=sales_only)).json()["policies"]
    assert [state["policy"] for state in listed] == ["sales"]
    assert (await server.get(f"{POLICIES}/support")).json()["stable"] == "support@v0"


async def test_a_version_that_cannot_be_loaded_is_said_to_be_not_in_effect(
    server: Server, operator: Operator, registry: Registry, tmp_path: Path
) -> None:
    operator.candidate(1, publish(registry, tmp_path, 1, rank=64).digest)
    answer = await server.post(f"{POLICIES}/support/promote", {"version": "support@v1"})
    state = answer.json()
    assert (answer.status_code, state["in_effect"]) == (202, False)
    assert (state["stable"], state["routed"]["stable"]) == ("support@v1", "support@v0")
    assert "has rank 64" in state["refused"]["support@v1"]


async def test_with_the_log_away_changes_are_503_and_chats_go_on(registry: Registry, tmp_path: Path) -> None:
    settings, engine = settings_for(tmp_path), InMemoryEngine(base_names=("support@v0", "sales@v0"))
    keys, log = KeyFile(settings.server.api_keys), MemoryLog()
    parts = Parts(engine, log, registry, MemoryKeys(), keys, CollectorRegistry())
    application = build_app(settings, parts)
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        server = Server(application, engine, http, keys)
        log.close()
        for path, body in (("promote", {"version": "support@v1"}), ("rollback", {})):
            answer = await server.post(f"{POLICIES}/support/{path}", body)
            assert answer.status_code == 503
            assert "retry-after" in answer.headers
        assert (await server.get(f"{POLICIES}/support", Scope.READ)).status_code == 200
        await until(lambda: not application.follower.reachable)
        assert (await http.get("/readyz")).status_code == 200
        chat = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
        assert (await server.post("/v1/chat/completions", chat, Scope.CHAT)).status_code == 200
        assert b"attune_journal_reachable 0.0" in (await http.get("/metrics")).content


async def test_readiness_waits_for_the_stable_version(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    manifest = publish(type(registry).at(f"file://{tmp_path}/elsewhere"), tmp_path, 1)  # type: ignore[attr-defined]
    operator.candidate(1, manifest.digest)
    operator.promote(1)
    settings = settings_for(tmp_path, swap={"retry_seconds": 0.05})
    engine = InMemoryEngine(base_names=("support@v0", "sales@v0"))
    parts = Parts(engine, log, registry, MemoryKeys(), KeyFile(settings.server.api_keys), CollectorRegistry())
    application = build_app(settings, parts)
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "a stable version or canary is not loaded yet")
        assert (await http.get("/livez")).status_code == 200
        publish(registry, tmp_path, 1)
        async with asyncio.timeout(5):
            while (await http.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
        operator.candidate(2, "f" * 64)
        operator.promote(2)  # cannot be loaded: it must not take the replica out of service
        await until(lambda: bool(application.swapper.refused("support")))
        assert (await http.get("/readyz")).status_code == 200
        application.health.draining = True
        assert (await http.get("/readyz")).json()["status"] == "draining"
        assert (await http.get("/livez")).status_code == 200


async def test_an_idle_engine_is_probed_and_a_stuck_one_is_unready(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, gate, ages = [], asyncio.Event(), [0.0]

    async def probe(name: str) -> str:
        calls.append(name)
        await gate.wait()
        ages[0] = 0.0
        return "hello"

    monkeypatch.setattr(server.engine, "probe", probe)
    monkeypatch.setattr(server.engine, "progress_age_s", lambda: ages[0])
    assert (await server.http.get("/readyz")).status_code == 200
    assert calls == []  # tokens flow: nothing to ask
    ages[0] = 11.0
    assert [(await server.http.get("/readyz")).status_code for _ in range(5)] == [200] * 5
    await asyncio.sleep(0)
    assert calls == ["support@v0"]  # one probe, however many checks
    monkeypatch.setattr(server.application.health, "_probe_timeout_s", 0.0)
    answer = await server.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "the engine made no token in 11 s")
    gate.set()
    await until(lambda: ages[0] == 0.0)
    assert (await server.http.get("/readyz")).status_code == 200
    server.engine.errored = True
    assert (await server.http.get("/readyz")).status_code == 503
    assert (await server.http.get("/livez")).json() == {"status": "the engine has died"}


async def test_models_are_the_policies_of_the_key(server: Server) -> None:
    assert (await server.http.get("/v1/models")).status_code == 401
    listed = (await server.get("/v1/models", Scope.CHAT)).json()
    assert [card["id"] for card in listed["data"]] == ["support", "sales"]
    one = server.key(Scope.CHAT, aliases=("sales",))
    assert [card["id"] for card in (await server.http.get("/v1/models", headers=one)).json()["data"]] == ["sales"]
    assert (await server.http.get("/v1/models/sales", headers=one)).json()["owned_by"] == "attune"
    assert (await server.http.get("/v1/models/support", headers=one)).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/inference/v1/generate", "/v1/load_lora_adapter", "/scale_elastic_ep", "/docs", "/redoc"],
)
async def test_what_is_not_ours_is_not_there(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await server.http.request(method, path, headers=server.key(*Scope), json={})
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_metrics_are_shown_and_guarded(server: Server, two_versions: None, tmp_path: Path) -> None:
    await server.post(f"{POLICIES}/support/promote", {"version": "support@v1"})
    chat = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(3):
        assert (await server.post("/v1/chat/completions", chat, Scope.CHAT)).headers["attune-version"] == "support@v1"
    text = (await server.http.get("/metrics")).text
    assert 'attune_requests_total{arm="stable",outcome="ok",policy="support"} 3.0' in text
    assert 'attune_served_version{arm="stable",policy="support"} 1.0' in text
    assert 'attune_journal_generation{policy="support"} 5.0' in text
    assert 'attune_swap_seconds_count{arm="stable",policy="support"} 1.0' in text


async def test_metrics_need_a_key_where_they_are_not_public(registry: Registry, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, server={"host": "192.0.2.1"})
    keys = KeyFile(settings.server.api_keys)
    parts = Parts(InMemoryEngine(), MemoryLog(), registry, MemoryKeys(), keys, CollectorRegistry())
    application = build_app(settings, parts)
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        server = Server(application, InMemoryEngine(), http, keys)
        assert (await http.get("/metrics")).status_code == 401
        assert (await server.get("/metrics", Scope.CHAT)).status_code == 403
        assert (await server.get("/metrics", Scope.READ)).status_code == 200


async def test_stopping_brings_everything_to_the_log(registry: Registry, tmp_path: Path) -> None:
    settings, log = settings_for(tmp_path, server={"policies": ("support",)}), MemoryLog()
    keys = KeyFile(settings.server.api_keys)
    engine = InMemoryEngine()
    application = build_app(settings, Parts(engine, log, registry, MemoryKeys(), keys, CollectorRegistry()))
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        server = Server(application, engine, http, keys)
        chat = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(20):
            assert (await server.post("/v1/chat/completions", chat, Scope.CHAT)).status_code == 200
    ends = [log.end_offset(TopicPartition("attune.completions", number)) for number in range(6)]
    assert sum(ends) == 20
    records = log.reader({TopicPartition("attune.replicas", 0): 0}).poll()
    report = decode_event(records[-1].value, records[-1].headers)
    assert isinstance(report, ReplicaReported)
    assert (report.replica_id, report.stable, report.loaded) == ("r1/support", 0, {0: None})


async def test_versions_and_words_can_be_traced(server: Server, two_versions: None) -> None:
    await until(lambda: len(server.application.journal.state("support").versions) == 3)
    told = await server.get(f"{POLICIES}/support/versions/v1", Scope.READ)
    assert (told.status_code, told.json()["stage"], told.json()["made"]["parent"]) == (200, "candidate", "support@v0")
    assert (await server.get(f"{POLICIES}/support/versions/v1", Scope.CHAT)).status_code == 403
    assert (await server.get(f"{POLICIES}/support/versions/v7")).status_code == 404
    card = await server.get(f"{POLICIES}/support/versions/v1/card", Scope.READ)
    assert (card.status_code, card.json()["facts"]["explained"]["parent"]) == (200, "support@v0")
    assert (await server.get(f"{POLICIES}/support/versions/v1/card", Scope.CHAT)).status_code == 403
    assert (await server.get(f"{POLICIES}/support/versions/v0/card")).status_code == 404, "the base has none"
    other = await server.http.get(
        f"{POLICIES}/support/versions/v1", headers=server.key(Scope.ADMIN, aliases=("sales",))
    )
    assert other.status_code == 404
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
    chat = await server.post("/v1/chat/completions", body, Scope.CHAT)
    handle = chat.json()["attune"]["handles"][0]
    said = await server.http.post("/v1/feedback", json={"handle": handle, "kind": "thumbs", "value": "up"})
    fate = await server.get(f"/v1/feedback/{said.json()['id']}", Scope.READ)
    assert (fate.status_code, fate.json()["status"]) == (200, "waiting")
