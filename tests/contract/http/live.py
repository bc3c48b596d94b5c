"""The whole server on the in-memory engine behind a real socket, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import uvicorn
from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.registry.memory import MemoryRegistry
from schemas.completion import ConsentLevel
from server.app import Parts, build_app
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from server.main import bound_socket
from server.settings import ServerSettings
from tests.unit.server.control.world import Operator, publish

CHAT = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "store": True}


@dataclass
class Live:
    """A server at `url`.

    `keys` has an API key for each scope alone, and one with all of them under `all`; `answer` and `comparison` are
    handles.
    """

    url: str
    keys: dict[str, str]
    session: requests.Session

    @cached_property
    def answer(self) -> str:
        return str(self._post("/v1/chat/completions", CHAT)["attune"]["handles"][0])

    @cached_property
    def comparison(self) -> str:
        return str(self._post("/v1/comparisons", {**CHAT, "k": 3})["handle"])

    def bearer(self, name: str) -> dict[str, str]:
        """Headers with one of the keys."""
        return {"authorization": f"Bearer {self.keys[name]}"}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.session.post(self.url + path, json=body, headers=self.bearer("all")).json()
        return answer


@contextmanager
def live_server(folder: Path) -> Iterator[Live]:
    """Serve the policy `support`, with two candidates on its journal, until the context ends."""
    settings = ServerSettings.model_validate(
        {
            "server": {"data_dir": folder / "data", "api_keys": folder / "api-keys.json", "metrics_public": False},
            "engine": {"model": "none"},
        }
    )
    log, registry, keys = MemoryLog(), MemoryRegistry(), KeyFile(settings.server.api_keys)
    operator = Operator(log)
    for number in (1, 2):
        operator.candidate(number, publish(registry, folder, number).digest)
    listener = bound_socket("127.0.0.1", 0)
    started = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, uvicorn.Server]] = []

    async def serve() -> None:
        parts = Parts(InMemoryEngine(), log, registry, MemoryKeys(), keys, CollectorRegistry())
        application = build_app(settings, parts)
        async with application.running():
            config = uvicorn.Config(application.app, lifespan="off", log_config=None, access_log=False, ws="none")
            server = uvicorn.Server(config)
            loops.append((asyncio.get_running_loop(), server))
            started.set()
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="live-server")
    thread.start()
    try:
        assert started.wait(30)
        scopes = {scope.value: (scope,) for scope in Scope} | {"all": tuple(Scope)}
        made = {
            name: keys.create(
                tenant="acme", scopes=held, default_consent=ConsentLevel.TRAIN, may_name_completions=name == "all"
            )[1]
            for name, held in scopes.items()
        }
        host, port = listener.getsockname()
        with requests.Session() as session:
            yield Live(f"http://{host}:{port}", made, session)
    finally:
        for loop, server in loops:
            loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        thread.join(30)
        listener.close()
