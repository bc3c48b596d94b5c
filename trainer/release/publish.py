"""From a judged candidate to a version: reserve the number, store the adapter, announce it, give it its first traffic.

Order matters. A number is reserved before it is filled, so a crash leaves a gap and never two versions of one number;
the adapter lies complete in the registry before the journal speaks of it; each step can be repeated after a crash.
A candidate that failed a gate keeps its number and its report, and its adapter goes nowhere.
Knows journal, registry and lease; knows nothing of learning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue

from exchange.durable import write_whole
from exchange.journal import PolicyJournal
from exchange.registry.artifacts import describe_folder
from exchange.registry.port import Registry
from schemas.base import Record, Sha256, VersionNumber, new_id, now_ms, version_name
from schemas.errors import Refused
from schemas.journal import CanaryStarted, CandidatePublished, JournalEntry, VersionRejected, VersionReserved
from schemas.lifecycle import PolicyState, Stage
from schemas.manifests import (
    AdapterManifest,
    AnswerExample,
    FileDigest,
    GateReport,
    GuidanceInForce,
    Probe,
    canonical_json,
    files_digest,
)
from schemas.reports import CURVES_FILE, Curves
from trainer.gates.judge import failures_in_words
from trainer.release.lease import TrainerLease

log = logging.getLogger(__name__)
_ATTEMPTS = 5
_T = TypeVar("_T")
_E = TypeVar("_E", bound=JournalEntry)


class ParentMoved(Refused):
    """The stable version changed while a candidate was trained: it continues from what no longer serves."""


@dataclass(frozen=True)
class Candidate:
    """Everything a version's manifest says of its making, but for its number and the time."""

    folder: Path
    """PEFT's files."""
    parent: int
    base_fingerprint: str
    chat_template_hash: str
    rank: int
    target_modules: tuple[str, ...]
    snapshot: str
    reward_model: str
    gates: GateReport
    kl_nats_per_sequence: float
    kl_budget_nats_per_sequence: float
    recipe: Mapping[str, JsonValue]
    probes: tuple[Probe, ...]
    metrics: Mapping[str, float]
    code_version: str
    seed: int
    examples: tuple[AnswerExample, ...] = ()
    curves: Curves | None = None
    """Of its training."""
    guidance: tuple[GuidanceInForce, ...] = ()
    """Of its snapshot."""


class Report(Record):
    """The gate report of a candidate, kept whether or not it passed."""

    policy: str
    version: VersionNumber
    parent: VersionNumber
    snapshot: Sha256
    reward_model: Sha256
    digest: Sha256
    gates: GateReport
    metrics: dict[str, float]
    examples: tuple[AnswerExample, ...] = ()


@dataclass(frozen=True)
class Published:
    """What became of a candidate."""

    version: int
    passed: bool
    canary: bool
    reason: str
    report: str
    """Digest of the gate report in the registry."""


