"""Attune's own Prometheus metrics, in one registry with the engine's, and the route that shows them.

Labels are bounded: policies, arms, kinds and outcomes, never users, conversations or free text. Versions are values,
not labels, because their number grows for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from exchange.log.appender import Appender
from exchange.log.spool import Spool
from schemas.base import now_ms
from server.auth import KeyFile, Scope
from server.openapi import described

SWAP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class ServerMetrics:
    """The metrics of one server. `close` takes them out of the registry again."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._requests = Counter(
            "attune_requests", "Generation requests.", ["policy", "arm", "outcome"], registry=registry
        )
        self._feedback = Counter(
            "attune_feedback", "Pieces of feedback.", ["policy", "kind", "outcome"], registry=registry
        )
        self._recorded = Counter(
            "attune_completions_recorded",
            "Completion events by what became of them.",
            ["policy", "outcome"],
            registry=registry,
        )
        self._expired = Counter(
            "attune_log_records_expired",
            "Records dropped from the embedded log for their age.",
            ["retention"],
            registry=registry,
        )
        self._dropped = Counter(
            "attune_events_dropped", "Events that were not kept, by reason.", ["topic", "reason"], registry=registry
        )
        self._failed = Counter(
            "attune_log_delivery_failures", "Deliveries that the log did not take.", ["reason"], registry=registry
        )
        self._buried = Counter(
            "attune_dead_letters", "Events that the log refused for good.", ["where"], registry=registry
        )
        self._damaged = Gauge(
            "attune_spool_damaged", "Damaged stretches found in the spool since the start.", registry=registry
        )
        self._spool = Gauge("attune_spool_bytes", "Bytes on disk that wait for the event log.", registry=registry)
        self._spool_cap = Gauge("attune_spool_max_bytes", "The most that the spool may hold.", registry=registry)
        self._spool_age = Gauge(
            "attune_spool_age_seconds", "Age of the oldest event that waits on disk; 0 is none.", registry=registry
        )
        self._away = Gauge(
            "attune_log_away_seconds", "For how long the log has taken nothing; 0 while it takes.", registry=registry
        )
        self._delivery = Gauge(
            "attune_log_last_delivery_timestamp_seconds", "When the log last took something; 0 is never.",
            registry=registry,
        )  # fmt: skip
        self._queue = Gauge("attune_recorder_queue_bytes", "Bytes that wait for the event log.", registry=registry)
        self._swap = Histogram(
            "attune_swap_seconds",
            "From a journal entry to routing by it.",
            ["policy", "arm"],
            buckets=SWAP_BUCKETS,
            registry=registry,
        )
        self._load = Histogram(
            "attune_adapter_load_seconds",
            "Fetch, check, load and probe of an adapter.",
            ["policy", "outcome"],
            buckets=SWAP_BUCKETS,
            registry=registry,
        )
        self._served = Gauge(
            "attune_served_version", "Version by arm; -1 is none.", ["policy", "arm"], registry=registry
        )
        self._share = Gauge(
            "attune_canary_share", "Share of traffic that the canary gets.", ["policy"], registry=registry
        )
        self._generation = Gauge(
            "attune_journal_generation", "Generation of the policy journal.", ["policy"], registry=registry
        )
        self._refused = Gauge(
            "attune_adapters_refused", "Wanted versions that this replica cannot serve.", ["policy"], registry=registry
        )
        self._loaded = Gauge("attune_adapters_loaded", "Adapters in the engine.", ["policy"], registry=registry)
        self._reachable = Gauge("attune_journal_reachable", "1 while the journal can be read.", registry=registry)
        self._ready = Gauge("attune_ready", "1 while this replica may take traffic.", registry=registry)
        self._all: tuple[Collector, ...] = (
            self._requests, self._feedback, self._recorded, self._queue, self._swap, self._load, self._served,
            self._share, self._generation, self._refused, self._loaded, self._reachable, self._ready, self._expired,
            self._dropped, self._failed, self._buried, self._damaged, self._spool, self._spool_cap, self._spool_age,
            self._away, self._delivery,
        )  # fmt: skip

    def request(self, policy: str, arm: str, outcome: str) -> None:
        """One generation request ended. `outcome`: ok, refused, error or aborted."""
        self._requests.labels(policy, arm, outcome).inc()

    def feedback(self, policy: str, kind: str, outcome: str) -> None:
        """One piece of feedback was answered. `outcome`: stored, repeated, refused or unavailable."""
        self._feedback.labels(policy, kind, outcome).inc()

    def expired(self, retention: str, number: int) -> None:
        """Records of a retention class were too old."""
        self._expired.labels(retention).inc(number)

    def recorded(self, policy: str, outcome: str) -> None:
        """One completion event became durable, or was dropped. `outcome`: stored, spooled, dropped or failed."""
        self._recorded.labels(policy, outcome).inc()

    def swapped(self, policy: str, arm: str, seconds: float) -> None:
        """This replica began to route `arm` by a new version, `seconds` after the journal entry was written."""
        self._swap.labels(policy, arm).observe(max(0.0, seconds))

    def adapter_load(self, policy: str, outcome: str, seconds: float) -> None:
        """An adapter was brought in. `outcome`: loaded, refused or unavailable."""
        self._load.labels(policy, outcome).observe(seconds)

    def serving(
        self, policy: str, *, stable: int, canary: int | None, share: float, generation: int, loaded: int, refused: int
    ) -> None:
        """What this replica routes by now."""
        self._served.labels(policy, "stable").set(stable)
        self._served.labels(policy, "canary").set(-1 if canary is None else canary)
        self._share.labels(policy).set(share)
        self._generation.labels(policy).set(generation)
        self._loaded.labels(policy).set(loaded)
        self._refused.labels(policy).set(refused)

    def dropped(self, topic: str, reason: str) -> None:
        """One event was not kept: see `exchange.log.tally`; also `sealing_queue_full`, `key_store` and `invalid`."""
        self._dropped.labels(topic, reason).inc()

    def failed(self, reason: str) -> None:
        """The log did not take a batch: see `exchange.log.tally`."""
        self._failed.labels(reason).inc()

    def buried(self, where: str) -> None:
        """The log refused an event for good, and it lies in the `topic`, in the `file`, or is `lost`."""
        self._buried.labels(where).inc()

    def watch(self, *, appender: Appender, spool: Spool, reachable: Callable[[], bool]) -> None:
        """Read these whenever the metrics are shown."""
        self._queue.set_function(lambda: appender.pending_bytes)
        self._spool.set_function(lambda: spool.size_bytes)
        self._spool_cap.set(spool.max_bytes)
        self._spool_age.set_function(lambda: _seconds_since(spool.oldest_at))
        self._damaged.set_function(lambda: spool.damaged)
        self._away.set_function(lambda: _seconds_since(appender.state().away_since))
        self._delivery.set_function(lambda: (appender.state().delivered_at or 0) / 1000)
        self._reachable.set_function(reachable)

    def ready(self, ready: bool) -> None:
        """The latest answer of /readyz."""
        self._ready.set(ready)

    def text(self) -> bytes:
        """All metrics of the registry in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Take these metrics out of the registry."""
        for collector in self._all:
            self._registry.unregister(collector)


def _seconds_since(moment: int | None) -> float:
    return 0.0 if moment is None else max(0.0, (now_ms() - moment) / 1000)


def metrics_router(metrics: ServerMetrics, keys: KeyFile | None) -> APIRouter:
    """GET /metrics, for a key with the scope read or admin; for everyone where `keys` is None."""
    router = APIRouter(tags=["process"])
    scopes = (Scope.READ, Scope.ADMIN)
    about = "Prometheus metrics, the engine's and our own; without a key where the settings say so"

    @router.get("/metrics", **described(about, {200: "text/plain"}, scopes=scopes, or_nothing=True))
    def show(request: Request) -> Response:
        if keys is not None:
            keys.authorize(request.headers.get("authorization"), *scopes)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router
