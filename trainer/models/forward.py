"""Logits and logprobs of answer tokens from any causal LM.

Knows the alignment between states and the tokens they predict, and sampling temperature. Knows no adapters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.algorithms.truncation import confine
from trainer.models.batching import TokenBatch


def span_logits(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Logits over the span of positions that predict answer tokens.

    Returns:
        float32 logits [B, K, V] and the int64 index [B, A] into K of the state that predicts each answer token. Only
        the span goes through lm_head, which dominates for large vocabularies; soft-capping and scaling are the
        model's own.
    """
    first = int(batch.positions[batch.mask].min())
    keep = torch.arange(first, int(batch.positions.max()) + 1, device=batch.input_ids.device)
    output = model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=keep)
    return output.logits.float(), (batch.positions - first).clamp(min=0)


def span_log_softmax(logits: Tensor, temperatures: Tensor | None, kept: Tensor | None = None) -> Tensor:
    """Log-probabilities [B, K, V] of the distribution that is sampled from: logits [B, K, V] over temperature [B].

    `kept` (bool [B, K, V]) confines it to what truncated sampling kept; None is the whole distribution.
    """
    scaled = logits if temperatures is None else logits / temperatures[:, None, None]
    return torch.log_softmax(scaled if kept is None else confine(scaled, kept), dim=-1)


def pick_tokens(log_probs: Tensor, index: Tensor, batch: TokenBatch) -> Tensor:
    """Log-probability [B, A] of each answer token, 0 where masked, from [B, K, V] and the index [B, A] into K."""
    targets = torch.zeros(log_probs.shape[:2], dtype=torch.int64, device=log_probs.device)
    rows = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    targets[rows[batch.mask], index[batch.mask]] = batch.answer_ids[batch.mask]
    picked = log_probs.gather(-1, targets[..., None]).squeeze(-1)
    return pick_columns(picked, index, batch)


def pick_columns(per_position: Tensor, index: Tensor, batch: TokenBatch) -> Tensor:
    """Re-align [B, K] values of positions to answer tokens [B, A]; 0 where masked."""
    zero = torch.zeros((), dtype=per_position.dtype, device=per_position.device)
    return torch.where(batch.mask, per_position.gather(1, index), zero)
