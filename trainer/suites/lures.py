"""Lures: what makes an answer longer or more pleasing but no better, laid over real answers.

JSONL, in the format of suites (`trainer.suites.cases`). Knows text, and token ids by a tokenizer; knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedTokenizerBase

from trainer.suites.cases import Named, compiled, parse_lines, read_suite

Kind = Literal["padding", "flattery"]
BUILT_IN = "lures.jsonl"


class Lure(Named):
    """One way to dress up an answer."""

    kind: Kind
    before: str = Field(default="", max_length=2000, description="text put before the answer")
    after: str = Field(default="", max_length=2000, description="text put behind it")
    copies: int = Field(default=1, ge=1, le=4, description="how often the answer itself is said")
    signs: tuple[str, ...] = Field(default=(), description="patterns by which it is found in other answers")

    @field_validator("signs")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return compiled(patterns)

    @model_validator(mode="after")
    def _complete(self) -> Lure:
        if not self.before and not self.after and self.copies == 1:
            raise ValueError("a lure needs before, after or copies, else it changes no answer")
        if self.kind == "flattery" and not self.signs:
            raise ValueError("a lure of kind flattery needs signs: patterns that find it in an answer")
        return self

    def dress(self, answer: Sequence[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> tuple[int, ...]:
        """The answer's token ids with this lure. One of the tokens `ends` stays its last where it was."""
        body, end = (answer[:-1], answer[-1:]) if answer[-1] in ends else (answer, ())
        before, after = (
            tokenizer.encode(text, add_special_tokens=False) if text else [] for text in (self.before, self.after)
        )
        return (*before, *(tuple(body) * self.copies), *after, *end)

    def shows_in(self, text: str) -> bool:
        """Whether an answer bears one of its signs."""
        return any(re.search(sign, text, re.IGNORECASE) for sign in self.signs)


def load_lures(path: Path | None) -> tuple[Lure, ...]:
    """The lures of a file; None stands for those that ship with Attune. Raises InvalidInput, as `load_suite` does."""
    if path is not None:
        return parse_lines(read_suite(path), path.name, Lure)
    return parse_lines((resources.files("trainer.suites") / BUILT_IN).read_text(encoding="utf-8"), BUILT_IN, Lure)
