"""The server behind a real socket: continuous load while versions change, and a drain by signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from prometheus_client import CollectorRegistry

from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.registry.port import Registry
from schemas.completion import ConsentLevel
from schemas.errors import ConfigError
from server.app import Application, Parts, build_app
from server.auth import KeyFile, Scope
from server.engine.memory import InMemoryEngine
from server.main import _serve, bound_socket, serve
from server.settings import ServerSettings
from tests.unit.server.control.world import Operator, publish, until

CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "where is my order?"}]}


@dataclass
class Serving:
    """A server that serves, and the task that does."""

    url: str
    headers: dict[str, str]
    application: Application
    engine: InMemoryEngine
    task: asyncio.Task[int]


@asynccontextmanager
async def serving(
    log: MemoryLog, registry: Registry, folder: Path, *, seconds_per_step: float, **section: Any
) -> AsyncIterator[Serving]:
    values = {"data_dir": folder / "data", "api_keys": folder / "api-keys.json", **section}
    settings = ServerSettings.model_validate({"engine": {"model": "none"}, "server": values})
    keys = KeyFile(settings.server.api_keys)
    _, text = keys.create(tenant="acme", scopes=tuple(Scope), default_consent=ConsentLevel.TRAIN)
    engine = InMemoryEngine(seconds_per_step=seconds_per_step)
    application = build_app(settings, Parts(engine, log, registry, MemoryKeys(), keys, CollectorRegistry()))
    with bound_socket("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(serve(settings, application, listener))
        async with asyncio.timeout(10), httpx.AsyncClient() as http:
            while not await _answers(http, url):
                await asyncio.sleep(0.01)
        try:
            yield Serving(url, {"authorization": f"Bearer {text}"}, application, engine, task)
        finally:
            if not task.done():
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(task, 20)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_no_chat_fails_while_versions_are_promoted_and_taken_back(registry: Registry, tmp_path: Path) -> None:
    log = MemoryLog()
    operator = Operator(log)
    for number in (1, 2, 3):
        operator.candidate(number, publish(registry, tmp_path, number).digest)
    async with serving(log, registry, tmp_path, seconds_per_step=0.002) as server:
        stop, statuses, spoke = asyncio.Event(), Counter[int](), Counter[str]()
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=20) as http:

            async def user(number: int) -> None:
                while not stop.is_set():
                    body = {**CHAT, "user": f"u{number}", "stream": bool(number % 2)}
                    answer = await http.post("/v1/chat/completions", json=body)
                    statuses[answer.status_code] += 1
                    spoke[answer.headers["attune-version"]] += 1
                    if number % 2:
                        assert answer.text.rstrip().endswith("data: [DONE]")

            async with asyncio.TaskGroup() as group:
                for number in range(6):
                    group.create_task(user(number))
                for number in (1, 2, 3):
                    for path, body in (
                        ("promote", {"version": f"support@v{number}"}),
                        ("rollback", {}),
                        ("promote", {"version": f"support@v{number}"}),
                    ):
                        answer = await http.post(f"/v1/admin/policies/support/{path}", json=body)
                        assert answer.status_code == 200, answer.text
                        before = statuses.total()
                        await until(lambda: statuses.total() > before + 6)  # noqa: B023
                stop.set()
        assert set(statuses) == {200}
        assert set(spoke) == {"support@v0", "support@v1", "support@v2", "support@v3"}


async def test_sigterm_lets_answers_end_takes_no_new_ones_and_flushes(registry: Registry, tmp_path: Path) -> None:
    log = MemoryLog()
    async with serving(log, registry, tmp_path, seconds_per_step=0.1, notice_seconds=0.2) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=20) as http:
            answer = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
            await until(lambda: server.engine.in_flight("support@v0") > 0)
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: server.application.health.draining)
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            await asyncio.sleep(0.35)
            assert not answer.done()
            async with httpx.AsyncClient(base_url=server.url) as late:
                with pytest.raises(httpx.ConnectError):
                    await late.get("/readyz")
            assert (await answer).json()["choices"][0]["finish_reason"] == "stop"
        assert await asyncio.wait_for(server.task, 10) == 0
    ends = [log.end_offset(TopicPartition("attune.completions", number)) for number in range(6)]
    assert sum(ends) == 1


async def test_a_drain_has_an_end(registry: Registry, tmp_path: Path) -> None:
    async with (
        serving(MemoryLog(), registry, tmp_path, seconds_per_step=5.0, drain_seconds=1.0) as server,
        httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=20) as http,
    ):
        answer = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        await until(lambda: server.engine.in_flight("support@v0") > 0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(server.task, 4) == 0
        assert (await answer).status_code == 500


async def test_a_dead_engine_ends_the_process_with_1(registry: Registry, tmp_path: Path) -> None:
    async with serving(MemoryLog(), registry, tmp_path, seconds_per_step=0.0) as server:
        server.engine.errored = True
        assert await asyncio.wait_for(server.task, 10) == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            bound_socket("127.0.0.1", port)


async def test_small_answers_are_not_held_back() -> None:
    """Nagle's algorithm would wait for the client to acknowledge the headers before it sends the body."""
    delays = asyncio.Queue[int]()

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        await delays.put(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bound_socket("127.0.0.1", 0) as listener:
        server = await asyncio.start_server(accepted, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(delays.get(), 5) != 0
            writer.close()
            await writer.wait_closed()


async def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outside = {"port": 0, "log": "memory:", "registry": "memory:", "keys": "memory:"}
    inside = {"data_dir": tmp_path / "file" / "data", "api_keys": tmp_path / "api-keys.json"}
    settings = ServerSettings.model_validate({"engine": {"model": "none"}, "server": {**outside, **inside}})

    def no_engine(_: object) -> NoReturn:
        pytest.fail("nothing is started that cannot serve")

    with pytest.raises(ConfigError, match="cannot be made") as refused:
        await _serve(settings, no_engine)
    assert refused.value.field == "server.data_dir"
