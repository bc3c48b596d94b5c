"""A process that learns, over and over, and is killed in between: `python -m tests.invariants.interrupted ...`.

Each life is a fork that works in a turn's folder as the trainer does (`Workshop`) and may kill itself with SIGKILL at a
given call of its progress. One line of JSON for each life: how it ended and the digest of the adapter, if there is one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from exchange.settings import build_settings
from tests.invariants.worlds import LORA, logged, prompts, sample, taste, tiny_base
from trainer.before import Before
from trainer.candidate import Workshop
from trainer.data import PreferencePair, ThumbedAnswer
from trainer.models.files import folder_digest
from trainer.progress import Reporter
from trainer.settings import TrainerSettings
from trainer.training_data import TrainingData


def settings_of(model: Path, method: str) -> TrainerSettings:
    """Small and quick; a checkpoint at every second step."""
    sections: dict[str, Any] = {
        "model": str(model),
        "lora": {"rank": LORA.rank, "alpha": LORA.alpha},
        "learner": {"method": method, "checkpoint_every": 2, "kl_check_every": 2, "kl_check_answers": 16},
        "reward_model": {"batch_sets": 16},
        "ppo": {"minibatch_answers": 8, "epochs": 2, "learning_rate": 1e-4},
        "dpo": {"minibatch_pairs": 8, "epochs": 2, "learning_rate": 1e-3},
        "kto": {"minibatch_answers": 16, "learning_rate": 1e-3},
        "sft": {"minibatch_answers": 8, "epochs": 2, "learning_rate": 1e-3},
    }
    return build_settings(TrainerSettings, sections)


def made_data(model: Path) -> TrainingData:
    """The same in every process: sampled by the base from seeds."""
    base, questions = tiny_base(model), prompts(32, seed=1)
    left, right = (sample(base, questions, role=None, seed=seed) for seed in (2, 3))
    pairs = []
    for row, (prompt, (a, _), (b, _)) in enumerate(zip(questions, left, right, strict=True)):
        better, worse = (a, b) if taste(a) >= taste(b) else (b, a)
        tie = taste(a) == taste(b)
        pairs.append(PreferencePair(prompt, better, worse, tie, 1.0, f"u{row % 5}", "comparison", f"{row}"))
    thumbs = [
        ThumbedAnswer(prompt, answer, taste(answer) > 1, f"cohort{row % 3}", 1.0, f"u{row % 5}")
        for row, (prompt, (answer, _)) in enumerate(zip(questions, left, strict=True))
    ]
    return TrainingData(logged(base, questions, None, seed=4), pairs, thumbs, (), (), ())


def live(model: Path, method: str, work: Path, data: TrainingData, kill_at: int | None) -> None:
    """Learn in the turn's folder `work`, from wherever an earlier life left it."""
    calls = 0

    def progress(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    workshop = Workshop(tiny_base(model), settings_of(model, method), work, cast("Reporter", progress))
    reward = workshop.train_reward(data)
    workshop.train_policy(data, reward, Before(None, None, None))


def main(arguments: Sequence[str]) -> None:
    """MODEL OUT METHOD[:CALL,CALL...]...: of each method a life for each CALL that kills it, then a whole one."""
    model, out = Path(arguments[0]), Path(arguments[1])
    data = made_data(model)
    for wanted in arguments[2:]:
        method, _, calls = wanted.partition(":")
        work = out / method
        work.mkdir(parents=True)
        for kill_at in (*(int(call) for call in calls.split(",") if call), None):
            status = _in_a_fork(model, method, work, data, kill_at)
            adapter = work / "policy" / "adapter"
            ended = {
                "method": method,
                "status": status,
                "digest": folder_digest(adapter) if adapter.is_dir() else None,
                "checkpoints": len([*work.glob("checkpoints/step-*")]),
            }
            print(json.dumps(ended), flush=True)


def _in_a_fork(model: Path, method: str, work: Path, data: TrainingData, kill_at: int | None) -> int:
    """The life's exit status; minus the signal that ended it. Nothing here has used autograd yet, so a fork is safe."""
    child = os.fork()
    if child == 0:
        try:
            live(model, method, work, data, kill_at)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
