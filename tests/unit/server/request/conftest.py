"""A whole request path on the in-memory engine and log, and a client for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from exchange.keys.sqlite import SqliteKeys
from exchange.log.appender import Appender
from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.reading.completions import CompletionIndex
from schemas.completion import CompletionContent, CompletionRecorded, ConsentLevel
from schemas.event import Event
from schemas.sealed import Sealed, unseal
from schemas.topics import COMPLETIONS, FEEDBACK, Topic
from schemas.wire import decode_event
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from server.fallbacks import install_fallbacks
from server.metrics import ServerMetrics
from server.request.consents import ConsentBook
from server.request.mount import install_request_path
from server.request.recorder import Recorder
from server.request.request_path import RequestPath
from server.request.routing import RoutingTable
from server.secrets import Secrets, load_secrets

DIGEST = "d" * 64


@dataclass
class World:
    """One server and what it wrote. `keys` are API keys by name; `routing` may be changed between requests."""

    client: httpx.AsyncClient
    app: FastAPI
    path: RequestPath
    engine: InMemoryEngine
    log: MemoryLog
    store: SqliteKeys
    metrics: ServerMetrics
    secrets: Secrets
    keys: dict[str, str]
    routing: dict[str, RoutingTable] = field(default_factory=dict)

    async def chat(
        self,
        key: str | None = "acme",
        headers: dict[str, str] | None = None,
        path: str = "/v1/chat/completions",
        **body: Any,
    ) -> httpx.Response:
        asked = {"model": "support", "messages": [{"role": "user", "content": "hello"}], **body}
        return await self.post(path, asked, key, headers)

    async def post(
        self, path: str, body: Any, key: str | None = "acme", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        sent = {"content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {self.keys.get(key, key)}"
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=raw, headers=sent)

    def events(self, topic: Topic) -> list[Event]:
        """All events of a topic once everything on its way is durable."""
        self.settle()
        partitions = {TopicPartition(topic.name, number): 0 for number in self.log.partitions(topic.name)}
        found = self.log.reader(partitions).poll(max_records=10_000)
        events = [decode_event(record.value, record.headers) for record in found]
        return sorted(events, key=lambda event: event.at)

    def settle(self) -> None:
        """Wait until the recorder and the appender have nothing left."""
        assert self.path.recorder.flush(5)
        assert self.path.appender.flush(5)

    def completions(self) -> list[CompletionRecorded]:
        return [event for event in self.events(COMPLETIONS) if isinstance(event, CompletionRecorded)]

    def feedback(self) -> list[Event]:
        return self.events(FEEDBACK)

    def opened(self, sealed: Sealed, event_id: str) -> bytes:
        key = self.store.lookup(sealed.key_id)
        assert key is not None
        return unseal(sealed, key=key.secret, event_id=event_id)

    def content(self, event: CompletionRecorded) -> CompletionContent:
        return CompletionContent.model_validate_json(self.opened(event.content, event.id))

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics._registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def open_world(folder: Path, *, seconds_per_step: float = 0.0, **settings: Any) -> AsyncIterator[World]:
    engine = InMemoryEngine(("support@v0", "sales@v0"), seconds_per_step=seconds_per_step)
    for number in (1, 2):
        await engine.load_adapter(f"support@v{number}", folder)
    key_file = KeyFile(folder / "api-keys.json")
    every = (Scope.CHAT, Scope.FEEDBACK)
    train = ConsentLevel.TRAIN
    keys = {
        "acme": key_file.create(tenant="acme", scopes=every, default_consent=train)[1],
        "rater": key_file.create(tenant="acme", scopes=every, default_consent=train, may_claim_sources=True)[1],
        "by-id": key_file.create(tenant="acme", scopes=every, default_consent=train, may_name_completions=True)[1],
        "other": key_file.create(tenant="other", scopes=every, default_consent=train)[1],
        "sales": key_file.create(tenant="acme", scopes=every, default_consent=train, aliases=("sales",))[1],
        "reader": key_file.create(tenant="acme", scopes=(Scope.READ,), default_consent=train)[1],
        "private": key_file.create(tenant="acme", scopes=every, default_consent=ConsentLevel.NONE)[1],
    }
    routing = {
        "support": RoutingTable("support", 1, loaded={0: None, 1: DIGEST, 2: "e" * 64}),
        "sales": RoutingTable("sales", 0, loaded={0: None}),
    }
    log = MemoryLog()
    appender = Appender(log)
    store = SqliteKeys(folder / "keys.db")
    metrics = ServerMetrics(CollectorRegistry())
    recorder = Recorder(
        keys=store,
        appender=appender,
        metrics=metrics,
        base_fingerprint=engine.base_fingerprint,
        chat_template_hash=engine.chat_template_hash,
    )
    secrets = load_secrets(folder / "data")
    consents = ConsentBook(log, folder / "consents.db")
    path = RequestPath(
        auth=key_file,
        secrets=secrets,
        routing=lambda policy: routing[policy],
        policies=("support", "sales"),
        engine=engine,
        recorder=recorder,
        consents=consents,
        appender=appender,
        keys=store,
        metrics=metrics,
        completions=CompletionIndex(log),
        allowed_origins=("https://app.example.com",),
        **settings,
    )
    await consents.start()
    app = FastAPI()
    install_fallbacks(app)
    install_request_path(app, path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        yield World(client, app, path, engine, log, store, metrics, secrets, keys, routing)
    await consents.close()
    recorder.close()
    appender.close()
    store.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened
