"""The list of scenes: their names in words, and each as a full run and as a quick one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.engine_kills import killed_engine
from tests.faults.outcome import Outcome
from tests.faults.server_kills import killed_server
from tests.faults.trainer_kills import COMMIT, MOMENTS, killed_at_each_moment, killed_under_load, two_trainers


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
    Scene("crash", "server killed, real vLLM", partial(killed_engine, kills=4), partial(killed_engine, kills=1)),
    Scene(
        "crash",
        "trainer killed at exact moments",
        killed_at_each_moment,
        partial(killed_at_each_moment, moments=(MOMENTS[0], COMMIT)),
    ),
    Scene(
        "crash",
        "trainer killed at random under load",
        partial(killed_under_load, kills=21),
        partial(killed_under_load, kills=3),
    ),
    Scene("crash", "two trainers, one killed", two_trainers, two_trainers),
)
