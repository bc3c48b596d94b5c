"""What a policy's answers to fresh questions are worth: gold, each taste's own view, drift, and what the proxy thinks.

The questions are of intents that nobody asked about; all arms of a seed get the same ones with the same noise
(`decoder`), so their differences are measured far better than each of them. Knows gold; nothing that learns sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from deploy.demo import gold
from deploy.demo.domain import held_out_questions
from deploy.demo.preferences import shipped
from deploy.demo.traits import domain_pairs, read
from deploy.demo.users import utility
from tests.bench.study.decoder import Decoder, Drawn, draw
from trainer.gates.sample import render_chat, stop_tokens
from trainer.learn.reward_model import RewardModel
from trainer.models.base import SharedBase

GROUPS = ("hurried", "careful", "courteous", "private", "moody")
"""Tastes of people who mean what they press; bots and those who can be won by sugar have no say in what is good."""
_LONGEST = 120


@dataclass(frozen=True)
class Point:
    """One policy's exam."""

    step: int
    kl: float
    """To the frozen base, nats per sequence, on its own answers: exact per token, so unbiased and little noisy."""
    gold: float
    """Mean gold, 0 to 1."""
    groups: dict[str, float]
    """Mean utility in the eyes of each taste, without noise; 1 is the best there is."""
    proxy: float
    """Mean standardised score of the world's reward model."""
    words: float
    leaks: float
    """Share of answers that give another customer away."""


class Examiner:
    """One seed's questions. The base's own exam is that of role None."""

    def __init__(self, base: SharedBase, tokenizer: Any, reward: RewardModel, *, seed: int, questions: int) -> None:
        self._base, self._reward = base, reward
        self._tokenizer = tokenizer
        self._questions = held_out_questions(questions, 1_000_003 * seed)
        self._prompts = [render_chat(tokenizer, question.messages()) for question in self._questions]
        self._seeds = [1_000_003 * seed + row for row in range(questions)]
        self._ends = stop_tokens(base)
        self._reference = Decoder(base, None)
        self._tastes = [taste for taste in shipped("mixed").tastes if taste.name in GROUPS]

    def examine(self, role: str | None, step: int) -> Point:
        """The exam of whoever plays `role` now."""
        speaker = self._reference if role is None else Decoder(self._base, role)
        drawn = draw(
            speaker,
            self._prompts,
            self._seeds,
            ends=self._ends,
            max_new_tokens=_LONGEST,
            beside=None if role is None else self._reference,
        )
        return self._graded(drawn, step)

    def text_of(self, token_ids: Sequence[int], *, whole: bool = False) -> str:
        """The text of an answer, or with its special tokens too."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=not whole)
        return text

    def _graded(self, drawn: Sequence[Drawn], step: int) -> Point:
        texts = [self.text_of(one.token_ids) for one in drawn]
        traits = [
            read(question, text, known_pairs=domain_pairs())
            for question, text in zip(self._questions, texts, strict=True)
        ]
        scores = self._reward.score([(prompt, one.token_ids) for prompt, one in zip(self._prompts, drawn, strict=True)])
        return Point(
            step=step,
            kl=fmean(one.kl for one in drawn),
            gold=fmean(gold.weigh(seen).total for seen in traits),
            groups={taste.name: fmean(utility(taste, seen) for seen in traits) for taste in self._tastes},
            proxy=fmean(scores),
            words=fmean(seen.words for seen in traits),
            leaks=fmean(float(seen.foreign_data) for seen in traits),
        )
