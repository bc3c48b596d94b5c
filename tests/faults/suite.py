"""The list of scenes: their names in words, and each as a full run and as a quick one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.broker_faults import (
    broker_away_at_start,
    broker_killed,
    broker_paused,
    disk_full,
    one_of_three_killed,
    oversize_record,
    server_killed_with_full_spool,
    way_cut,
)
from tests.faults.engine_kills import killed_engine
from tests.faults.outcome import Outcome
from tests.faults.server_kills import killed_server
from tests.faults.trainer_kills import (
    COMMIT,
    MOMENTS,
    killed_at_each_moment,
    killed_on_kafka,
    killed_under_load,
    two_trainers,
)


@dataclass(frozen=True)
class Scene:
    """One row of docs/faults.md. Both callables get an empty folder."""

    group: str
    name: str
    full: Callable[[Path], Outcome]
    quick: Callable[[Path], Outcome]

    def matches(self, words: str) -> bool:
        """Whether `--only WORDS` means this scene."""
        return words == self.group or words in self.name


SCENES: tuple[Scene, ...] = (
    Scene(
        "crash",
        "server killed, engine without a model",
        partial(killed_server, kills=24),
        partial(killed_server, kills=4),
    ),
    Scene("crash", "server killed, real vLLM", partial(killed_engine, kills=3), partial(killed_engine, kills=1)),
    Scene(
        "crash",
        "trainer killed at exact moments",
        killed_at_each_moment,
        partial(killed_at_each_moment, moments=(MOMENTS[0], COMMIT), endings=()),
    ),
    Scene(
        "crash",
        "trainer killed at random under load",
        partial(killed_under_load, kills=21),
        partial(killed_under_load, kills=3),
    ),
    Scene("crash", "two trainers, one killed", two_trainers, two_trainers),
    Scene("broker", "broker killed and restarted", partial(broker_killed, away_s=20), partial(broker_killed, away_s=3)),
    Scene("broker", "broker stopped (SIGSTOP)", partial(broker_paused, away_s=60), partial(broker_paused, away_s=20)),
    Scene(
        "broker",
        "broker away when the server starts",
        partial(broker_away_at_start, away_s=20),
        partial(broker_away_at_start, away_s=3),
    ),
    Scene(
        "broker",
        "one of three brokers killed",
        partial(one_of_three_killed, away_s=20),
        partial(one_of_three_killed, away_s=3),
    ),
    Scene(
        "broker",
        "server killed with a full spool",
        server_killed_with_full_spool,
        server_killed_with_full_spool,
    ),
    Scene("broker", "spool's disk full", disk_full, disk_full),
    Scene("broker", "trainer killed on Kafka", killed_on_kafka, partial(killed_on_kafka, moments=(COMMIT,))),
    Scene("broker", "way to the broker cut", partial(way_cut, away_s=20), partial(way_cut, away_s=3)),
    Scene("broker", "oversize record amid the stream", oversize_record, oversize_record),
)
