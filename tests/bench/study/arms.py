"""The arms: what each learns from, by which method and settings, and one run of an arm on one world.

`GRID` holds all settings that are tried, on development seeds; which of them the test seeds see follows from that
(`tables.best`). Runs go through `train_policy`, as a turn's do; the exams happen between its steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.demo import gold
from deploy.demo.workplace import tiny_ppo
from tests.bench.study import ensemble, gates
from tests.bench.study.exam import Examiner, Point
from tests.bench.study.people import Circumstances
from tests.bench.study.world import World
from trainer.data import LoggedAnswer
from trainer.learn.config import DpoConfig, KtoConfig, LearnerConfig, LikedConfig, PolicyRecipe, PpoConfig
from trainer.learn.policy import train_policy
from trainer.learn.rollouts import token_pairs
from trainer.models.base import POLICY, SharedBase
from trainer.training_data import TrainingData

LEARNER = LearnerConfig(kl_budget=3.0, kl_check_every=8)
"""A KL budget that no arm should meet, since trajectories are cut afterwards, all alike."""


def max_tokens(words: int) -> int:
    """Of an arm's training: room for four passes of KTO up to 3,000 words, half a minute of one core at 300."""
    return min(600_000, max(200_000, 200 * words))


EXAMS_AT = (0.1, 0.25, 0.5, 0.75)
"""Shares of a run's steps after which it is examined, beside its end."""

_KEPT = ("entropy_per_token", "mask_fraction", "effective_sample_size", "explained_variance", "loss", "beta")

Section = PpoConfig | DpoConfig | KtoConfig | LikedConfig

_PPO = tiny_ppo().model_copy(update={"epochs": 1, "learning_rate": 1e-3})
"""As the demo has it for its tiny base, with one pass: ten answers for each word make a second one dear. `beta` is not
tried: its price is on what the logged answers moved from the base, and those of a world are the base's own."""

_DPO, _KTO = DpoConfig(epochs=4, learning_rate=1e-3, minibatch_pairs=16), KtoConfig(epochs=4, learning_rate=1e-3)

_RATES_AND_BETAS = (("1e-3", 0.1), ("5e-4", 0.1), ("2e-3", 0.1), ("1e-3", 0.03), ("1e-3", 0.5), ("2e-3", 0.5))
GRID: Mapping[str, Mapping[str, Section]] = {
    "ppo": {
        "rate 1e-3": _PPO,
        "rate 5e-4": _PPO.model_copy(update={"learning_rate": 5e-4}),
        "rate 2e-3": _PPO.model_copy(update={"learning_rate": 2e-3}),
        "rate 5e-4, two passes": _PPO.model_copy(update={"learning_rate": 5e-4, "epochs": 2}),
        "rate 1e-3, lambda 1": _PPO.model_copy(update={"gae_lambda": 1.0}),
        "rate 1e-3, 32 a step": _PPO.model_copy(update={"minibatch_answers": 32}),
    },
    "dpo": {
        f"rate {rate}, beta {beta}": _DPO.model_copy(update={"learning_rate": float(rate), "beta": beta})
        for rate, beta in _RATES_AND_BETAS
    },
    "kto": {
        f"rate {rate}, beta {beta}": _KTO.model_copy(update={"learning_rate": float(rate), "beta": beta})
        for rate, beta in _RATES_AND_BETAS
    },
    "sft": {"rate 3e-4": LikedConfig(epochs=2, learning_rate=3e-4, minibatch_answers=32)},
}


@dataclass(frozen=True)
class Arm:
    """What learns, from what."""

    method: str
    """Of the learner; `none` leaves the base as it is."""
    reward: str = "model"
    """PPO's: the reward `model`, `brevity` (minus the answer's tokens), `gold` itself, or of an ensemble its `mean` or
    `doubt`: the mean less the members' standard deviation."""
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
    "ensemble, mean": Arm("ppo", reward="mean"),
    "ensemble, mean less spread": Arm("ppo", reward="doubt"),
    **{f"{method}, shuffled": Arm(method, world={"shuffled": True}) for method in ("ppo", "dpo", "kto")},
    **{f"{method}, flips": Arm(method, world={"flips": 0.25}) for method in ("ppo", "dpo", "kto")},
    "ppo, bots": Arm("ppo", world={"attack": "bots", "attackers": 0.1}),
    "ppo, exploit": Arm("ppo", world={"attack": "exploit", "attackers": 0.1}),
    "ppo, exploit of 30 %": Arm("ppo", world={"attack": "exploit", "attackers": 0.3}),
    "ensemble, exploit of 30 %": Arm("ppo", reward="doubt", world={"attack": "exploit", "attackers": 0.3}),
}


