"""How far the policy is from the frozen base: what the hard KL budget is judged on.

At every position of a fixed sample of logged answers, the KL of the whole next-token distribution is computed exactly
(at the temperature the answer was sampled with); single-token estimates (k1, k3) would be unbiased only on the policy's
own samples and far noisier. Summed over an answer it is in nats per sequence. The contexts are those of older versions,
so it is taken twice: as they are (`logged`), and weighted by how likely the present policy is to get there
(`weighted`: truncated, self-normalised prefix weights). The budget is judged on the larger.

The KL is of whole distributions also where an answer was sampled with top_p or top_k: PPO then sees nothing of the mass
outside what was kept, and this is what bounds it. Only the prefix weights are those of the confined policy, as in PPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.algorithms.kl import entropy, full_kl, importance_weighted_kl, per_sequence, per_token
from trainer.data import LoggedAnswer
from trainer.learn.replay import KeptSets
from trainer.models.base import POLICY, SharedBase
from trainer.models.forward import align, log_softmax, pick_tokens


@dataclass(frozen=True)
class Drift:
    """KL(policy || frozen base), and the policy's entropy."""

    logged: float
    """Nats per sequence, in the contexts as logged."""
    weighted: float
    """Nats per sequence, contexts weighted towards the present policy."""
    per_token: float
    """Nats per token, in the contexts as logged."""
    entropy: float
    """Nats per token, in the contexts as logged."""

    @property
    def kl(self) -> float:
        """What the budget is judged on, nats per sequence."""
        return max(self.logged, self.weighted)


@torch.no_grad()
def measure_drift(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    *,
    prefix_cap: float,
    micro_batch_tokens: int,
    kept: KeptSets | None = None,
) -> Drift:
    """Measure the policy on `base` against the base with adapters off, on these answers.

    Args:
        prefix_cap: largest importance weight of a prefix.
        micro_batch_tokens: positions per forward pass.
        kept: of these answers, where some were sampled with top_p or top_k.
    """
    shape = (len(answers), max(len(answer.answer_ids) for answer in answers))
    kl, spread, log_ratio = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    temperatures = torch.tensor([answer.temperature for answer in answers])
    pairs = [(answer.prompt_ids, answer.answer_ids) for answer in answers]
    for batch in base.batches(pairs, range(len(pairs)), micro_batch_tokens):
        heat = temperatures[list(batch.rows)]
        with base.role(POLICY):
            logits = base.logits(batch)
        policy = log_softmax(logits, batch, heat)
        open_tokens = None if kept is None else kept.mask(batch, logits.shape[1])
        sampling = policy if open_tokens is None else log_softmax(logits, batch, heat, open_tokens)
        with base.role(None):
            reference = log_softmax(base.logits(batch), batch, heat)
        rows, width = list(batch.rows), batch.mask.shape[1]
        mask[rows, :width] = batch.mask.cpu()
        kl[rows, :width] = align(full_kl(policy, reference), batch).cpu()
        spread[rows, :width] = align(entropy(policy), batch).cpu()
        log_ratio[rows, :width] = pick_tokens(sampling, batch).cpu()
    for row, answer in enumerate(answers):
        log_ratio[row, : len(answer.answer_ids)] -= torch.tensor(answer.behaviour_logprobs)
    return Drift(
        logged=float(per_sequence(kl, mask)),
        weighted=float(importance_weighted_kl(kl, log_ratio, mask, cap=prefix_cap)),
        per_token=float(per_token(kl, mask)),
        entropy=float(per_token(spread, mask)),
    )
