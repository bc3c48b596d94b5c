"""Logits and logprobs of answer tokens from any causal LM.

Knows the alignment between states and the tokens they predict, and sampling temperature. Knows no adapters.
N are the answer tokens of a batch, its rows one after another, as `TokenBatch.mask` selects them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.algorithms.truncation import confine
from trainer.models.batching import TokenBatch
from trainer.models.packing import model_inputs


def answer_logits(model: nn.Module, batch: TokenBatch) -> Tensor:
    """float32 logits [N, V] of the distributions that predict the answer tokens.

    Only these positions go through lm_head (of a padded batch the span of columns that holds them), which dominates
    for large vocabularies; soft-capping and scaling are the model's own.
    """
    places = batch.positions[batch.mask]
    if batch.segments:
        packed: Tensor = model(**model_inputs(batch), logits_to_keep=places).logits[0]
        return packed.float()
    lines, columns = places // batch.input_ids.shape[1], places % batch.input_ids.shape[1]
    first = int(columns.min())
    keep = torch.arange(first, int(columns.max()) + 1, device=places.device)
    padded: Tensor = model(**model_inputs(batch), logits_to_keep=keep).logits
    return padded[lines, columns - first].float()


def log_softmax(
    logits: Tensor, batch: TokenBatch, temperatures: Tensor | None = None, kept: Tensor | None = None
) -> Tensor:
    """Log-probabilities [N, V] of the distribution that is sampled from: logits [N, V] over temperature [B].

    `kept` (bool [N, V]) confines it to what truncated sampling kept; None is the whole distribution.
    """
    if temperatures is not None:
        lengths = torch.tensor(batch.lengths, device=logits.device)
        logits = logits / temperatures.to(logits.device).repeat_interleave(lengths)[:, None]
    return torch.log_softmax(logits if kept is None else confine(logits, kept), dim=-1)


def pick_tokens(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """Log-probability [B, A] of each answer token, 0 where masked, from [N, V]."""
    return align(log_probs.gather(-1, batch.answer_ids[batch.mask][:, None]).squeeze(-1), batch)


def align(values: Tensor, batch: TokenBatch) -> Tensor:
    """Numbers of the N answer tokens as [B, A]; 0 where masked."""
    zeros = torch.zeros(batch.mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(batch.mask, values)


def by_row(values: Tensor, batch: TokenBatch) -> tuple[Tensor, ...]:
    """Anything [N, ...] of the answer tokens, cut into the rows of the batch."""
    found: tuple[Tensor, ...] = torch.split(values, list(batch.lengths))
    return found