def circumstances(arm: str, plain: Circumstances) -> Circumstances:
    """The world that an arm lives in, where ordinary ones live in `plain`."""
    return replace(plain, **ARMS[arm].world)


def run(
    arm: str,
    setting: str,
    world: World,
    base: SharedBase,
    examiner: Examiner,
    before: Point,
    *,
    gates_of: Path | None = None,
) -> dict[str, Any]:
    """One run, as a record for the results. `before` is the base's exam on this world.

    Args:
        gates_of: the base's folder, where the trainer's gates are to be asked too.
    """
    chosen = ARMS[arm]
    began = time.process_time()
    points = [before]
    record: dict[str, Any] = {"arm": arm, "setting": setting, **asdict(world.circumstances)}
    if chosen.method != "none":
        section = GRID[chosen.method][setting]
        tokens = max_tokens(world.circumstances.words)
        learner = LEARNER.model_copy(update={"method": chosen.method, "max_tokens": tokens})
        recipe = PolicyRecipe(learner=learner, **{chosen.method: section})

        def watch(stage: str, step: int, total: int, _: Mapping[str, float]) -> None:
            if stage == chosen.method and step in {max(1, round(share * total)) for share in EXAMS_AT}:
                points.append(examiner.examine(POLICY, step))

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            result = train_policy(
                base,
                _data(world, chosen, base, examiner.text_of).for_policy(),
                world.reward,
                recipe,
                world.circumstances.seed,
                folder / "policy",
                progress=watch,
            )
            if points[-1].step != result.steps:
                points.append(examiner.examine(POLICY, result.steps))
            if gates_of is not None and chosen.reward == "model":
                record["gates"] = gates.ask(world, base, gates_of, recipe.learner, result, folder)
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


def _data(world: World, arm: Arm, base: SharedBase, text_of: Callable[..., str]) -> TrainingData:
    """The world's data as the arm is to have it."""
    data = world.data
    judged = {(thumb.prompt_ids, thumb.answer_ids) for thumb in data.thumbs}
    judged |= {(pair.prompt_ids, side) for pair in data.pairs for side in (pair.chosen_ids, pair.rejected_ids)}

    kept = [one for one in data.answers if not arm.judged_only or (one.prompt_ids, one.answer_ids) in judged]
    if arm.reward == "model":
        return replace(data, answers=kept)

    # As the reward model's scores are: PPO clips rewards, and one clip for all would leave nothing to learn.
    merits = _merits(world, arm, base, kept, text_of)
    middle, spread = statistics.fmean(merits), statistics.pstdev(merits)
    rewards = [(one - middle) / spread for one in merits]
    return replace(data, answers=[replace(answer, reward=reward) for answer, reward in zip(kept, rewards, strict=True)])


def _merits(
    world: World, arm: Arm, base: SharedBase, answers: Sequence[LoggedAnswer], text_of: Callable[..., str]
) -> list[float]:
    """What the arm is paid by where that is not the reward model, in any unit."""
    if arm.reward == "brevity":
        return [-float(len(answer.answer_ids)) for answer in answers]
    if arm.reward == "gold":
        questions = (world.questions[text_of(answer.prompt_ids, whole=True)] for answer in answers)
        return [
            gold.score(question, text_of(answer.answer_ids)).total
            for question, answer in zip(questions, answers, strict=True)
        ]
    found = ensemble.scores(world, base, token_pairs(answers))
    return (found.mean(0) - (found.std(0) if arm.reward == "doubt" else 0.0)).tolist()
