"""What the frozen base makes of answers: one vector each. Knows tokens and the base; knows no verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data import TokenPair
from trainer.learn.config import RewardConfig
from trainer.learn.progress import Progress, silent
from trainer.models.base import SharedBase


@torch.no_grad()
def pooled_states(
    base: SharedBase,
    answers: Sequence[TokenPair],
    config: RewardConfig,
    stage: str,
    progress: Progress = silent,
) -> Tensor:
    """The pooled last hidden states of the base without adapters, as the reward model's probe sees them.

    Args:
        answers: N prompts with their answers, at least one.
        stage: what `progress` is told.

    Returns:
        float [N, H], on the host.
    """
    states: Tensor | None = None
    done = 0
    with base.role(None):
        for batch in base.batches(answers, range(len(answers)), config.micro_batch_tokens):
            found = base.pooled(batch, config.pooling).cpu()
            states = torch.zeros(len(answers), found.shape[1]) if states is None else states
            states[list(batch.rows)] = found.float()
            done += len(batch.rows)
            progress(stage, done, len(answers), {})
    assert states is not None  # noqa: S101 there are answers
    return states
