"""Suites put to a model: greedy answers, judged by the cases, a few of them kept to show what changed.

Knows models and cases; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from schemas.manifests import AnswerExample
from trainer.gates.sample import render_chat, sample
from trainer.models.base import SharedBase
from trainer.suites.cases import SuiteCase
from trainer.suites.loading import Suites


def answer_suite(
    base: SharedBase,
    role: str | None,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[SuiteCase],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> dict[str, str]:
    """Case name -> the greedy answer of `role` (None: the frozen base). Equal weights, equal answers."""
    if not cases:
        return {}
    prompts = [render_chat(tokenizer, case.chat()) for case in cases]
    answers = sample(base, role, prompts, max_new_tokens=max_new_tokens, greedy=True, seed=0, batch_size=batch_size)
    texts = tokenizer.batch_decode([list(answer) for answer in answers], skip_special_tokens=True)
    return {case.name: text for case, text in zip(cases, texts, strict=True)}


@dataclass(frozen=True)
class SuiteAnswers:
    """The greedy answers of one policy to both suites, by case name."""

    ability: Mapping[str, str]
    red_team: Mapping[str, str]


def judged(cases: Sequence[SuiteCase], answers: Mapping[str, str]) -> dict[str, bool]:
    """Case name -> whether its answer passes."""
    return {case.name: case.passes(answers[case.name]) for case in cases}


def changed_examples(
    suites: Suites, before: SuiteAnswers, after: SuiteAnswers, most: int = 5
) -> tuple[AnswerExample, ...]:
    """A few cases with the parent's and the candidate's answer, those that changed first; long texts are cut."""
    said = [(case, before.ability[case.name], after.ability[case.name]) for case in suites.ability]
    said += [(case, before.red_team[case.name], after.red_team[case.name]) for case in suites.red_team]
    said.sort(key=lambda one: one[1] == one[2])  # stable: else in the order of the suites
    return tuple(
        AnswerExample(name=case.name, question=_cut(case.messages[-1].content), before=_cut(old), after=_cut(new))
        for case, old, new in said[:most]
    )


def _cut(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
