"""Which runs make up the study, in the order of their importance. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.study.arms import ARMS, CHOSEN, GRID, circumstances
from tests.bench.study.people import Circumstances

DEVELOPMENT_SEEDS = (9001, 9002)
TEST_SEEDS = tuple(range(1, 11))
CONTROL_SEEDS = TEST_SEEDS[:3]
VOLUMES = (100, 300, 1000, 3000)
QUESTIONS = 256


@dataclass(frozen=True)
class Job:
    """One run."""

    batch: str
    arm: str
    setting: str
    world: Circumstances
    questions: int = QUESTIONS
    """Of its exams."""

    @property
    def name(self) -> str:
        return f"{self.batch}/{self.world.name}/{self.arm}/{self.setting}"


def jobs(batch: str) -> list[Job]:
    """The runs of a batch."""
    return BATCHES[batch]()


def _job(batch: str, arm: str, plain: Circumstances, setting: str | None = None, questions: int = QUESTIONS) -> Job:
    chosen = setting or CHOSEN.get(ARMS[arm].method, "")
    return Job(batch, arm, chosen, circumstances(arm, plain), questions)


def _tune() -> list[Job]:
    return [
        _job("tune", method, Circumstances(seed), setting)
        for seed in DEVELOPMENT_SEEDS
        for method, settings in GRID.items()
        if len(settings) > 1
        for setting in settings
    ]


def _test() -> list[Job]:
    return [_job("test", arm, Circumstances(seed)) for seed in TEST_SEEDS for arm in ("none", "ppo", "dpo", "kto")]


def _controls() -> list[Job]:
    arms = [arm for arm in ARMS if arm not in ("none", "ppo", "dpo", "kto")]
    return [_job("controls", arm, Circumstances(seed)) for arm in arms for seed in CONTROL_SEEDS]


def _volume() -> list[Job]:
    return [
        _job("volume", arm, Circumstances(seed, words=words, answers=max(2400, 2 * words)))
        for words in VOLUMES
        for seed in CONTROL_SEEDS
        for arm in ("ppo", "dpo", "kto")
    ]


def _quick() -> list[Job]:
    small = Circumstances(DEVELOPMENT_SEEDS[0], words=120, answers=700)
    return [_job("quick", arm, small, questions=192) for arm in ("none", "ppo", "dpo", "kto")]


BATCHES: Mapping[str, Callable[[], list[Job]]] = {
    "tune": _tune,
    "test": _test,
    "controls": _controls,
    "volume": _volume,
    "quick": _quick,
}
