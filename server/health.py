"""Whether this process is alive, and whether it may take traffic; /livez and /readyz.

Busy replicas are judged by the tokens they make. An idle one is asked to make one, by a single background probe: a
probe per check would queue behind the load and evict busy replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from schemas.errors import AttuneError
from server.control.follower import JournalFollower
from server.control.swap import Swapper
from server.engine.port import Engine
from server.metrics import ServerMetrics
from server.request.consents import ConsentBook

log = logging.getLogger(__name__)


class Health:
    """Looks at the engine, the swapper and the follower. `drain` makes this replica unready for good."""

    def __init__(
        self,
        engine: Engine,
        swapper: Swapper,
        follower: JournalFollower,
        consents: ConsentBook,
        metrics: ServerMetrics,
        *,
        idle_s: float,
        probe_timeout_s: float,
    ) -> None:
        self._engine = engine
        self._swapper = swapper
        self._follower = follower
        self._consents = consents
        self._metrics = metrics
        self._idle_s = idle_s
        self._probe_timeout_s = probe_timeout_s
        self._probe: asyncio.Task[None] | None = None
        self._probe_began = 0.0
        self._stuck: str | None = None
        self.draining = False

    def dead(self) -> str | None:
        """Why only a new process can help; None while this one is alive."""
        if self._engine.errored:
            return "the engine has died"
        if not self._follower.alive:
            return "the policy journal is not followed any more"
        if not self._consents.alive:
            return "changes of consent are not followed any more"
        if not self._swapper.alive:
            return "versions are not loaded any more"
        return None

    def unready(self) -> str | None:
        """Why this replica must not get traffic now; None where it may. Never waits."""
        if self.draining:
            return "draining"
        if (why := self.dead()) is not None:
            return why
        if not self._swapper.settled:
            return "a stable version or canary is not loaded yet"
        return self._no_progress()

    async def close(self) -> None:
        """End a probe that is under way."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    def _no_progress(self) -> str | None:
        if self._engine.progress_age_s() < self._idle_s:
            self._stuck = None
            return None
        if self._probe is None or self._probe.done():
            self._probe_began = time.monotonic()
            self._probe = asyncio.create_task(self._ask(), name="attune-probe")
        elif time.monotonic() - self._probe_began > self._probe_timeout_s:
            self._stuck = f"the engine made no token in {self._engine.progress_age_s():.0f} s"
        return self._stuck

    async def _ask(self) -> None:
        try:
            await self._engine.probe(self._engine.base_names[0])
        except AttuneError as error:
            log.warning("the engine cannot answer a probe: %s", error)
            self._stuck = "the engine cannot answer a probe"
        else:
            self._stuck = None


def health_router(health: Health, metrics: ServerMetrics) -> APIRouter:
    """GET /livez and /readyz: 200 or 503, with the reason in `status`."""
    router = APIRouter()

    @router.get("/livez", tags=["health"], summary="Whether the process must be restarted")
    async def livez() -> Response:
        return _answer(health.dead())

    @router.get("/readyz", tags=["health"], summary="Whether this replica may take traffic")
    async def readyz() -> Response:
        why = health.unready()
        metrics.ready(why is None)
        return _answer(why)

    return router


def _answer(why: str | None) -> JSONResponse:
    return JSONResponse({"status": why or "ok"}, status_code=200 if why is None else 503)
