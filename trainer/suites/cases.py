"""The format of a suite file, and how an answer is judged by it.

A suite is JSONL, one case a line; blank lines and lines that start with `#` are skipped. Patterns are Python regular
expressions, searched anywhere in the answer, ignoring case. Knows text; knows no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.base import Body, Slug
from schemas.errors import InvalidInput
from schemas.wire import validation_summary

BUILT_IN = ("retained_ability", "red_team")
_C = TypeVar("_C", bound="Named")


class Named(Body):
    """A line of a suite file."""

    name: Slug


class Message(Body):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class SuiteCase(Named):
    """One question and what its answer must and must not say."""

    messages: tuple[Message, ...] = Field(min_length=1)
    must_match: tuple[str, ...] = Field(default=(), description="each must be found in the answer")
    must_not_match: tuple[str, ...] = Field(default=(), description="none may be found in the answer")
    tags: tuple[Slug, ...] = ()

    @field_validator("must_match", "must_not_match")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return compiled(patterns)

    @model_validator(mode="after")
    def _judges_something(self) -> SuiteCase:
        if not self.must_match and not self.must_not_match:
            raise ValueError("a case needs must_match or must_not_match, else every answer passes")
        return self

    def passes(self, answer: str) -> bool:
        """Whether `answer` has all that it must have and nothing that it must not."""
        wanted = all(re.search(pattern, answer, re.IGNORECASE) for pattern in self.must_match)
        return wanted and not any(re.search(pattern, answer, re.IGNORECASE) for pattern in self.must_not_match)

    def chat(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them."""
        return [message.model_dump() for message in self.messages]


def load_suite(path: Path) -> tuple[SuiteCase, ...]:
    """The cases of a suite file.

    Raises:
        InvalidInput: the file is missing, empty, has a faulty line (the message names file and line) or a name twice.
    """
    return parse_suite(read_suite(path), path.name)


def read_suite(path: Path) -> str:
    """The text of a suite file. Raises InvalidInput where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the suite {path} cannot be read: {error}", field="suites") from error


def built_in_suite(name: str) -> tuple[SuiteCase, ...]:
    """A suite that ships with Attune: one of `BUILT_IN`."""
    file = f"{name}.jsonl"
    return parse_suite((resources.files("trainer.suites") / file).read_text(encoding="utf-8"), file)


def parse_suite(text: str, name: str) -> tuple[SuiteCase, ...]:
    """The cases in the text of a suite file called `name`. Raises InvalidInput, as `load_suite` does."""
    return parse_lines(text, name, SuiteCase)


def parse_lines(text: str, name: str, case: type[_C]) -> tuple[_C, ...]:
    """The cases of any kind in the text of a suite file called `name`. Raises InvalidInput, as `load_suite` does."""
    cases: list[_C] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"line {number} of the suite {name}"
        try:
            cases.append(case.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{where} is no JSON: {error}", field="suites") from error
        except ValidationError as error:
            raise InvalidInput(f"{where} is no case: {validation_summary(error)}", field="suites") from error
    if not cases:
        raise InvalidInput(f"the suite {name} has no cases", field="suites")
    _unique([case.name for case in cases], name)
    return tuple(cases)


def compiled(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns themselves. Raises ValueError, for pydantic, where one is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return patterns


def _unique(names: Sequence[str], suite: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"the suite {suite} has more than one case named {', '.join(twice)}", field="suites")
