"""The arms: what each learns from, by which method and settings, and one run of an arm on one world.

`GRID` holds all settings that are tried, on development seeds; which of them the test seeds see follows from that
(`tables.best`). Runs go through `train_policy`, as a turn's do; the exams happen between its steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.demo import gold
from deploy.demo.workplace import tiny_ppo
from tests.bench.study.exam import Examiner, Point
from tests.bench.study.people import Circumstances
from tests.bench.study.world import World
from trainer.data import LoggedAnswer
from trainer.learn.config import DpoConfig, KtoConfig, LearnerConfig, LikedConfig, PolicyRecipe, PpoConfig
from trainer.learn.policy import train_policy
from trainer.models.base import POLICY, SharedBase
from trainer.training_data import TrainingData

LEARNER = LearnerConfig(kl_budget=3.0, kl_check_every=8, max_tokens=200_000)
"""A KL budget that no arm should meet, since trajectories are cut afterwards, all alike; and about half a minute of one
core for each arm."""
EXAMS_AT = (0.2, 0.5)
"""Shares of a run's steps after which it is examined, beside its end."""

_KEPT = ("entropy_per_token", "mask_fraction", "effective_sample_size", "explained_variance", "loss", "beta")

Section = PpoConfig | DpoConfig | KtoConfig | LikedConfig

_PPO = tiny_ppo().model_copy(update={"epochs": 1, "learning_rate": 1e-3})
"""As the demo has it for its tiny base, with one pass: ten answers for each word make a second one dear."""

_DPO, _KTO = DpoConfig(epochs=4, learning_rate=1e-3, minibatch_pairs=16), KtoConfig(epochs=4, learning_rate=1e-3)
GRID: Mapping[str, Mapping[str, Section]] = {
    "ppo": {
        "rate 1e-3": _PPO,
        "rate 2e-3": _PPO.model_copy(update={"learning_rate": 2e-3}),
        "rate 1e-3, beta 0.1": _PPO.model_copy(update={"beta": 0.1}),
    },
    "dpo": {
        "rate 1e-3, beta 0.1": _DPO,
        "rate 2e-3, beta 0.1": _DPO.model_copy(update={"learning_rate": 2e-3}),
        "rate 2e-3, beta 0.5": _DPO.model_copy(update={"learning_rate": 2e-3, "beta": 0.5}),
    },
    "kto": {
        "rate 1e-3, beta 0.1": _KTO,
        "rate 2e-3, beta 0.1": _KTO.model_copy(update={"learning_rate": 2e-3}),
        "rate 2e-3, beta 0.5": _KTO.model_copy(update={"learning_rate": 2e-3, "beta": 0.5}),
    },
    "sft": {"rate 3e-4": LikedConfig(epochs=2, learning_rate=3e-4, minibatch_answers=32)},
}


@dataclass(frozen=True)
class Arm:
    """What learns, from what."""

    method: str
    """Of the learner; `none` leaves the base as it is."""
    reward: str = "model"
    """PPO's: the reward `model`, `brevity` (minus the answer's tokens), or `gold` itself."""
    judged_only: bool = False
    """PPO does without the answers that nobody judged."""
    world: Mapping[str, Any] = field(default_factory=dict)
    """Circumstances that differ from the ordinary ones."""


ARMS: Mapping[str, Arm] = {
    "none": Arm("none"),
    "ppo": Arm("ppo"),
    "dpo": Arm("dpo"),
    "kto": Arm("kto"),
    "sft": Arm("sft"),
    "ppo, judged answers": Arm("ppo", judged_only=True),
    "brevity": Arm("ppo", reward="brevity"),
    "gold": Arm("ppo", reward="gold"),
    **{f"{method}, shuffled": Arm(method, world={"shuffled": True}) for method in ("ppo", "dpo", "kto")},
    **{f"{method}, flips": Arm(method, world={"flips": 0.25}) for method in ("ppo", "dpo", "kto")},
    **{f"{method}, bots": Arm(method, world={"attack": "bots", "attackers": 0.1}) for method in ("ppo", "dpo", "kto")},
    **{
        f"{method}, exploit": Arm(method, world={"attack": "exploit", "attackers": 0.1})
        for method in ("ppo", "dpo", "kto")
    },
}


def circumstances(arm: str, plain: Circumstances) -> Circumstances:
    """The world that an arm lives in, where ordinary ones live in `plain`."""
    return replace(plain, **ARMS[arm].world)


def run(arm: str, setting: str, world: World, base: SharedBase, examiner: Examiner, before: Point) -> dict[str, Any]:
    """One run, as a record for the results. `before` is the base's exam on this world."""
    chosen = ARMS[arm]
    began = time.process_time()
    points = [before]
    record: dict[str, Any] = {"arm": arm, "setting": setting, **asdict(world.circumstances)}
    if chosen.method != "none":
        section = GRID[chosen.method][setting]
        recipe = PolicyRecipe(learner=LEARNER.model_copy(update={"method": chosen.method}), **{chosen.method: section})

        def watch(stage: str, step: int, total: int, _: Mapping[str, float]) -> None:
            if stage == chosen.method and step in {max(1, round(share * total)) for share in EXAMS_AT}:
                points.append(examiner.examine(POLICY, step))

        with tempfile.TemporaryDirectory() as folder:
            result = train_policy(
                base,
                _data(world, chosen, examiner.text_of).for_policy(),
                world.reward,
                recipe,
                world.circumstances.seed,
                Path(folder) / "policy",
                progress=watch,
            )
        if points[-1].step != result.steps:
            points.append(examiner.examine(POLICY, result.steps))
        last = result.history[-1] if result.history else {}
        record |= {
            "steps": result.steps,
            "stopped": result.stopped,
            "kl_logged": result.kl_to_reference,
            "tokens": result.tokens,
            "last": {name: value for name, value in last.items() if name in _KEPT},
        }
    return record | {
        "points": [asdict(point) for point in points],
        "world": {name: value for name, value in world.facts.items() if not name.startswith("snapshot_")},
        "seconds": time.process_time() - began,
    }


def _data(world: World, arm: Arm, text_of: Callable[..., str]) -> TrainingData:
    """The world's data as the arm is to have it."""
    data = world.data
    judged = {(thumb.prompt_ids, thumb.answer_ids) for thumb in data.thumbs}
    judged |= {(pair.prompt_ids, side) for pair in data.pairs for side in (pair.chosen_ids, pair.rejected_ids)}

    kept = [one for one in data.answers if not arm.judged_only or (one.prompt_ids, one.answer_ids) in judged]
    if arm.reward == "model":
        return replace(data, answers=kept)

    def merit(answer: LoggedAnswer) -> float:
        if arm.reward == "brevity":
            return -float(len(answer.answer_ids))
        question = world.questions[text_of(answer.prompt_ids, whole=True)]
        return gold.score(question, text_of(answer.answer_ids)).total

    # As the reward model's scores are: PPO clips rewards, and one clip for all would leave nothing to learn.
    merits = [merit(answer) for answer in kept]
    middle, spread = statistics.fmean(merits), statistics.pstdev(merits)
    rewards = [(one - middle) / spread for one in merits]
    return replace(data, answers=[replace(answer, reward=reward) for answer, reward in zip(kept, rewards, strict=True)])
