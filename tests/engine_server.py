"""A real engine behind HTTP on a free port, in a thread with an event loop of its own, for tests.

A header stands for what the real server's middleware knows: a request with `X-Test-Completion: ID` is recorded under
ID.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.completion import Arm, Consent, ConsentLevel, Shown
from server.engine.port import Engine
from server.engine.record import EngineRecord
from server.engine.settings import EngineSettings
from server.request.context import RequestContext, current_request

T = TypeVar("T")
BASE_NAME = "support@v0"
START_SECONDS = 400
ENGINE_MARKS = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(vllm|torch|transformers|peft|uvicorn|websockets)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(vllm|torch|transformers|peft)"),
]
"""`pytestmark` of every module that uses the shared engine: third-party deprecations are not ours to fix."""


def request_context(completion_id: str) -> RequestContext:
    """A context with nothing of interest but its completion id."""
    return RequestContext(
        completion_id=completion_id,
        protocol="chat.completions",
        policy="support",
        version=0,
        adapter_digest=None,
        arm=Arm.STABLE,
        shown=Shown.DIRECT,
        tenant="acme",
        api_key_id="key",
        end_user=None,
        conversation=completion_id,
        consent=Consent(level=ConsentLevel.TRAIN, source="request"),
        messages=(),
    )


@dataclass
class EngineServer:
    """The engine, its address, and everything it recorded."""

    engine: Engine
    url: str
    loop: asyncio.AbstractEventLoop
    records: list[EngineRecord] = field(default_factory=list)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float = 120) -> T:
        """Run a coroutine on the engine's own loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def all_records(self, completion_id: str) -> list[EngineRecord]:
        """Records so far under this completion id."""
        return [record for record in self.records if record.context.completion_id == completion_id]

    def record(self, completion_id: str, timeout: float = 20) -> EngineRecord:
        """The one record under this completion id, waited for; fails when there is none or more than one."""
        deadline = time.monotonic() + timeout
        while not (found := self.all_records(completion_id)):
            assert time.monotonic() < deadline, f"no record for {completion_id}"
            time.sleep(0.02)
        assert len(found) == 1
        return found[0]


class _ContextFromHeader:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = dict(scope.get("headers", ())).get(b"x-test-completion")
        if header is None:
            await self._app(scope, receive, send)
            return
        token = current_request.set(request_context(header.decode()))
        try:
            await self._app(scope, receive, send)
        finally:
            current_request.reset(token)


@contextlib.contextmanager
def serve_engine(model: Path, **vllm_args: Any) -> Iterator[EngineServer]:
    """Start vLLM on `model` and serve its app; stop both when the context ends."""
    ready: threading.Event = threading.Event()
    started: list[EngineServer] = []
    failure: list[BaseException] = []
    stop: list[uvicorn.Server] = []

    async def run() -> None:
        from server.engine.build import open_engine

        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        settings = EngineSettings(
            model=str(model),
            base_names=(BASE_NAME,),
            max_loras=3,
            vllm_args={"enforce-eager": True, "dtype": "float32", "max-model-len": 512} | vllm_args,
        )
        async with open_engine(settings) as engine:
            listener = socket.create_server(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            here = EngineServer(engine, address, asyncio.get_running_loop())
            engine.set_sink(here.records.append)
            server = uvicorn.Server(
                uvicorn.Config(_ContextFromHeader(engine.app), lifespan="off", log_level="warning", ws="none")
            )
            started.append(here)
            stop.append(server)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            ready.set()
            await serving

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="engine-server")
    thread.start()
    try:
        assert ready.wait(START_SECONDS), "the engine did not start"
        if failure:
            raise failure[0]
        yield started[0]
    finally:
        for server in stop:
            server.should_exit = True
        thread.join(60)
