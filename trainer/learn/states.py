"""What a model makes of answers: one vector each. Knows tokens and the base; knows no verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data import TokenPair
from trainer.learn.progress import Progress, silent
from trainer.models.base import Pooling, SharedBase


@torch.no_grad()
def pooled_states(
    base: SharedBase,
    answers: Sequence[TokenPair],
    pooling: Pooling,
    token_budget: int,
    *,
    role: str | None = None,
    stage: str = "states",
    progress: Progress = silent,
) -> Tensor:
    """The pooled last hidden states of answers, as a reward model's head reads them.

    Args:
        answers: N prompts with their answers.
        token_budget: padded tokens per forward pass.
        role: whose adapter; None for the frozen base.
        stage: what `progress` is told.

    Returns:
        float32 [N, H], on the host.
    """
    if not answers:
        return torch.zeros(0, base.hidden_size)
    rows: dict[int, Tensor] = {}
    with base.role(role):
        for batch in base.batches(answers, range(len(answers)), token_budget):
            rows |= dict(zip(batch.rows, base.pooled(batch, pooling).float().cpu(), strict=True))
            progress(stage, len(rows), len(answers), {})
    return torch.stack([rows[row] for row in range(len(answers))])
