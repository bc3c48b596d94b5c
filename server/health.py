"""Whether this process is alive, and whether it may take traffic; /livez and /readyz.

With the event log away a replica is ready as long as its spool has room: chats do not need the log, and feedback is
safe in the spool. /readyz tells how both stand.

Busy replicas are judged by the tokens they make. An idle one is asked to make one, by a single background probe: a
probe per check would queue behind the load and evict busy replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from exchange.log.appender import Appender
from schemas.answers import ProcessStatus, Readiness
from schemas.base import now_ms
from schemas.errors import AttuneError
from server.control.follower import JournalFollower
from server.control.swap import Swapper
from server.engine.port import Engine
from server.metrics import ServerMetrics
from server.openapi import described
from server.request.consents import ConsentBook
from server.request.recorder import Recorder

log = logging.getLogger(__name__)

OK = "ok"


class Health:
    """Looks at the engine and at all that runs beside the chats. `draining` makes it unready for good."""

    def __init__(
        self,
        engine: Engine,
        swapper: Swapper,
        follower: JournalFollower,
        recorder: Recorder,
        appender: Appender,
        consents: ConsentBook,
        metrics: ServerMetrics,
        *,
        idle_s: float,
        probe_timeout_s: float,
    ) -> None:
        self._engine = engine
        self._swapper = swapper
        self._follower = follower
        self._recorder = recorder
        self._appender = appender
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
        if not self._recorder.alive:
            return "completions are not recorded any more"
        if not self._appender.alive:
            return "events are not brought to the log any more"
        return None

    def unready(self) -> str | None:
        """Why this replica must not get traffic now; None where it may. Never waits."""
        if self.draining:
            return "draining"
        if (why := self.dead()) is not None:
            return why
        if not self._swapper.settled:
            return "a stable version or canary is not loaded yet"
        state = self._appender.state()
        if state.away_since is not None and not state.has_room:
            return "the event log is away and the spool has no room"
        return self._no_progress()

    def readiness(self) -> Readiness:
        """Whether this replica may take traffic, and how its way to the event log stands. Never waits."""
        why, state, now = self.unready(), self._appender.state(), now_ms()
        return Readiness(
            status=why or OK,
            log="ok" if state.away_since is None else "away",
            log_away_seconds=_age(state.away_since, now),
            journal="followed" if self._follower.reachable else "away",
            queue_bytes=state.queue_bytes,
            spool_bytes=state.spool_bytes,
            spool_oldest_seconds=_age(state.spool_oldest_at, now),
        )

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
    router = APIRouter(tags=["process"])
    alive, ready = {200: ProcessStatus, 503: ProcessStatus}, {200: Readiness, 503: Readiness}

    @router.get("/livez", **described("Whether the process must be restarted", alive))
    async def livez() -> Response:
        return _answer(ProcessStatus(status=health.dead() or OK))

    @router.get("/readyz", **described("Whether this replica may take traffic", ready))
    async def readyz() -> Response:
        told = health.readiness()
        metrics.ready(told.status == OK)
        return _answer(told)

    return router


def _age(moment: int | None, now: int) -> float | None:
    return None if moment is None else round(max(0, now - moment) / 1000, 1)


def _answer(told: ProcessStatus) -> JSONResponse:
    return JSONResponse(told.model_dump(), status_code=200 if told.status == OK else 503)
