"""On which answers a run measures its drift from the frozen base.

Logged answers, as PPO learns from them: so the KL of all methods is the same quantity. Where there are too few of them
(an app at temperature 0 has none), labelled answers stand in, as if the policy that the run starts from had sampled
them at temperature 1: then only the weights of the contexts are made up, not the KL in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.data import LoggedAnswer, TokenPair
from trainer.learn.examples import Example
from trainer.learn.replay import KeptSets
from trainer.models.base import POLICY, SharedBase
from trainer.models.forward import log_softmax, pick_tokens


@dataclass(frozen=True)
class Contexts:
    """Answers to measure on, and what truncated sampling kept of them."""

    answers: Sequence[LoggedAnswer]
    kept: KeptSets | None = None

    def sample(self, count: int, seed: int) -> Contexts:
        """At most `count` of them, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self.answers), generator=generator)[:count].tolist()
        return Contexts([self.answers[row] for row in rows], None if self.kept is None else self.kept.select(rows))


def choose_contexts(
    base: SharedBase, logged: Contexts, examples: Sequence[Example], *, count: int, seed: int, token_budget: int
) -> Contexts:
    """`count` logged answers if there are as many, else as many labelled ones as there are. The policy is open.

    Args:
        token_budget: positions per forward pass.
    """
    if len(logged.answers) >= count:
        return logged.sample(count, seed)
    distinct = list(dict.fromkeys(answer for example in examples for answer in example.answers))
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return Contexts(_as_if_sampled(base, [distinct[row] for row in order], token_budget))


@torch.no_grad()
def _as_if_sampled(base: SharedBase, pairs: Sequence[TokenPair], token_budget: int) -> list[LoggedAnswer]:
    found: dict[int, list[float]] = {}
    for batch in base.batches(pairs, range(len(pairs)), token_budget):
        with base.role(POLICY):
            picked = pick_tokens(log_softmax(base.logits(batch), batch), batch).tolist()
        found |= {row: picked[place][: len(pairs[row][1])] for place, row in enumerate(batch.rows)}
    return [
        LoggedAnswer(
            sample_id=f"labelled/{row}",
            completion_id="",
            choice=0,
            prompt_ids=prompt,
            answer_ids=answer,
            behaviour_logprobs=tuple(found[row]),
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            behaviour_version=0,
            reward=None,
            group="",
        )
        for row, (prompt, answer) in enumerate(pairs)
    ]
