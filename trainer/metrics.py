"""The trainer's Prometheus metrics, in a registry of their own. Labels are bounded: stages and outcomes, never ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from schemas.errors import ConfigError


class TrainerMetrics:
    """What the trainer counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._steps = Gauge("attune_trainer_stage_progress", "Share of a stage done", ["stage"], registry=self.registry)
        self.turns = Counter(
            "attune_trainer_turns", "Turns by what became of them", ["outcome"], registry=self.registry
        )
        self.expired = Counter(
            "attune_trainer_rows_expired", "Ledger rows dropped for their age", ["retention"], registry=self.registry
        )
        self.labels = Gauge("attune_trainer_new_labels", "Usable labels since the last turn", registry=self.registry)
        self.trainable = Gauge(
            "attune_trainer_trainable_answers",
            "Answers of the last snapshot that PPO could use",
            registry=self.registry,
        )
        self.kl = Gauge(
            "attune_trainer_kl_nats_per_sequence", "KL of the last candidate to the base", registry=self.registry
        )
        self.accuracy = Gauge(
            "attune_trainer_reward_accuracy", "Held-out accuracy of the last reward model", registry=self.registry
        )
        self.lease = Gauge("attune_trainer_lease_held", "1 while this trainer makes versions", registry=self.registry)

    def step(self, stage: str, done: int, total: int) -> None:
        """A stage moved on."""
        self._steps.labels(stage=stage).set(done / total if total else 1.0)

    @contextmanager
    def served(self, port: int | None) -> Iterator[int | None]:
        """Serve them on a loopback port (0: a free one) inside the block; yields the port. None serves nothing.

        Raises:
            ConfigError: the port is taken.
        """
        if port is None:
            yield None
            return
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise ConfigError(f"port {port} for metrics cannot be used: {error}", field="metrics_port") from error
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
