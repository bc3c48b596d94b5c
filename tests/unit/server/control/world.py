"""One log and one registry with made-up adapters, and replicas on them without vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from exchange.journal import PolicyJournal
from exchange.log.port import EventLog
from exchange.registry.artifacts import describe_folder
from exchange.registry.port import Registry
from schemas.base import new_id, now_ms
from schemas.events import ReplicaReported
from schemas.journal import (
    CanaryStarted,
    CandidatePublished,
    JournalEntry,
    LeaseAcquired,
    VersionPromoted,
    VersionReserved,
    VersionRolledBack,
)
from schemas.lifecycle import PolicyState
from schemas.manifests import AdapterManifest, GateReport, Probe, files_digest
from server.control.follower import JournalFollower
from server.control.reports import ReplicaReports
from server.control.staging import AdapterStage, Limits
from server.control.swap import Swapper, SwapTimes
from server.engine.memory import InMemoryEngine
from server.engine.memory_chat import canned_logprob
from server.metrics import ServerMetrics
from tests.adapters import RANK, TARGETS, adapter_files, write_files

POLICY = "support"
ENGINE = InMemoryEngine()  # for its constants only
LIMITS = Limits(max_lora_rank=16, max_adapter_bytes=1_000_000, probe_tolerance=1e-2)


def probe(name: str) -> Probe:
    """What the in-memory engine will say of `name`."""
    answer = (104, 105)
    logprobs = tuple(canned_logprob(name, position, token) for position, token in enumerate(answer))
    return Probe(prompt_token_ids=(1, 2), answer_token_ids=answer, logprobs=logprobs)


def publish(
    registry: Registry, folder: Path, version: int, files: Mapping[str, bytes] | None = None, **changes: Any
) -> AdapterManifest:
    """Put a made-up adapter into the registry; `changes` are manifest fields that are to differ."""
    source = folder / f"made-{version}-{new_id('x')}"
    write_files(source, adapter_files(version) if files is None else files)
    described = describe_folder(source)
    facts: dict[str, Any] = {
        "policy": POLICY,
        "version": version,
        "parent": 0,
        "created_at": now_ms(),
        "files": described,
        "digest": files_digest(described),
        "base_fingerprint": ENGINE.base_fingerprint,
        "chat_template_hash": ENGINE.chat_template_hash,
        "rank": RANK,
        "target_modules": TARGETS,
        "snapshot": "0" * 64,
        "reward_model": "1" * 64,
        "gates": GateReport(results=()),
        "kl_nats_per_sequence": 0.5,
        "kl_budget_nats_per_sequence": 6.0,
        "recipe": {},
        "probes": (probe(f"{POLICY}@v{version}"),),
        "code_version": "test",
        "seed": 0,
    }
    manifest = AdapterManifest.model_validate(facts | changes)
    registry.publish_adapter(source, manifest)
    return manifest


class Operator:
    """Writes journal entries, as a trainer and an operator do."""

    def __init__(self, log: EventLog, policy: str = POLICY) -> None:
        self._journal = PolicyJournal(log)
        self._policy = policy

    def _propose(self, kind: type[JournalEntry], **facts: Any) -> PolicyState:
        entry: Any = kind(id=new_id("je"), at=now_ms(), policy=self._policy, actor="tester", **facts)
        return self._journal.propose(entry)

    def candidate(self, version: int, digest: str) -> PolicyState:
        """Lease, reserve and announce."""
        epoch = self._propose(LeaseAcquired, holder="tester", ttl_ms=60_000).lease.epoch
        self._propose(VersionReserved, epoch=epoch, version=version)
        return self._propose(
            CandidatePublished, epoch=epoch, version=version, digest=digest, parent=0, kl_nats_per_sequence=0.5
        )

    def canary(self, version: int, share: float = 0.5) -> PolicyState:
        return self._propose(CanaryStarted, version=version, share=share)

    def promote(self, version: int) -> PolicyState:
        return self._propose(VersionPromoted, version=version)

    def rollback(self, version: int, to: int | None = None) -> PolicyState:
        return self._propose(VersionRolledBack, version=version, to=to)


@dataclass
class Replica:
    """One server replica without HTTP."""

    engine: InMemoryEngine
    journal: PolicyJournal
    follower: JournalFollower
    swapper: Swapper
    metrics: ServerMetrics
    registry: CollectorRegistry
    reports: list[ReplicaReported] = field(default_factory=list)

    def routed(self) -> tuple[int, int | None]:
        table = self.swapper.table(POLICY)
        return table.stable, table.canary

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def replica(
    log: EventLog, registry: Registry, cache: Path, *, name: str = "r1", slots: int = 4, seconds_per_step: float = 0.0
) -> AsyncIterator[Replica]:
    """A replica that follows `log` until the context ends."""
    engine = InMemoryEngine(seconds_per_step=seconds_per_step)
    journal = PolicyJournal(log)
    metrics_registry = CollectorRegistry()
    metrics = ServerMetrics(metrics_registry)
    reports: list[ReplicaReported] = []
    swapper = Swapper(
        engine,
        journal,
        AdapterStage(engine, registry, cache, LIMITS),
        metrics,
        policies=(POLICY,),
        slots=slots,
        times=SwapTimes(retry_s=0.1, report_s=30.0),
        reports=ReplicaReports(name, reports.append),
    )
    follower = JournalFollower(journal, swapper.changed)
    await follower.start()
    swapper.start()
    try:
        yield Replica(engine, journal, follower, swapper, metrics, metrics_registry, reports)
    finally:
        await follower.close()
        await swapper.close()
        journal.close()


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
