"""The server process: opens what lies outside, starts the engine, serves until a signal, and leaves nothing unsaved.

Knows signals, sockets and exit codes; what is served is `server.app`'s matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog, require_configured
from exchange.open import open_keys, open_log, open_registry
from exchange.privacy.erasures import read_erasures, replay_erasures
from exchange.privacy.retention import Sweeper, expire_log
from schemas.errors import ConfigError, Unavailable
from server.app import Application, Parts, build_app
from server.auth import KeyFile
from server.engine.port import Engine
from server.engine.settings import EngineSettings
from server.settings import ServerSettings

log = logging.getLogger(__name__)

EngineOpener = Callable[[EngineSettings], AbstractAsyncContextManager[Engine]]

ERASURES_RETRY_S = 10.0
LOOK_S = 1.0
"""Seconds between two looks at whether the process must end because a part of it died."""
KEEP_ALIVE_S = 75
"""Longer than HTTP clients and proxies keep an idle connection: whoever closes first must be the one who sends, or a
request now and then meets a connection that is just being closed."""


class _HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: it would end the process by the signal instead of with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(settings: ServerSettings, engine: EngineOpener | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 after a drain, 1 where a part of the server died.

    A second signal ends the requests that are still in flight. Raises AttuneError where the server cannot start; an
    event log that is away is no reason.

    Args:
        engine: opens the engine; default: vLLM.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # while it starts, stop as for Ctrl-C
    try:
        return uvloop.run(_serve(settings, engine or _open_vllm))
    except KeyboardInterrupt:
        log.info("stopped before it served")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_vllm(settings: EngineSettings) -> AbstractAsyncContextManager[Engine]:
    from server.engine.build import open_engine  # loads vLLM, which takes seconds: not before it is needed

    return open_engine(settings)


async def _serve(settings: ServerSettings, open_engine: EngineOpener) -> int:
    section = settings.server
    with contextlib.ExitStack() as opened:
        # The port first: that it is taken should show before a model is loaded.
        listener = opened.enter_context(bound_socket(section.host, section.port))
        api_keys = KeyFile(section.api_keys)
        opening = partial(open_log, section.log, kafka=settings.kafka, registry=section.registry)
        event_log = opened.enter_context(await asyncio.to_thread(opening))
        await asyncio.to_thread(require_configured, event_log)
        registry = open_registry(section.registry)
        keys = open_keys(section.keys)
        opened.callback(keys.close)
        _make_folder(section.data_dir)
        level = logging.getLogger().level
        async with erasures_replayed(event_log, keys), open_engine(settings.engine_settings()) as engine:
            logging.getLogger().setLevel(level)  # a dependency of vLLM sets it to ERROR when it is imported
            parts = Parts(engine=engine, log=event_log, registry=registry, keys=keys, api_keys=api_keys)
            application = await asyncio.to_thread(build_app, settings, parts)
            sweep = partial(expire_log, event_log)
            with Sweeper(section.retention_days, sweep, application.metrics.expired):
                return await serve(settings, application, listener)


@contextlib.asynccontextmanager
async def erasures_replayed(event_log: EventLog, keys: KeyStore) -> AsyncIterator[None]:
    """Destroy again the keys of erased people that came back with an old copy of the key store.

    Before the context begins, or with the log away as soon as the log can be read.
    """

    def replay() -> bool:
        try:
            replay_erasures(read_erasures(event_log), keys)
        except Unavailable as error:
            log.warning("erasures cannot be read yet: %s", error)
            return False
        return True

    async def later() -> None:
        while not await asyncio.to_thread(replay):
            await asyncio.sleep(ERASURES_RETRY_S)

    if await asyncio.to_thread(replay):
        yield
        return
    trying = asyncio.create_task(later(), name="attune-erasures")
    try:
        yield
    finally:
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)


async def serve(settings: ServerSettings, application: Application, listener: socket.socket) -> int:
    """Serve on a bound socket until a signal comes or a part dies; returns the exit code."""
    section = settings.server
    config = uvicorn.Config(
        application.app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(section.drain_seconds),
    )
    server = _HttpServer(config)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _begin_drain, application, server, section.notice_seconds)
    async with application.running():
        watch = asyncio.create_task(_stop_when_dead(application, server))
        host, port = listener.getsockname()[:2]
        log.info("serving %s on http://%s:%d", ", ".join(section.policies), host, port)
        await server.serve(sockets=[listener])
        watch.cancel()
        dead = application.health.dead()
    log.info("stopped")
    return 0 if dead is None else 1


def _begin_drain(application: Application, server: uvicorn.Server, notice_s: float) -> None:
    if application.health.draining:
        server.should_exit = server.force_exit = True
        return
    log.info("draining: no new connections, requests in flight may end")
    application.health.draining = True
    asyncio.get_running_loop().call_later(notice_s, setattr, server, "should_exit", True)


async def _stop_when_dead(application: Application, server: uvicorn.Server) -> None:
    while (why := application.health.dead()) is None:
        await asyncio.sleep(LOOK_S)
    log.critical("the server stops: %s", why)
    server.should_exit = True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {folder} cannot be made: {error.strerror}",
            field="server.data_dir",
            remedy="Name one that this process may write.",
        ) from error


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: only then does asyncio switch off Nagle's delay, 40 ms for each small answer and token.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", field="server.port", remedy="Choose another port."
        ) from error
    return bound
