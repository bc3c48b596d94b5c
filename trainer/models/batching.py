"""From token lists of many lengths to micro-batches, packed or padded.

Knows layouts, position arithmetic and token budgets. Knows no model.

**Packed** is one line of tokens without padding: sequences one after another, and a prompt that several answers share
only once, each of its answers seeing it and itself. What may look at what is told by `Segment`s, which
`trainer.models.packing` brings to the attention of architectures that take them.

**Padded** is for all others: one sequence a line, padded on the right only. Under causal attention no real token can
see what comes after it, so right padding needs neither an attention mask nor shifted position ids; what the model
computes at padded positions is never read, and receives a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.data import TokenPair

PAD_ID = 0
"""Any valid id does: nothing ever reads a padded position."""


class Segment(NamedTuple):
    """A run of a packed line that attends causally to itself, and to all of its prompt where that lies elsewhere."""

    start: int
    end: int
    prompt_start: int = 0
    prompt_end: int = 0
    """Equal to `prompt_start`: the segment begins with its own prompt."""


@dataclass(frozen=True)
class TokenBatch:
    """B answers with their prompts, laid out as L lines of T tokens; the answers aligned in A columns.

    Indices into states count through the lines: state i is that of token i of `input_ids.flatten()`. The N answer
    tokens of the batch are those of its rows one after another, as `mask` selects them.
    """

    rows: tuple[int, ...]
    """Index of each row in the list the batch was made from."""
    input_ids: Tensor
    """int64 [L, T]."""
    places: Tensor
    """int64 [L, T], the position of each token in its own sequence."""
    segments: tuple[Segment, ...]
    """Of the one line of a packed batch; empty where the batch is padded."""
    answer_ids: Tensor
    """int64 [B, A]; column j is the j-th answer token."""
    mask: Tensor
    """bool [B, A]; True where there is an answer token."""
    positions: Tensor
    """int64 [B, A]; index of the state that predicts answer token j (0 where masked)."""
    own: Tensor
    """int64 [B, A]; index of the state of answer token j itself (0 where masked)."""
    last: Tensor
    """int64 [B]; index of the state of the last token of the answer."""
    lengths: tuple[int, ...]
    """Answer tokens of each row."""

    @property
    def tokens(self) -> int:
        """Number N of answer tokens in the batch."""
        return sum(self.lengths)


def make_batch(pairs: Sequence[TokenPair], rows: Sequence[int], device: torch.device, *, packed: bool) -> TokenBatch:
    """Lay out the pairs at `rows`.

    Raises:
        InvalidInput: a prompt or an answer is empty.
    """
    return pack_batch(pairs, rows, device) if packed else pad_batch(pairs, rows, device)


def pad_batch(
    pairs: Sequence[TokenPair], rows: Sequence[int], device: torch.device, pad_id: int = PAD_ID
) -> TokenBatch:
    """One line for each pair at `rows`, padded to the longest. Raises as `make_batch`."""
    chosen = _chosen(pairs, rows)
    width = max(len(prompt) + len(answer) for prompt, answer in chosen)
    ids = [[*prompt, *answer] + [pad_id] * (width - len(prompt) - len(answer)) for prompt, answer in chosen]
    starts = [line * width + len(prompt) for line, (prompt, _) in enumerate(chosen)]
    places = torch.arange(width).expand(len(chosen), width)
    return _batch(rows, ids, places, (), [answer for _, answer in chosen], starts, [x - 1 for x in starts], device)


def pack_batch(pairs: Sequence[TokenPair], rows: Sequence[int], device: torch.device) -> TokenBatch:
    """One line for all pairs at `rows`, equal prompts once. Raises as `make_batch`."""
    chosen = _chosen(pairs, rows)
    ids: list[int] = []
    places: list[int] = []
    segments: list[Segment] = []
    starts: list[int] = []
    before: list[int] = []
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    for prompt, answer in chosen:
        begin, shared = len(ids), known.get(prompt)
        if shared is None:
            shared = known[prompt] = (begin, begin + len(prompt))
            ids += prompt
            segments.append(Segment(begin, begin + len(prompt) + len(answer)))
            places += range(len(prompt))
        else:
            segments.append(Segment(begin, begin + len(answer), *shared))
        starts.append(len(ids))
        before.append(shared[1] - 1)
        ids += answer
        places += range(len(prompt), len(prompt) + len(answer))
    answers = [answer for _, answer in chosen]
    return _batch(rows, [ids], torch.tensor([places]), tuple(segments), answers, starts, before, device)


def _chosen(pairs: Sequence[TokenPair], rows: Sequence[int]) -> list[TokenPair]:
    chosen = [pairs[row] for row in rows]
    if any(not prompt or not answer for prompt, answer in chosen):
        raise InvalidInput("A prompt or an answer has no tokens", field="prompt_ids")
    return chosen


def _batch(
    rows: Sequence[int],
    ids: list[list[int]],
    places: Tensor,
    segments: tuple[Segment, ...],
    answers: Sequence[tuple[int, ...]],
    starts: Sequence[int],
    before: Sequence[int],
    device: torch.device,
) -> TokenBatch:
    """Answer i begins at state starts[i], and its first token is predicted by state before[i]."""
    span = max(map(len, answers))

    def columns(lists: Iterable[Sequence[int]]) -> Tensor:
        return torch.tensor([[*one] + [0] * (span - len(one)) for one in lists], device=device)

    own = [range(start, start + len(answer)) for start, answer in zip(starts, answers, strict=True)]
    return TokenBatch(
        rows=tuple(rows),
        input_ids=torch.tensor(ids, device=device),
        places=places.to(device),
        segments=segments,
        answer_ids=columns(answers),
        mask=columns([1] * len(answer) for answer in answers).bool(),
        positions=columns([first, *mine[:-1]] for first, mine in zip(before, own, strict=True)),
        own=columns(own),
        last=torch.tensor([mine[-1] for mine in own], device=device),
        lengths=tuple(map(len, answers)),
    )


class _Room:
    """What a group takes as it grows: positions that go through the model."""

    def __init__(self, packed: bool) -> None:
        self.packed, self.prompts = packed, set[tuple[int, ...]]()
        self.tokens = self.count = self.longest = 0

    def with_unit(self, unit: Sequence[TokenPair]) -> int:
        """Positions with that unit in it."""
        if not self.packed:
            return (self.count + len(unit)) * max(self.longest, _longest(unit))
        new = {prompt for prompt, _ in unit} - self.prompts
        return self.tokens + sum(len(answer) for _, answer in unit) + sum(map(len, new))

    def add(self, unit: Sequence[TokenPair]) -> None:
        self.tokens = self.with_unit(unit)
        self.prompts |= {prompt for prompt, _ in unit}
        self.count, self.longest = self.count + len(unit), max(self.longest, _longest(unit))


def _longest(unit: Sequence[TokenPair]) -> int:
    return max(len(prompt) + len(answer) for prompt, answer in unit)


def groups(units: Sequence[Sequence[TokenPair]], token_budget: int, *, packed: bool) -> Iterator[list[int]]:
    """Split units (sequences that must stay in one batch) into groups, as indices, that each take `token_budget`
    positions at most; a bigger unit makes a group of its own. The same input gives the same groups.

    Packed, units with one prompt lie together; padded, units of one length, the longest first.
    """
    if packed:
        first: dict[tuple[int, ...], int] = {}
        order = sorted(range(len(units)), key=lambda place: (first.setdefault(units[place][0][0], place), place))
    else:
        order = sorted(range(len(units)), key=lambda place: (-_longest(units[place]), place))
    group, room = list[int](), _Room(packed)
    for place in order:
        if group and room.with_unit(units[place]) > token_budget:
            yield group
            group, room = [], _Room(packed)
        group.append(place)
        room.add(units[place])
    if group:
        yield group


def micro_batches(
    pairs: Sequence[TokenPair], rows: Sequence[int], token_budget: int, device: torch.device, *, packed: bool = False
) -> Iterator[TokenBatch]:
    """Micro-batches over `rows` of `pairs`, each of `token_budget` positions at most."""
    for group in groups([[pairs[row]] for row in rows], token_budget, packed=packed):
        yield make_batch(pairs, [rows[place] for place in group], device, packed=packed)
