"""From one turn's data to the next adapter, by the method that the settings name.

Knows what a run is given and what it leaves behind, whichever method makes it. Knows nothing of versions to publish or
of gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Conflict
from trainer.data import LoggedAnswer, PreferencePair, ThumbedAnswer
from trainer.learn.config import DpoConfig, KtoConfig, LearnerConfig, PolicyRecipe, PpoConfig, PreferenceConfig
from trainer.learn.contexts import Contexts, choose_contexts
from trainer.learn.drift import Drift
from trainer.learn.examples import Example, dpo_examples, kto_examples, liked_examples
from trainer.learn.policy_run import PolicyRun, open_policy, run_identity
from trainer.learn.ppo_run import CRITIC, PPOMethod
from trainer.learn.preference_run import DPOMethod, KTOMethod, LabelledMethod, LikedMethod
from trainer.learn.progress import Progress, silent
from trainer.learn.replay import KeptSets
from trainer.learn.reward_model import Scorer
from trainer.models.adapter import save_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.files import folder_digest, whole_folder


@dataclass(frozen=True)
class PolicyData:
    """What a policy can learn from in one turn; each method takes its part."""

    answers: Sequence[LoggedAnswer] = ()
    """PPO learns from them; for every method the drift is measured on some of them, as far as there are any."""
    kept: KeptSets | None = None
    """What `learn.replay` found for these answers, where some were sampled with top_p or top_k."""
    pairs: Sequence[PreferencePair] = ()
    thumbs: Sequence[ThumbedAnswer] = ()


@dataclass(frozen=True)
class PolicyResult:
    """What a run made, and how far it went."""

    adapter: Path
    """Folder of the policy's adapter, in PEFT's layout."""
    adapter_digest: str
    """sha-256 over the adapter's files."""
    critic: Path | None
    """Folder of PPO's critic, to go on from; None without one."""
    history: tuple[dict[str, float], ...]
    """Metrics of each optimiser step, in order."""
    kl_to_reference: float
    """KL to the frozen base, nats per sequence: the larger of the two in `drift`."""
    drift: Drift
    """The last measurement, of the weights in `adapter`."""
    beta: float | None
    """KL coefficient to start the next run of PPO with; None for other methods."""
    stopped: str | None
    """Why the run ended before its last step, or None."""
    steps: int
    """Optimiser steps made."""
    tokens: int
    """Tokens trained on: what `max_tokens` bounds."""
    figures: dict[str, float]
    """Of the data; what they are is said by each method's `figures`."""


def train_policy(
    base: SharedBase,
    data: PolicyData,
    reward_model: Scorer | None,
    recipe: PolicyRecipe,
    seed: int,
    out: Path,
    *,
    start_from: Path | None = None,
    critic_from: Path | None = None,
    resume_from: Path | None = None,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
) -> PolicyResult:
    """Train the policy and write `out/adapter` (and `out/critic`).

    Args:
        reward_model: scores answers whose `reward` is None; only PPO asks it.
        recipe: PPO's `beta` is the coefficient to start with; hand on `PolicyResult.beta` to the next run.
        out: must not exist.
        start_from: adapter to continue; None starts at the base. The reference is the frozen base either way.
        critic_from: critic of an earlier run (`critic="lora"` only); None warms a fresh one up.
        resume_from: folder of checkpoints of the same run, which then goes on as if it had not stopped.
        checkpoint_dir: where to leave checkpoints.

    Returns:
        Equal inputs give equal adapter bytes on one machine and thread count (CPU).

    Raises:
        InvalidInput: nothing that the method could learn from, or answers that can't be scored or replayed.
        Conflict: `out` exists, or the checkpoint is of another run.
    """
    if out.exists():
        raise Conflict(f"{out.name} exists already", field="out")
    learner, config = recipe.learner, recipe.chosen
    with base.computing(autocast=learner.autocast == "bfloat16", checkpointing=learner.gradient_checkpointing):
        open_policy(base, start_from, seed)
        logged = Contexts(data.answers, data.kept)
        method: PPOMethod | LabelledMethod
        if isinstance(config, PpoConfig):
            method = PPOMethod(
                base, data.answers, data.kept, reward_model, learner, config, seed, critic_from, progress
            )
            learnt: list[object] = [*data.answers, *([] if data.kept is None else [data.kept.digest()])]
            contexts = logged.sample(learner.kl_check_answers, seed)
        else:
            examples = _examples(data, config)
            method = _labelled(base, examples, learner, config, seed, progress)
            learnt = list(examples)
            contexts = choose_contexts(
                base,
                logged,
                examples,
                count=learner.kl_check_answers,
                seed=seed,
                token_budget=learner.micro_batch_tokens,
            )
        identity = run_identity([learner, config], seed, [start_from, critic_from], learnt)
        run = PolicyRun(base, method, contexts, learner, identity, resume_from, progress)
        run.learn(checkpoint_dir)
    has_critic = CRITIC in method.rates
    with whole_folder(out) as work:
        for role in (POLICY, CRITIC) if has_critic else (POLICY,):
            folder = work / ("adapter" if role == POLICY else CRITIC)
            folder.mkdir()
            save_role(base, role, folder)
    return PolicyResult(
        adapter=out / "adapter",
        adapter_digest=folder_digest(out / "adapter"),
        critic=out / CRITIC if has_critic else None,
        history=tuple(run.history),
        kl_to_reference=run.drift.kl,
        drift=run.drift,
        beta=method.state().get("beta"),
        stopped=run.stopped,
        steps=run.step,
        tokens=sum(method.plan.costs[: run.step]),
        figures=method.figures(),
    )


def learnable(data: PolicyData, recipe: PolicyRecipe) -> int:
    """How many terms the chosen method's loss would have: logged answers, pairs or labelled answers."""
    config = recipe.chosen
    return len(data.answers) if isinstance(config, PpoConfig) else len(_examples(data, config))


def _examples(data: PolicyData, config: PreferenceConfig) -> list[Example]:
    if isinstance(config, DpoConfig):
        return dpo_examples(data.pairs)
    if isinstance(config, KtoConfig):
        return kto_examples(data.pairs, data.thumbs, liked_ratio=config.liked_ratio)
    return liked_examples(data.pairs, data.thumbs)


def _labelled(
    base: SharedBase,
    examples: Sequence[Example],
    learner: LearnerConfig,
    config: PreferenceConfig,
    seed: int,
    progress: Progress,
) -> LabelledMethod:
    if isinstance(config, DpoConfig):
        return DPOMethod(base, examples, learner, config, seed, progress)
    if isinstance(config, KtoConfig):
        return KTOMethod(base, examples, learner, config, seed, progress)
    return LikedMethod(base, examples, learner, config, seed, progress)
