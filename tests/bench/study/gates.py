"""What the trainer's gates say of an arm's run, by the settings of the demo: whether anybody would have been served.

The gates see what they see in a turn: held-out people's words, fresh answers, suites, lures, panels of other people.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

from deploy.demo.workplace import trainer_settings
from exchange.durable import write_whole
from schemas.manifests import canonical_json
from schemas.reports import Curves
from tests.bench.study.world import World
from trainer.before import Before
from trainer.candidate import REWARD_CURVES, Learned, Workshop, finite
from trainer.gates.sample import load_tokenizer
from trainer.judging import Judging
from trainer.learn.config import LearnerConfig
from trainer.learn.policy import PolicyResult
from trainer.metrics import TrainerMetrics
from trainer.models.base import SharedBase
from trainer.progress import LogDisplay, Reporter
from trainer.suites.loading import load_suites


def ask(
    world: World, base: SharedBase, model: Path, learner: LearnerConfig, result: PolicyResult, work: Path
) -> dict[str, Any]:
    """The gates on the adapter in `work`/policy, as `{passed, refused_by, unmeasured}`: names of gates."""
    seed = world.circumstances.seed
    settings = trainer_settings(work, model=str(model), tiny=True, log_url="sqlite:///none", seed=seed)
    settings = settings.model_copy(update={"learner": learner})
    shutil.copytree(world.reward_folder, work / "reward")
    write_whole(work / REWARD_CURVES, canonical_json(Curves.of(())))
    reporter = Reporter(LogDisplay(), TrainerMetrics(), threading.Event())
    learned = Learned(
        steps=result.steps,
        stopped=result.stopped,
        kl=result.kl_to_reference,
        metrics=finite(result.figures),
    )
    judging = Judging(Workshop(base, settings, work, reporter), load_tokenizer(model))
    before = Before(parent=None, beta=None, reward_model=None)
    found = judging.judge(world.data, world.reward, learned, before, load_suites(*settings.suites.files)).gates
    return {
        "passed": found.passed,
        "refused_by": [one.name for one in found.results if not one.passed],
        "unmeasured": [one.name for one in found.results if one.value is None],
        "words": [one.explanation for one in found.results if not one.passed],
    }
