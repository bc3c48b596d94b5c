"""A live server without vLLM: the whole application on the in-memory engine, over real HTTP and real files.

For tests of what talks to a server from outside, such as the command line. A thread beside it reads the log into the
ledger, as a trainer does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry

from deploy.init import Home, write_home
from exchange.keys.port import KeyStore
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_keys, open_log, open_registry
from exchange.registry.port import Registry
from schemas.base import now_ms
from schemas.topics import COMPLETIONS, CONSENTS, ERASURES, FEEDBACK, RATERS
from schemas.wire import encode_event
from server.app import Application, Parts, build_app
from server.auth import KeyFile
from server.engine.memory import InMemoryEngine
from server.engine.memory_chat import Reply, canned_reply
from server.main import bound_socket
from server.settings import load_settings as load_server
from tests.factories import START, Maker
from tests.unit.server.control.world import publish
from trainer.intake.clerk import ErasureClerk
from trainer.intake.feeder import Feeder
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.settings import load_settings as load_trainer
from trainer.snapshots.corpus import Corpus

WINDOW_MS = 60_000
"""Longer than any test takes: nothing comes late."""


@dataclass(frozen=True)
class Live:
    """A running server and the reading half of a trainer, all of it under one folder."""

    url: str
    home: Home
    application: Application
    log: EventLog
    registry: Registry
    keys: KeyStore
    ledger: Ledger

    def post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """The answer to a request of the app's (or another) key."""
        sent = {"authorization": f"Bearer {key or self.home.app_key}"}
        answer = httpx.post(self.url + path, json=body, headers=sent, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def settle(self) -> None:
        """Wait until all that was answered is on the log and in the ledger."""
        assert self.application.recorder.flush(10)
        assert self.application.appender.flush(10)
        topics = (COMPLETIONS.name, FEEDBACK.name, CONSENTS.name, ERASURES.name, RATERS.name)
        places = [TopicPartition(topic, number) for topic in topics for number in self.log.partitions(topic)]
        ends, deadline = {place: self.log.end_offset(place) for place in places}, time.monotonic() + 30
        while any(self.ledger.offsets().get(place, 0) < end for place, end in ends.items()):
            assert time.monotonic() < deadline, "the ledger does not keep up with the log"
            time.sleep(0.01)

    def turn(self, folder: Path, version: int) -> str:
        """What a turn does with data once all windows have passed, and a made-up adapter; returns the snapshot.

        Nobody is held out: who would be depends on a secret that is new in each home.
        """
        self.log.append([encode_event(Maker().completion(now_ms() + 10 * WINDOW_MS - START, user=None))])
        self.settle()
        engine = InMemoryEngine()
        settings = load_trainer(self.home.trainer).feedback.model_copy(update={"heldout_users": 0.0})
        corpus = Corpus(self.ledger, self.keys, settings, engine.base_fingerprint, lambda _, text: list(text.encode()))
        manifest = corpus.cut(version - 1, folder / "cut", since=None).manifest
        self.registry.publish_snapshot(folder / "cut", manifest)
        publish(self.registry, folder / "made", version, snapshot=manifest.digest)
        return manifest.digest


@contextmanager
def live_server(folder: Path, reply: Reply = canned_reply) -> Iterator[Live]:
    """Serve `support@v0` from `folder` until the context ends; backups are expected in `folder/backups`.

    `reply` is what the engine says.
    """
    home = write_home(folder, model="none", policy="support", log="sqlite:///log.db")
    home.server.write_text(home.server.read_text().replace("[engine]", 'backups = "backups"\n\n[engine]', 1))
    home.trainer.write_text(home.trainer.read_text().replace("= 3600000", f"= {WINDOW_MS}"))
    with running(home, reply) as live:
        yield live


@contextmanager
def running(home: Home, reply: Reply = canned_reply) -> Iterator[Live]:
    """A server on what lies in a home."""
    settings = load_server(home.server)
    section = settings.server
    with ExitStack() as stack:
        log = stack.enter_context(open_log(section.log))
        keys = stack.enter_context(closing(open_keys(section.keys)))
        registry = open_registry(section.registry)
        state = load_trainer(home.trainer).state_dir
        ledger = stack.enter_context(Ledger(state / "ledger.db", "support"))
        clerk = ErasureClerk(log, keys, "support", "trainer_1")
        ingest = stack.enter_context(closing(Ingest(log, ledger, "support", clerk)))
        feeder = stack.enter_context(Feeder(ingest))
        feeder.start()
        section.data_dir.mkdir(parents=True, exist_ok=True)
        parts = Parts(InMemoryEngine(reply=reply), log, registry, keys, KeyFile(section.api_keys), CollectorRegistry())
        application = build_app(settings, parts)
        listener = stack.enter_context(bound_socket("127.0.0.1", 0))
        stack.enter_context(_served(application, listener))
        yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", home, application, log, registry, keys, ledger)


@contextmanager
def _served(application: Application, listener: Any) -> Iterator[None]:
    server = uvicorn.Server(uvicorn.Config(application.app, lifespan="off", log_level="warning", ws="none"))
    failure: list[BaseException] = []

    async def serve() -> None:
        async with application.running():
            await server.serve(sockets=[listener])

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="live-server")
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not server.started:
            raise AssertionError(f"the server did not start: {failure}")
        yield
    finally:
        server.should_exit = True
        thread.join(60)
    if failure:
        raise failure[0]
