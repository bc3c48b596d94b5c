"""The composition root of the server: makes every part once, joins them, and ends them in the right order.

Knows all parts and decides nothing. The engine, the log, the registry and the key store are opened by whoever calls
`build_app`, and stay theirs to close.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from exchange.journal import PolicyJournal
from exchange.keys.port import KeyStore
from exchange.log.appender import Appender
from exchange.log.port import EventLog
from exchange.log.spool import Spool
from exchange.reading.accepted import AcceptedWords
from exchange.reading.completions import CompletionIndex
from exchange.reading.fates import Fates
from exchange.registry.port import Registry
from schemas.errors import AttuneError
from schemas.events import ReplicaReported
from schemas.wire import encode_event
from server.auth import KeyFile
from server.control.admin import Administration, admin_router
from server.control.erasures import Erasures, erasures_router
from server.control.explanations import explanations_router
from server.control.follower import JournalFollower
from server.control.last_served import LastServed
from server.control.raters import Raters, raters_router
from server.control.reports import ReplicaReports
from server.control.staging import AdapterStage, Limits
from server.control.swap import Swapper, SwapTimes
from server.engine.port import Engine
from server.fallbacks import install_fallbacks
from server.health import Health, health_router
from server.metrics import ServerMetrics, metrics_router
from server.openapi import install_description
from server.request.consents import ConsentBook
from server.request.description import engine_routes
from server.request.fates import FateDesk, fates_router
from server.request.guidance import GuidanceDesk, guidance_router
from server.request.models import models_router
from server.request.mount import install_request_path
from server.request.recorder import Recorder
from server.request.request_path import DAY_MS, RequestPath
from server.secrets import derive_secrets, load_secrets
from server.settings import ServerSettings

log = logging.getLogger(__name__)

FLUSH_S = 10.0
"""How long the last events may take to reach the log when the server stops."""


@dataclass(frozen=True)
class Parts:
    """What the server is joined from; opened by the caller."""

    engine: Engine
    log: EventLog
    registry: Registry
    keys: KeyStore
    api_keys: KeyFile
    metrics_registry: CollectorRegistry = field(default_factory=lambda: REGISTRY)


@dataclass(frozen=True)
class Application:
    """A server that is joined and not yet running."""

    app: FastAPI
    health: Health
    swapper: Swapper
    journal: PolicyJournal
    follower: JournalFollower
    recorder: Recorder
    appender: Appender
    spool: Spool
    metrics: ServerMetrics
    accepted: AcceptedWords
    completions: CompletionIndex
    consents: ConsentBook

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the journal and load versions while the context lasts; at its end, bring all events to the log.

        The log may be away: what the journal said last is served then, and events wait in the spool.
        """
        async with AsyncExitStack() as ending:
            ending.callback(self.spool.close)
            ending.callback(self.metrics.close)
            ending.callback(self.journal.close)
            ending.callback(self.accepted.close)
            ending.callback(self.completions.close)
            ending.push_async_callback(self._flush)
            ending.push_async_callback(self.swapper.close)
            ending.push_async_callback(self.follower.close)
            ending.push_async_callback(self.consents.close)
            ending.push_async_callback(self.health.close)
            await self.follower.start()
            await self.consents.start()
            self.swapper.start()
            yield

    async def _flush(self) -> None:
        sealed = await asyncio.to_thread(self.recorder.close, FLUSH_S)
        sent = await asyncio.to_thread(self.appender.close, FLUSH_S)
        if not (sealed and sent):
            log.error("some events reached neither the log nor the spool before the server stopped")
        elif not self.spool.empty:
            log.warning("%d bytes of events wait in the spool for the next start", self.spool.size_bytes)


