"""The trainer's Prometheus metrics, in a registry of their own. Labels are bounded: stages, outcomes and
reasons, never ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from schemas.errors import ConfigError
from trainer.intake.lag import Lag
from trainer.joining.exclusions import Reason
from trainer.joining.funnel import Funnel


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
        self._read = Counter(
            "attune_trainer_records_read",
            "Records read from the log into the ledger",
            ["topic"],
            registry=self.registry,
        )
        self._dead = Counter(
            "attune_trainer_dead_letters",
            "Records that could not be read and lie in attune.dead-letter now",
            ["topic"],
            registry=self.registry,
        )
        self._lost = Counter(
            "attune_trainer_records_lost",
            "Records that the log deleted before they were read, and reading went on without",
            ["topic"],
            registry=self.registry,
        )
        self.log_reachable = Gauge(
            "attune_trainer_log_reachable", "1 while the log can be read", registry=self.registry
        )
        self._lag_records = Gauge(
            "attune_trainer_lag_records",
            "Records on the log that are not in the ledger yet",
            ["topic"],
            registry=self.registry,
        )
        self._lag_seconds = Gauge(
            "attune_trainer_lag_seconds",
            "How long ago, at most, the oldest of these came to the log",
            ["topic"],
            registry=self.registry,
        )
        self.labels = Gauge("attune_trainer_new_labels", "Usable labels since the last turn", registry=self.registry)
        self.trainable = Gauge(
            "attune_trainer_trainable_answers",
            "Answers of the last snapshot that PPO could use",
            registry=self.registry,
        )
        self.starved = Gauge(
            "attune_trainer_ppo_starved",
            "1 while the last finished turn found too little that PPO could learn from",
            registry=self.registry,
        )
        self._not_replayed = Gauge(
            "attune_trainer_not_replayed_answers",
            "Answers of the last turn whose sampling the learner could not replay, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.kl = Gauge(
            "attune_trainer_kl_nats_per_sequence", "KL of the last candidate to the base", registry=self.registry
        )
        self.accuracy = Gauge(
            "attune_trainer_reward_accuracy", "Held-out accuracy of the last reward model", registry=self.registry
        )
        self._funnel = Gauge(
            "attune_trainer_funnel",
            "Answers known, displayed, rated and joined; labels for the reward model; answers for PPO",
            ["stage"],
            registry=self.registry,
        )
        self._excluded = Gauge(
            "attune_trainer_excluded",
            "Feedback that is not learnt from, and answers that PPO may not use, by reason",
            ["item", "reason"],
            registry=self.registry,
        )
        self._quarantined = Gauge(
            "attune_trainer_quarantined_raters", "Raters whose words are not learnt from", registry=self.registry
        )
        self.lease = Gauge("attune_trainer_lease_held", "1 while this trainer makes versions", registry=self.registry)

    def funnel(self, counted: Funnel) -> None:
        """How the labels and answers known now would be used. Every stage and every reason shows, at 0 too."""
        for stage, count in counted.stages().items():
            self._funnel.labels(stage=stage).set(count)
        self._quarantined.set(counted.quarantined)
        for item, excluded in (("feedback", counted.excluded_feedback), ("answer", counted.excluded_answers)):
            for reason in Reason:
                self._excluded.labels(item=item, reason=str(reason)).set(excluded.get(str(reason), 0))

    def read(self, topic: str, records: int, dead_letters: int, lost: int) -> None:
        """Records of a topic were read, or could not be any more."""
        self._read.labels(topic=topic).inc(records)
        self._dead.labels(topic=topic).inc(dead_letters)
        self._lost.labels(topic=topic).inc(lost)

    def lag(self, lags: Mapping[str, Lag]) -> None:
        """How far reading is behind, by topic."""
        for topic, lag in lags.items():
            self._lag_records.labels(topic=topic).set(lag.records)
            self._lag_seconds.labels(topic=topic).set(lag.seconds)

    def step(self, stage: str, done: int, total: int) -> None:
        """A stage moved on."""
        self._steps.labels(stage=stage).set(done / total if total else 1.0)

    def not_replayed(self, counts: Mapping[str, int]) -> None:
        """Answers of the present turn that only the learner found it cannot use, by reason."""
        for reason in Reason:
            self._not_replayed.labels(reason=str(reason)).set(counts.get(str(reason), 0))

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
