"""From token lists of many lengths to padded micro-batches.

Knows padding, position arithmetic and token budgets. Knows no model.

Rows are padded on the right only. Under causal attention no real token can see what comes after it, so right padding
needs neither an attention mask nor shifted position ids, for every architecture alike; what the model computes at
padded positions is never read, and receives a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.data import TokenPair

PAD_ID = 0
"""Any valid id does: nothing ever reads a padded position."""


@dataclass(frozen=True)
class TokenBatch:
    """B sequences (prompt then answer), right-padded to T tokens; their answers aligned in A columns."""

    rows: tuple[int, ...]
    """Index of each row in the list the batch was made from."""
    input_ids: Tensor
    """int64 [B, T]."""
    answer_ids: Tensor
    """int64 [B, A]; column j is the j-th answer token."""
    mask: Tensor
    """bool [B, A]; True where there is an answer token."""
    positions: Tensor
    """int64 [B, A]; index into T of the state that predicts answer token j (0 where masked)."""
    last: Tensor
    """int64 [B]; index into T of the last real token."""

    @property
    def tokens(self) -> int:
        """Number of answer tokens in the batch."""
        return int(self.mask.sum())


def pad_batch(
    pairs: Sequence[TokenPair], rows: Sequence[int], device: torch.device, pad_id: int = PAD_ID
) -> TokenBatch:
    """Pad the pairs at `rows`.

    Raises:
        InvalidInput: a prompt or an answer is empty.
    """
    chosen = [pairs[row] for row in rows]
    if any(not prompt or not answer for prompt, answer in chosen):
        raise InvalidInput("A prompt or an answer has no tokens", field="prompt_ids")
    width = max(len(prompt) + len(answer) for prompt, answer in chosen)
    span = max(len(answer) for _, answer in chosen)
    ids, answers, positions, mask = [], [], [], []
    for prompt, answer in chosen:
        ids.append([*prompt, *answer] + [pad_id] * (width - len(prompt) - len(answer)))
        answers.append([*answer] + [pad_id] * (span - len(answer)))
        start = len(prompt) - 1
        positions.append([*range(start, start + len(answer))] + [0] * (span - len(answer)))
        mask.append([True] * len(answer) + [False] * (span - len(answer)))
    last = [len(prompt) + len(answer) - 1 for prompt, answer in chosen]
    return TokenBatch(
        rows=tuple(rows),
        input_ids=torch.tensor(ids, device=device),
        answer_ids=torch.tensor(answers, device=device),
        mask=torch.tensor(mask, device=device),
        positions=torch.tensor(positions, device=device),
        last=torch.tensor(last, device=device),
    )


def bucket(lengths: Sequence[int], rows: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Split `rows` into groups of similar length whose padded size stays within `token_budget` tokens.

    `lengths[row]` is the tokens of one row. Groups come longest first, so that memory peaks at the start; a row
    longer than the budget makes a group of its own. The same input gives the same groups.
    """
    group: list[int] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        if group and lengths[group[0]] * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def micro_batches(
    pairs: Sequence[TokenPair], rows: Sequence[int], token_budget: int, device: torch.device
) -> Iterator[TokenBatch]:
    """Padded micro-batches over `rows` of `pairs`, each within `token_budget` padded tokens."""
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    for group in bucket(lengths, rows, token_budget):
        yield pad_batch(pairs, group, device)
