"""A prepared demo folder whose whole server runs on the in-memory engine, over real HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from deploy.demo import domain
from deploy.demo.workplace import Workplace, prepare
from exchange.open import open_keys, open_log, open_registry
from server.app import Parts, build_app
from server.auth import KeyFile
from server.engine.memory import InMemoryEngine
from server.engine.memory_chat import Reply
from server.settings import load_settings


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def some_answer(model: str, prompt: str, seed: int) -> str:
    """An answer in any style to any question; now and then it fits."""
    return domain.demonstrations(1, seed)[0].answer


@pytest.fixture
def reply() -> Reply:
    """What the engine answers; a test file may have its own."""
    return some_answer


@pytest.fixture
async def place(tmp_path: Path, reply: Reply) -> AsyncIterator[Workplace]:
    """A prepared demo folder whose server runs, on the in-memory engine."""
    made = prepare(tmp_path / "demo", model="none", tiny=True, log_url=f"sqlite:///{tmp_path / 'log.db'}", seed=1)
    settings = load_settings(made.server_configs[0])
    with open_log(settings.server.log) as log, socket.socket() as listener:
        listener.bind((settings.server.host, settings.server.port))
        parts = Parts(
            engine=InMemoryEngine(reply=reply),
            log=log,
            registry=open_registry(settings.server.registry),
            keys=open_keys(settings.server.keys),
            api_keys=KeyFile(settings.server.api_keys),
            metrics_registry=CollectorRegistry(),
        )
        settings.server.data_dir.mkdir(parents=True, exist_ok=True)
        application = build_app(settings, parts)
        server = _Quiet(uvicorn.Config(application.app, lifespan="off", log_config=None, ws="none"))
        async with application.running():
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            async with httpx.AsyncClient(base_url=made.url) as http:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get("/livez")).is_success:
                            break
                    await asyncio.sleep(0.02)
            yield made
            server.should_exit = True
            await serving
        parts.keys.close()
