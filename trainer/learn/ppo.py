"""Offline PPO: from logged answers and their scores to the next adapter.

Knows what a run is given and what it leaves behind. Knows nothing of versions to publish or of gates.

Departures from Schulman et al. 2017 and Ziegler et al. 2019: the data are logged, so each token's own logged logprob is
the ratio's denominator (`algorithms.ppo`); advantages are computed once an epoch, with values of a critic that did not
see the answers (`learn.critic`); the KL to the frozen base has a hard budget: where a measurement exceeds it, the
policy backs off towards the weights of the measurement before, until it is within, and the run ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Conflict
from trainer.algorithms.kl import k1, per_sequence
from trainer.data import LoggedAnswer
from trainer.learn.config import PpoConfig
from trainer.learn.drift import Drift
from trainer.learn.ppo_run import CRITIC, PPORun
from trainer.learn.progress import Progress, silent
from trainer.learn.replay import KeptSets
from trainer.learn.reward_model import RewardModel
from trainer.models.adapter import save_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.files import folder_digest, whole_folder


@dataclass(frozen=True)
class PPOResult:
    """What a run made, and how far it went."""

    adapter: Path
    """Folder of the policy's adapter, in PEFT's layout."""
    adapter_digest: str
    """sha-256 over the adapter's files."""
    critic: Path | None
    """Folder of the critic, to go on from; None with the ridge critic."""
    history: tuple[dict[str, float], ...]
    """Metrics of each optimiser step, in order; what they mean is in `algorithms.ppo`."""
    kl_to_reference: float
    """KL to the frozen base, nats per sequence: the larger of the two below."""
    drift: Drift
    """The last measurement, of the weights in `adapter`."""
    beta: float
    """KL coefficient to start the next run with."""
    stopped: str | None
    """Why the run ended before its last step, or None."""
    steps: int
    """Optimiser steps made."""
    figures: dict[str, float]
    """reward_mean, reward_std (of the scores), answers, behaviour_kl_k1_per_sequence (logged policy to base, nats)."""


def train_ppo(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    reward_model: RewardModel | None,
    config: PpoConfig,
    seed: int,
    out: Path,
    *,
    start_from: Path | None = None,
    critic_from: Path | None = None,
    resume_from: Path | None = None,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    kept: KeptSets | None = None,
) -> PPOResult:
    """Train the policy on logged answers and write `out/adapter` (and `out/critic`).

    Args:
        reward_model: scores answers whose `reward` is None.
        config: its `beta` is the coefficient to start with; hand on `PPOResult.beta` to the next run.
        out: must not exist.
        start_from: adapter to continue; None starts at the base. The reference is the frozen base either way.
        critic_from: critic of an earlier run (`critic="lora"` only); None warms a fresh one up.
        resume_from: folder of checkpoints of the same run, which then goes on as if it had not stopped.
        checkpoint_dir: where to leave checkpoints.
        kept: what `learn.replay` found for these answers, where some were sampled with top_p or top_k.

    Returns:
        Equal inputs give equal adapter bytes on one machine and thread count (CPU).

    Raises:
        InvalidInput: no answers, or some that can't be scored or replayed.
        Conflict: `out` exists, or the checkpoint is of another run.
    """
    if out.exists():
        raise Conflict(f"{out.name} exists already", field="out")
    run = PPORun(base, answers, reward_model, config, seed, start_from, critic_from, resume_from, progress, kept)
    run.learn(checkpoint_dir)
    with whole_folder(out) as work:
        (work / "adapter").mkdir()
        save_role(base, POLICY, work / "adapter")
        if config.critic == "lora":
            (work / CRITIC).mkdir()
            save_role(base, CRITIC, work / CRITIC)
    data = run.rollouts
    return PPOResult(
        adapter=out / "adapter",
        adapter_digest=folder_digest(out / "adapter"),
        critic=out / CRITIC if CRITIC in run.roles else None,
        history=tuple(run.history),
        kl_to_reference=run.drift.kl,
        drift=run.drift,
        beta=run.beta,
        stopped=run.stopped,
        steps=run.step,
        figures={
            "answers": float(len(run.answers)),
            "reward_mean": float(data.scores.mean()),
            "reward_std": float(data.scores.std(unbiased=False)),
            "behaviour_kl_k1_per_sequence": float(per_sequence(k1(data.behaviour, data.reference), data.mask)),
        },
    )