def build_app(settings: ServerSettings, parts: Parts) -> Application:
    """Join the parts. Blocks on this replica's own files, never on the log.

    Raises:
        ConfigError: the secrets cannot be made or read, or another process uses the spool.
    """
    section = settings.server
    root = settings.chat.secret
    secrets = load_secrets(section.data_dir) if root is None else derive_secrets(root.get_secret_value())
    source = f"attune/server/{section.replica_id}"
    metrics = ServerMetrics(parts.metrics_registry)
    last_served = LastServed(section.data_dir / "served.json")
    journal = PolicyJournal(parts.log, source=source, presumed=last_served.load())
    spool = Spool(section.data_dir / "spool", max_bytes=settings.spool.max_bytes)
    appender = Appender(
        parts.log,
        spool=spool,
        dead_letters=section.data_dir / "spool" / "dead-letters",
        tally=metrics,
        max_queue_bytes=settings.chat.queue_bytes,
        spool_after_s=settings.spool.after_seconds,
        retry_s=settings.spool.retry_seconds,
    )

    def report(event: ReplicaReported) -> None:
        try:
            appender.submit(encode_event(event, source=source))
        except AttuneError as error:
            log.warning("what this replica serves could not be reported: %s", error)

    swapper = Swapper(
        parts.engine,
        journal,
        AdapterStage(parts.engine, parts.registry, section.data_dir / "adapters", _limits(settings, parts.engine)),
        metrics,
        policies=section.policies,
        slots=settings.engine.max_loras,
        times=SwapTimes(retry_s=settings.swap.retry_seconds, report_s=settings.swap.report_seconds),
        reports=ReplicaReports(section.replica_id, report),
    )
    follower = JournalFollower(
        journal, swapper.changed, lambda: last_served.keep(journal.state(policy) for policy in section.policies)
    )
    metrics.watch(appender=appender, spool=spool, reachable=lambda: follower.reachable)
    recorder = Recorder(
        keys=parts.keys,
        appender=appender,
        metrics=metrics,
        base_fingerprint=parts.engine.base_fingerprint,
        chat_template_hash=parts.engine.chat_template_hash,
        source=source,
    )
    consents = ConsentBook(parts.log, section.data_dir / "consents.db", settings.chat.unread_consents)
    health = Health(
        parts.engine,
        swapper,
        follower,
        recorder,
        appender,
        consents,
        metrics,
        idle_s=settings.health.idle_seconds,
        probe_timeout_s=settings.health.probe_timeout_seconds,
    )
    completions = CompletionIndex(parts.log)
    path = RequestPath(
        auth=parts.api_keys,
        secrets=secrets,
        routing=swapper.table,
        policies=section.policies,
        engine=parts.engine,
        recorder=recorder,
        consents=consents,
        appender=appender,
        keys=parts.keys,
        metrics=metrics,
        completions=completions,
        source=source,
        exploration_share=settings.chat.exploration_share,
        handle_ms=round(settings.chat.handle_days * DAY_MS),
        max_body_bytes=settings.chat.max_body_bytes,
        allowed_origins=settings.chat.allowed_origins,
        thumbs_metrics=settings.chat.thumbs_metrics,
    )
    administration = Administration(journal, swapper, section.policies, wait_s=settings.swap.admin_wait_seconds)
    accepted = AcceptedWords(parts.log)
    desk = FateDesk(parts.api_keys, secrets.keyring, accepted, Fates(parts.registry))
    app = FastAPI(title="Attune", docs_url=None, redoc_url=None, openapi_url=None)
    install_fallbacks(app)
    app.include_router(health_router(health, metrics))
    app.include_router(metrics_router(metrics, None if section.metrics_open else parts.api_keys))
    app.include_router(models_router(parts.api_keys, section.policies, int(time.time())))
    app.include_router(admin_router(administration, parts.api_keys))
    app.include_router(explanations_router(administration, journal, parts.registry, parts.api_keys))
    app.include_router(fates_router(desk))
    app.include_router(guidance_router(GuidanceDesk(parts.registry, section.policies), parts.api_keys))
    erasures = Erasures(
        path, parts.log, parts.registry, administration, work=section.data_dir / "erasures", backups=section.backups
    )
    app.include_router(erasures_router(erasures))
    app.include_router(raters_router(Raters(path, parts.log, administration)))
    install_request_path(app, path)
    install_description(app, engine_routes())
    return Application(
        app=app,
        health=health,
        swapper=swapper,
        journal=journal,
        follower=follower,
        recorder=recorder,
        appender=appender,
        spool=spool,
        metrics=metrics,
        accepted=accepted,
        completions=completions,
        consents=consents,
    )


PROBE_TOLERANCE = {"float32": 0.01}
HALF_PRECISION_TOLERANCE = 0.25
"""Nats per token. bfloat16 keeps 8 bits, and over the layers of a real model that adds up to about a tenth."""


def _limits(settings: ServerSettings, engine: Engine) -> Limits:
    tolerance = settings.swap.probe_tolerance
    if tolerance is None:
        tolerance = PROBE_TOLERANCE.get(engine.dtype, HALF_PRECISION_TOLERANCE)
    return Limits(
        max_lora_rank=settings.engine.max_lora_rank,
        max_adapter_bytes=settings.swap.max_adapter_bytes,
        probe_tolerance=tolerance,
    )
