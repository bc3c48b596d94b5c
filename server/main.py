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
from collections.abc import Iterator
from functools import partial

import uvicorn
import uvloop

from exchange.open import open_keys, open_log, open_registry
from exchange.privacy.erasures import read_erasures, replay_erasures
from exchange.privacy.retention import Sweeper, expire_log
from schemas.errors import ConfigError
from server.app import Application, Parts, build_app
from server.auth import KeyFile
from server.settings import ServerSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0
KEEP_ALIVE_S = 75
"""Longer than HTTP clients and proxies keep an idle connection: whoever closes first must be the one who sends, or a
request now and then meets a connection that is just being closed."""
"""Seconds between two looks at whether the process must end because a part of it died."""


class _HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: it would end the process by the signal instead of with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(settings: ServerSettings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 after a drain, 1 where a part of the server died.

    A second signal ends the requests that are still in flight. Raises AttuneError where the server cannot start.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # while it starts, stop as for Ctrl-C
    try:
        return uvloop.run(_serve(settings))
    except KeyboardInterrupt:
        log.info("stopped before it served")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


async def _serve(settings: ServerSettings) -> int:
    from server.engine.build import open_engine  # loads vLLM, which takes seconds: not before it is needed

    section = settings.server
    with contextlib.ExitStack() as opened:
        # The port first: that it is taken should show before a model is loaded.
        listener = opened.enter_context(bound_socket(section.host, section.port))
        api_keys = KeyFile(section.api_keys)
        event_log = opened.enter_context(open_log(section.log))
        registry = open_registry(section.registry)
        keys = open_keys(section.keys)
        opened.callback(keys.close)
        replay_erasures(read_erasures(event_log), keys)
        section.data_dir.mkdir(parents=True, exist_ok=True)
        level = logging.getLogger().level
        async with open_engine(settings.engine_settings()) as engine:
            logging.getLogger().setLevel(level)  # a dependency of vLLM sets it to ERROR when it is imported
            parts = Parts(engine=engine, log=event_log, registry=registry, keys=keys, api_keys=api_keys)
            application = build_app(settings, parts)
            sweep = partial(expire_log, event_log)
            with Sweeper(section.retention_days, sweep, application.metrics.expired):
                return await serve(settings, application, listener)


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


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", field="server.port", remedy="Choose another port."
        ) from error
    return bound
