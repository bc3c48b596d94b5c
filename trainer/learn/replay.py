"""What truncated sampling could have chosen at each token of logged answers: recomputed, then checked against the log.

Knows a shared base and the adapters of the versions that answered. The maths and its limits are
`algorithms.truncation`'s. An answer is replayed exactly or left out with a reason. The kept sets stay in memory: they
are token ids, near enough to the text that they may not lie on a disk unsealed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import ConfigError
from trainer.algorithms.truncation import confine, kept_set
from trainer.data import LoggedAnswer
from trainer.joining.exclusions import Reason
from trainer.learn.config import PpoConfig
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.batching import TokenBatch
from trainer.models.forward import by_row

log = logging.getLogger(__name__)

_CHUNK = 256
"""Tokens whose whole distributions are sorted at once: 12 bytes an entry, 0.5 GB for a vocabulary of 150,000."""


@dataclass(frozen=True)
class KeptSets:
    """The tokens that N answers could have had at each of up to A places; ragged, on the CPU."""

    ids: Tensor
    """int32 [M], token ids of all places one after another, ascending within a place."""
    starts: Tensor
    """int64 [N, A], where a place's ids begin."""
    counts: Tensor
    """int64 [N, A], how many it has; 0: nothing was cut (or there is no token)."""

    def mask(self, batch: TokenBatch, vocabulary: int) -> Tensor | None:
        """bool [N, V] for the N answer tokens of a batch, True where a token was open; None where nothing was cut.

        Args:
            batch: its `rows` are rows of these sets.
            vocabulary: V, the width of the logits.
        """
        rows, inside = list(batch.rows), batch.mask.cpu()
        counts = self.counts[rows, : inside.shape[1]][inside]
        starts = self.starts[rows, : inside.shape[1]][inside]
        cut = (counts > 0).nonzero()[:, 0]
        if not cut.numel():
            return None
        counts, starts = counts[cut], starts[cut]
        within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        ids = self.ids[starts.repeat_interleave(counts) + within].long()
        mask = torch.ones(len(inside[inside]), vocabulary, dtype=torch.bool)
        mask[cut] = False
        mask[cut.repeat_interleave(counts), ids] = True
        return mask.to(batch.mask.device)

    def select(self, rows: Sequence[int]) -> KeptSets:
        """The sets of some answers, in this order."""
        return replace(self, starts=self.starts[list(rows)], counts=self.counts[list(rows)])

    def digest(self) -> str:
        """sha-256, hex."""
        parts = (self.ids, self.counts)
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()


@dataclass(frozen=True)
class Replay:
    """Answers that PPO may use, and what is needed to replay them."""

    answers: tuple[LoggedAnswer, ...]
    """In the order given, without those left out."""
    kept: KeptSets | None
    """One row for each of `answers`; None where all were sampled from the whole distribution."""
    left_out: Mapping[str, Reason]
    """Why, by sample id."""


_Sets = tuple[Tensor, Tensor]
"""(int32 ids, int64 counts) of one answer."""


def replay(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    behaviours: Mapping[int, Path],
    config: PpoConfig,
    tick: Callable[[int, int], None],
    *,
    token_budget: int = 1024,
) -> Replay:
    """Recompute the kept sets of all truncated answers. Answers of the whole distribution pass untouched.

    Args:
        behaviours: adapter folders by version; the base (version 0) needs none. Loaded into the role `policy`, which
            holds the last of them afterwards.
        tick: called with the answers done and all that are to be replayed.
        token_budget: positions per forward pass.
    """
    cut = [row for row, answer in enumerate(answers) if answer.truncated]
    pairs = [(answer.prompt_ids, answer.answer_ids) for answer in answers]
    found: dict[int, _Sets | Reason] = {}
    for version in sorted({answers[row].behaviour_version for row in cut}):
        rows = [row for row in cut if answers[row].behaviour_version == version]
        if version and not _loaded(base, version, behaviours.get(version)):
            found |= dict.fromkeys(rows, Reason.REPLAY_UNAVAILABLE)
            continue
        for batch in base.batches(pairs, rows, token_budget):
            with torch.no_grad(), base.role(POLICY if version else None):
                logits = base.logits(batch)
            for row, own in zip(batch.rows, by_row(logits, batch), strict=True):
                found[row] = _of_answer(own, answers[row], config)
            tick(len(found), len(cut))
    left_out = {answers[row].sample_id: why for row, why in sorted(found.items()) if isinstance(why, Reason)}
    staying = [row for row in range(len(answers)) if not isinstance(found.get(row), Reason)]
    sets = [one if isinstance(one := found.get(row), tuple) else None for row in staying]
    if not any(sets):
        return Replay(tuple(answers[row] for row in staying), None, left_out)
    width = max(len(answers[row].answer_ids) for row in staying)
    return Replay(tuple(answers[row] for row in staying), _together(sets, width), left_out)


def _loaded(base: SharedBase, version: int, folder: Path | None) -> bool:
    if folder is None:
        return False
    try:
        load_role(base, POLICY, folder)
    except ConfigError as error:
        log.warning("answers of version %d cannot be replayed: %s", version, error)
        return False
    return True


@torch.no_grad()
def _of_answer(logits: Tensor, answer: LoggedAnswer, config: PpoConfig) -> _Sets | Reason:
    """The kept sets of one answer from the behaviour's logits [length, V], or why they cannot be trusted."""
    tokens = torch.tensor(answer.answer_ids, device=logits.device)
    behaviour = torch.tensor(answer.behaviour_logprobs, device=logits.device)
    ids: list[Tensor] = []
    counts: list[Tensor] = []
    for first in range(0, len(tokens), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        token, said, scaled = tokens[chunk], behaviour[chunk], logits[chunk] / answer.temperature
        top_k = torch.full(token.shape, answer.top_k, device=logits.device)
        kept = kept_set(scaled, top_k, torch.full(said.shape, answer.top_p, device=logits.device))
        confined = torch.log_softmax(confine(scaled, kept), dim=-1)
        again = confined.gather(-1, token[:, None]).squeeze(-1)
        if not float((again - said).abs().max()) <= config.replay_tolerance:  # NaN too
            return Reason.REPLAY_MISMATCH
        counts.append(kept.sum(-1).cpu())
        if int(counts[-1].max()) > config.replay_max_kept:
            return Reason.REPLAY_TOO_WIDE
        ids.append(kept.nonzero()[:, 1].int().cpu())
    return torch.cat(ids), torch.cat(counts)


def _together(sets: Sequence[_Sets | None], width: int) -> KeptSets:
    """The sets of N answers of up to `width` tokens as one; None: nothing was cut."""
    counts = torch.zeros(len(sets), width, dtype=torch.int64)
    for row, one in enumerate(sets):
        if one is not None:
            counts[row, : len(one[1])] = one[1]
    flat = counts.flatten()
    ids = [one[0] for one in sets if one is not None]
    return KeptSets(torch.cat(ids), (flat.cumsum(0) - flat).view(counts.shape), counts)
