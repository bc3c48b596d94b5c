"""Which runs make up the study, in the order of their importance. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.study.arms import ARMS, GRID, circumstances
from tests.bench.study.people import Circumstances

DEVELOPMENT_SEEDS = (9001, 9002)
TEST_SEEDS = tuple(range(11, 21))
CONTROL_SEEDS = TEST_SEEDS[:3]
VOLUMES = (100, 300, 1000, 3000, 10_000)
ATTACKED = 3000
"""Words of the volume that is attacked too: there each attacker says enough to be tested."""
QUESTIONS = 320


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
    def at_gates(self) -> bool:
        """Whether the trainer's gates are asked too."""
        return self.batch in ("test", "controls")

    @property
    def name(self) -> str:
        return f"{self.batch}/{self.world.name}/{self.arm}/{self.setting}"


def jobs(batch: str, chosen: Mapping[str, str]) -> list[Job]:
    """The runs of a batch, with the chosen setting of each method; the first one where none was chosen."""
    first = {method: next(iter(settings)) for method, settings in GRID.items()}
    return BATCHES[batch](first | dict(chosen))


def _job(batch: str, arm: str, plain: Circumstances, setting: str | None, questions: int = QUESTIONS) -> Job:
    return Job(batch, arm, setting or "", circumstances(arm, plain), questions)


def _tune(_: Mapping[str, str]) -> list[Job]:
    tried = {method: tuple(settings) for method, settings in GRID.items() if len(settings) > 1}
    return [
        _job("tune", method, Circumstances(seed), settings[number])
        for seed in DEVELOPMENT_SEEDS
        for number in range(max(map(len, tried.values())))  # the first of each method, then the second of each
        for method, settings in tried.items()
        if number < len(settings)
    ]


def _test(chosen: Mapping[str, str]) -> list[Job]:
    return [
        _job("test", arm, Circumstances(seed), chosen.get(arm))
        for seed in TEST_SEEDS
        for arm in ("none", "ppo", "dpo", "kto")
    ]


def _controls(chosen: Mapping[str, str]) -> list[Job]:
    arms = [arm for arm in ARMS if arm not in ("none", "ppo", "dpo", "kto")]
    return [
        _job("controls", arm, Circumstances(seed), chosen[ARMS[arm].method]) for arm in arms for seed in CONTROL_SEEDS
    ]


def _volume(chosen: Mapping[str, str]) -> list[Job]:
    return [
        _job("volume", arm, Circumstances(seed, words=words, answers=max(1600, 2 * words)), chosen[ARMS[arm].method])
        for words in VOLUMES
        for seed in CONTROL_SEEDS
        for arm in ("ppo", "dpo", "kto", *(("ppo, exploit",) if words == ATTACKED else ()))
    ]


def _quick(chosen: Mapping[str, str]) -> list[Job]:
    small = Circumstances(DEVELOPMENT_SEEDS[0], words=120, answers=700)
    return [_job("quick", arm, small, chosen.get(arm), questions=192) for arm in ("none", "ppo", "dpo", "kto")]


BATCHES: Mapping[str, Callable[[Mapping[str, str]], list[Job]]] = {
    "tune": _tune,
    "test": _test,
    "controls": _controls,
    "volume": _volume,
    "quick": _quick,
}
