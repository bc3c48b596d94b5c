"""The request path in front of the shared engine, over real HTTP, and what it wrote to a log in memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import REGISTRY

from exchange.keys.sqlite import SqliteKeys
from exchange.log.appender import Appender
from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.reading.completions import CompletionIndex
from schemas.completion import CompletionContent, CompletionRecorded, ConsentLevel
from schemas.sealed import unseal
from schemas.topics import COMPLETIONS
from schemas.wire import decode_event
from server.auth import KeyFile, Scope
from server.metrics import ServerMetrics, metrics_router
from server.request.consents import ConsentBook
from server.request.mount import install_request_path
from server.request.recorder import Recorder
from server.request.request_path import RequestPath
from server.request.routing import RoutingTable
from server.secrets import Secrets, load_secrets
from tests.engine_server import EngineServer


@dataclass
class Served:
    """A server in front of the shared engine, and what it wrote."""

    url: str
    key: str
    log: MemoryLog
    recorder: Recorder
    appender: Appender
    store: SqliteKeys
    secrets: Secrets

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        sent = {"authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=sent, timeout=60)

    def event(self, completion_id: str) -> tuple[CompletionRecorded, CompletionContent]:
        """The completion event of that id, waited for, and its content."""
        deadline = time.monotonic() + 20
        while True:
            self.recorder.flush(5)
            self.appender.flush(5)
            places = {TopicPartition(COMPLETIONS.name, n): 0 for n in self.log.partitions(COMPLETIONS.name)}
            for record in self.log.reader(places).poll(max_records=10_000):
                event = decode_event(record.value, record.headers)
                if isinstance(event, CompletionRecorded) and event.completion_id == completion_id:
                    key = self.store.lookup(event.content.key_id)
                    assert key is not None
                    opened = unseal(event.content, key=key.secret, event_id=event.id)
                    return event, CompletionContent.model_validate_json(opened)
            assert time.monotonic() < deadline, f"no event for {completion_id}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def served(engine_server: EngineServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("served")
    engine = engine_server.engine
    key_file = KeyFile(folder / "api-keys.json")
    scopes = (Scope.CHAT, Scope.FEEDBACK, Scope.READ)
    _, key = key_file.create(tenant="acme", scopes=scopes, default_consent=ConsentLevel.TRAIN)
    log, store, metrics = MemoryLog(), SqliteKeys(folder / "keys.db"), ServerMetrics(REGISTRY)
    appender = Appender(log)
    recorder = Recorder(
        keys=store,
        appender=appender,
        metrics=metrics,
        base_fingerprint=engine.base_fingerprint,
        chat_template_hash=engine.chat_template_hash,
    )
    secrets = load_secrets(folder)
    consents = ConsentBook(log, folder / "consents.db")
    path = RequestPath(
        auth=key_file,
        secrets=secrets,
        routing=lambda policy: RoutingTable(policy, 0),
        policies=("support",),
        engine=engine,
        recorder=recorder,
        consents=consents,
        appender=appender,
        keys=store,
        metrics=metrics,
        completions=CompletionIndex(log),
    )
    app = FastAPI()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", ws="none"))

    async def start() -> asyncio.Task[None]:
        await consents.start()
        install_request_path(app, path)
        app.include_router(metrics_router(metrics, None))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        return task

    task = engine_server.call(start())
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield Served(url, key, log, recorder, appender, store, secrets)

    async def stop() -> None:
        async with AsyncExitStack() as stack:
            stack.callback(engine.set_sink, engine_server.records.append)
            server.should_exit = True
            await task
            await consents.close()

    engine_server.call(stop())
    recorder.close()
    appender.close()
    store.close()
    metrics.close()
