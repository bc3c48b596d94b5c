"""The whole server on the in-memory engine, log and key store, without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.registry.memory import MemoryRegistry
from exchange.registry.port import Registry
from schemas.completion import ConsentLevel
from schemas.topics import REPLICAS, TOPICS
from server.app import Application, Parts, build_app
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from server.settings import ServerSettings

Headers = Mapping[str, str | bytes]


@dataclass
class Whole:
    """A running server; `http` sends an API key with every scope."""

    application: Application
    http: httpx.AsyncClient
    log: MemoryLog
    engine: InMemoryEngine
    keys: KeyFile

    def key(self, *scopes: Scope, tenant: str = "acme", aliases: tuple[str, ...] = ("*",)) -> dict[str, str]:
        """Headers of a fresh API key."""
        train = ConsentLevel.TRAIN
        _, text = self.keys.create(tenant=tenant, scopes=scopes, default_consent=train, aliases=aliases)
        return {"authorization": f"Bearer {text}"}

    async def send(self, path: str, body: Any, headers: Headers | None = None) -> httpx.Response:
        """POST a body; bytes go as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": b"application/json", **(headers or {})}
        return await self.http.post(path, content=raw, headers=cast("dict[str, str]", sent))

    def written(self) -> int:
        """How many records there are on the log, once everything on its way has come, without what the replica says of
        itself, which comes when it likes."""
        assert self.application.recorder.flush(5)
        assert self.application.appender.flush(5)
        names = TOPICS.keys() - {REPLICAS.name}
        places = [TopicPartition(name, part) for name in names for part in self.log.partitions(name)]
        return sum(self.log.end_offset(place) for place in places)


@asynccontextmanager
async def open_server(
    folder: Path, *, log: MemoryLog | None = None, registry: Registry | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Whole]:
    """A server in `folder` for the policy `support`; `sections` are settings that differ."""
    section = {"data_dir": folder / "data", "api_keys": folder / "api-keys.json", "replica_id": "r1"}
    settings = ServerSettings.model_validate({"server": section, "engine": {"model": "none"}, **sections})
    log, engine, keys = log or MemoryLog(), InMemoryEngine(), KeyFile(settings.server.api_keys)
    parts = Parts(engine, log, registry or MemoryRegistry(), MemoryKeys(), keys, CollectorRegistry())
    application = build_app(settings, parts)
    transport = httpx.ASGITransport(application.app)
    async with application.running(), httpx.AsyncClient(transport=transport, base_url="http://attune") as http:
        server = Whole(application, http, log, engine, keys)
        http.headers.update(server.key(*Scope))
        yield server
