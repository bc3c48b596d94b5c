"""Suites put to a model: greedy answers, judged by the cases. Knows models and cases; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trainer.gates.sample import render_chat, sample
from trainer.models.base import SharedBase
from trainer.suites.cases import SuiteCase


def run_suite(
    base: SharedBase,
    role: str | None,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[SuiteCase],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> dict[str, bool]:
    """Case name -> whether the greedy answer of `role` (None: the frozen base) passes. Equal weights, equal result."""
    if not cases:
        return {}
    prompts = [render_chat(tokenizer, case.chat()) for case in cases]
    answers = sample(base, role, prompts, max_new_tokens=max_new_tokens, greedy=True, seed=0, batch_size=batch_size)
    texts = tokenizer.batch_decode([list(answer) for answer in answers], skip_special_tokens=True)
    return {case.name: case.passes(text) for case, text in zip(cases, texts, strict=True)}
