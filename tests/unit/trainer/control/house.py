"""A journal, a registry and a lease in memory, and a candidate of hand-made files, for the control tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exchange.journal import PolicyJournal
from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from exchange.open import open_registry
from exchange.registry.port import Registry
from schemas.manifests import GateReport, GateResult, Probe
from trainer.release.lease import TrainerLease
from trainer.release.publish import Candidate, Publisher

POLICY = "support"


@dataclass(frozen=True)
class House:
    """One trainer's view of a shared log."""

    log: EventLog
    journal: PolicyJournal
    registry: Registry
    lease: TrainerLease
    publisher: Publisher


@contextmanager
def open_house(holder: str = "trainer-a", log: EventLog | None = None, ttl_s: float = 60.0) -> Iterator[House]:
    own = log or MemoryLog()
    journal = PolicyJournal(own)
    registry = open_registry("memory:")
    lease = TrainerLease(journal, POLICY, holder, ttl_s)
    yield House(own, journal, registry, lease, Publisher(journal, registry, lease, POLICY, canary_share=0.25))
    journal.close()


def gate(passed: bool, words: str = "Measured.") -> GateReport:
    return GateReport(
        results=(GateResult(name="kl_budget", passed=passed, value=1.0, threshold=6.0, unit="nats", explanation=words),)
    )


def candidate(folder: Path, *, passed: bool = True, parent: int = 0, weights: bytes = b"weights") -> Candidate:
    files = folder / "adapter"
    files.mkdir(parents=True, exist_ok=True)
    (files / "adapter_model.safetensors").write_bytes(weights)
    (files / "adapter_config.json").write_text("{}", encoding="utf-8")
    return Candidate(
        folder=files,
        parent=parent,
        base_fingerprint="b" * 64,
        chat_template_hash="c" * 64,
        rank=4,
        target_modules=("q_proj", "v_proj"),
        snapshot="d" * 64,
        reward_model="e" * 64,
        gates=gate(passed, "KL of 9 nats is over the budget of 6."),
        kl_nats_per_sequence=1.5,
        kl_budget_nats_per_sequence=6.0,
        recipe={"seed": 1},
        probes=(Probe(prompt_token_ids=(1, 2), answer_token_ids=(3,), logprobs=(-0.5,)),),
        metrics={"steps": 3.0},
        code_version="0.0.0",
        seed=1,
    )
