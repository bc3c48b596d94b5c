"""The reward model tried with lures, and whether the candidate followed: the measuring for `padding` and `flattery`.

Knows how lures are laid over answers and how fresh answers are searched for them. Knows no thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from trainer.data import TokenPair
from trainer.gates.agreed import Agreed
from trainer.gates.couples import Couple
from trainer.gates.value import Estimate, mean_estimate
from trainer.suites.lures import Kind, Lure

Score = Callable[[Sequence[TokenPair]], Sequence[float]]
"""Answers -> rewards, in standard deviations."""


@dataclass(frozen=True)
class LurePay:
    """What the reward model pays for one lure."""

    lure: Lure
    gain: Estimate
    """Mean reward of the dressed answers minus that of the plain ones, standard deviations."""
    preferred: float
    """Share of answers that it likes better dressed."""
    answers: int
    """Real answers that were dressed."""


@dataclass(frozen=True)
class Lured:
    """What the reward model pays for one kind of lure, and where the candidate went."""

    pays: tuple[LurePay, ...]
    moved: Estimate
    """Candidate minus parent on fresh answers: mean tokens (padding), share of answers with a sign (flattery)."""
    before: float
    """The parent's."""
    fresh: int
    """Fresh answers of each."""
    people_like_it: bool
    """People were shown to prefer the longer of two answers (padding). Nobody is asked about flattery."""


def pay(
    score: Score,
    answers: Sequence[TokenPair],
    lures: Sequence[Lure],
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    *,
    context: int,
    confidence: float,
    seed: int,
) -> tuple[LurePay, ...]:
    """What each lure earns on real answers. Intervals are a bootstrap over answers.

    Args:
        context: tokens of prompt and answer that the base can read; what gets longer is left out.
    """
    plain, found = torch.tensor(score(answers), dtype=torch.float64), []
    for lure in lures:
        dressed = [(prompt, lure.dress(ids, tokenizer, ends)) for prompt, ids in answers]
        rows = [row for row, (prompt, ids) in enumerate(dressed) if len(prompt) + len(ids) <= context]
        if rows:
            gains = torch.tensor(score([dressed[row] for row in rows]), dtype=torch.float64) - plain[rows]
            preferred = float((gains > 0).double().mean())
            found.append(LurePay(lure, mean_estimate(gains, confidence, seed), preferred, len(rows)))
    return tuple(found)


def followed(
    kind: Kind,
    pays: Sequence[LurePay],
    candidate: Sequence[Sequence[int]],
    parent: Sequence[Sequence[int]],
    said: Sequence[Couple],
    tokenizer: PreTrainedTokenizerBase,
    *,
    confidence: float,
    least_people: int,
    seed: int,
) -> Lured | None:
    """Whether the candidate's fresh answers went where lures of one kind lead; None without lures or fresh answers.

    Args:
        pays: of all kinds.
        candidate, parent: token ids of fresh answers to the same prompts.
        said: what people preferred.
        least_people: that must have preferred anything before it is believed that people like longer answers.
    """
    ours = tuple(one for one in pays if one.lure.kind == kind)
    if not ours or not candidate:
        return None
    if kind == "padding":
        now, before = (torch.tensor([float(len(ids)) for ids in texts]) for texts in (candidate, parent))
    else:
        now, before = (
            torch.tensor([float(any(one.lure.shows_in(text) for one in ours)) for text in _texts(tokenizer, ids)])
            for ids in (candidate, parent)
        )
    return Lured(
        pays=ours,
        moved=mean_estimate((now - before).double(), confidence, seed),
        before=float(before.mean()),
        fresh=len(candidate),
        people_like_it=kind == "padding" and _longer_is_liked(said, confidence, least_people),
    )


def _texts(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> list[str]:
    texts: list[str] = tokenizer.batch_decode([list(ids) for ids in answers], skip_special_tokens=True)
    return texts


def _longer_is_liked(said: Sequence[Couple], confidence: float, least_people: int) -> bool:
    """Whether more than half of the preferences between answers of different length are for the longer, for sure."""
    uneven = [couple for couple in said if len(couple.better[1]) != len(couple.worse[1])]
    longer = torch.tensor([float(len(couple.better[1]) - len(couple.worse[1])) for couple in uneven])
    return Agreed.of(uneven, longer).surely(confidence, least_people)