@dataclass(frozen=True)
class Publisher:
    """Writes versions of one policy under one lease."""

    journal: PolicyJournal
    registry: Registry
    lease: TrainerLease
    policy: str
    canary_share: float

    def reserve(self, parent: int) -> int:
        """Take the next version number.

        Raises:
            LeaseLost: another trainer makes versions now.
            ParentMoved: `parent` is not the stable version any more.
        """

        def attempt(epoch: int, state: PolicyState) -> int:
            number = state.next_version
            self.journal.propose(self._entry(VersionReserved, self._origin(parent), epoch=epoch, version=number))
            return number

        return self._fenced(parent, attempt)

    def publish(self, version: int, candidate: Candidate, work: Path) -> Published:
        """Publish a reserved version as canary, or reject it if a gate failed. Repeating it after a crash is harmless.

        Args:
            work: folder of the turn; holds the manifest between attempts, so that a repeat publishes the same bytes.

        Raises:
            LeaseLost: another trainer makes versions now; nothing was announced.
            ParentMoved: the parent is no longer stable; nothing was announced.
        """
        files = describe_folder(candidate.folder)
        report = self._publish_report(version, candidate, files_digest(files), work)
        if not candidate.gates.passed:
            reason = f"gates: {failures_in_words(candidate.gates)}"
            self.reject(version, reason)
            return Published(version, False, False, reason, report)
        manifest = _manifest(self.policy, version, candidate, files, report, work / "manifest.json")
        self.registry.publish_adapter(candidate.folder, manifest)
        self._announce(manifest)
        canary = self.start_canary(version, f"passed {len(candidate.gates.results)} gates")
        return Published(version, True, canary, f"passed {len(candidate.gates.results)} gates", report)

    def _publish_report(self, version: int, candidate: Candidate, digest: str, work: Path) -> str:
        folder = work / "report"
        folder.mkdir(parents=True, exist_ok=True)
        report = Report(
            policy=self.policy,
            version=version,
            parent=candidate.parent,
            snapshot=candidate.snapshot,
            reward_model=candidate.reward_model,
            digest=digest,
            gates=candidate.gates,
            metrics=dict(candidate.metrics),
            examples=candidate.examples,
        )
        write_whole(folder / "report.json", canonical_json(report))
        if candidate.curves is not None:
            write_whole(folder / CURVES_FILE, canonical_json(candidate.curves))
        return self.registry.publish_artifact("reports", folder, describe_folder(folder))

    def _announce(self, manifest: AdapterManifest) -> None:
        def attempt(epoch: int, state: PolicyState) -> None:
            if state.versions[manifest.version].stage is not Stage.RESERVED:
                return  # announced before a crash
            self.journal.propose(
                self._entry(
                    CandidatePublished,
                    self._origin(manifest.parent),
                    expected_generation=state.generation,
                    epoch=epoch,
                    version=manifest.version,
                    digest=manifest.digest,
                    parent=manifest.parent,
                    kl_nats_per_sequence=manifest.kl_nats_per_sequence,
                )
            )

        self._fenced(manifest.parent, attempt)

    def start_canary(self, version: int, reason: str) -> bool:
        """Give a candidate its share of the traffic; False where it is none, or another canary is there.

        Only a candidate: a version that an operator took back must not come back by a repeat.
        """
        stage = self._current().versions[version].stage
        if stage is not Stage.CANDIDATE:
            return stage is Stage.CANARY
        try:
            self.journal.propose(self._entry(CanaryStarted, reason, version=version, share=self.canary_share))
        except Refused as refused:
            log.warning("%s is no canary yet: %s", version_name(self.policy, version), refused.message)
            return False
        return True

    def reject(self, version: int, reason: str) -> None:
        """Reject a version; harmless where it already ended some other way (an operator was faster)."""
        if self._current().versions[version].stage in (Stage.REJECTED, Stage.ROLLED_BACK):
            return
        try:
            self.journal.propose(self._entry(VersionRejected, reason, version=version))
        except Refused as refused:
            log.warning("%s was not rejected: %s", version_name(self.policy, version), refused.message)

    def _fenced(self, parent: int, attempt: Callable[[int, PolicyState], _T]) -> _T:
        """Try an entry under the lease, again where someone else's entry came between, while `parent` is stable."""
        left = _ATTEMPTS
        while True:
            left -= 1
            with self.lease.fenced() as epoch:
                state = self._current()
                if state.stable != parent:
                    was, now = version_name(self.policy, parent), version_name(self.policy, state.stable)
                    raise ParentMoved(f"the stable version is {now} now, not {was}")
                try:
                    return attempt(epoch, state)
                except Refused:
                    if not left:
                        raise

    def _current(self) -> PolicyState:
        self.journal.refresh()
        return self.journal.state(self.policy)

    def _origin(self, parent: int) -> str:
        return f"trained from {version_name(self.policy, parent)}"

    def _entry(self, kind: type[_E], reason: str, **fields: Any) -> _E:
        made = {"id": new_id("je"), "at": now_ms(), "policy": self.policy, "actor": self.lease.holder}
        return kind.model_validate({**made, "reason": reason[:2000], **fields})


def _manifest(
    policy: str, version: int, candidate: Candidate, files: Mapping[str, FileDigest], report: str, kept: Path
) -> AdapterManifest:
    """The manifest, made once: the registry takes a repeat only if it is the very same."""
    digest = files_digest(files)
    if kept.exists():
        manifest = AdapterManifest.model_validate_json(kept.read_bytes())
        if (manifest.version, manifest.digest) == (version, digest):
            return manifest
    manifest = AdapterManifest(
        policy=policy,
        version=version,
        parent=candidate.parent,
        created_at=now_ms(),
        files=dict(files),
        digest=digest,
        base_fingerprint=candidate.base_fingerprint,
        chat_template_hash=candidate.chat_template_hash,
        rank=candidate.rank,
        target_modules=candidate.target_modules,
        snapshot=candidate.snapshot,
        reward_model=candidate.reward_model,
        gates=candidate.gates,
        kl_nats_per_sequence=candidate.kl_nats_per_sequence,
        kl_budget_nats_per_sequence=candidate.kl_budget_nats_per_sequence,
        recipe=dict(candidate.recipe),
        probes=candidate.probes,
        metrics=dict(candidate.metrics),
        code_version=candidate.code_version,
        seed=candidate.seed,
        examples=candidate.examples,
        report=report,
        guidance=candidate.guidance,
    )
    write_whole(kept, canonical_json(manifest))
    return manifest
