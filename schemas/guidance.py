"""Guidance: what those are told who judge a policy's answers, and what the policy is asked by hand.

Guidelines are Markdown for raters, a constitution is a list of written principles (for raters, and for a model that
labels), prompts are curated conversations to be answered. Knows what their files must hold, and the answers of the API
about them; stores and publishes nothing. A published file is the file that was written, with its line ends made one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from schemas.answers import Answer
from schemas.base import Body, Millis, Sha256, Slug
from schemas.errors import InvalidInput
from schemas.manifests import GuidanceKind
from schemas.wire import validation_summary

MAX_GUIDELINES, MAX_PRINCIPLES, MAX_PROMPTS = 100_000, 64, 10_000
"""Characters; principles of a constitution; prompts of a set."""
MAX_BYTES: Mapping[GuidanceKind, int] = MappingProxyType(
    {GuidanceKind.GUIDELINES: 400_000, GuidanceKind.CONSTITUTION: 1_000_000, GuidanceKind.PROMPTS: 16_000_000}
)
FILES: Mapping[GuidanceKind, str] = MappingProxyType(
    {
        GuidanceKind.GUIDELINES: "guidelines.md",
        GuidanceKind.CONSTITUTION: "constitution.toml",
        GuidanceKind.PROMPTS: "prompts.jsonl",
    }
)
"""The one file of each kind, as it is stored."""
# Terminals obey control characters, and marks of direction make a text read as another than a model is given.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def _plain(text: str) -> str:
    if found := _UNSEEN.search(text):
        raise ValueError(f"the character U+{ord(found[0]):04X} at place {found.start()} is not allowed")
    if not text.strip():
        raise ValueError("there is no text")
    return text


_Plain = AfterValidator(_plain)


class Principle(Body):
    """One written principle."""

    id: Slug
    text: Annotated[str, StringConstraints(max_length=4_000), _Plain]


class Constitution(Body):
    """The principles that a policy's answers are judged by, the weightiest first."""

    principles: tuple[Principle, ...] = Field(min_length=1, max_length=MAX_PRINCIPLES)

    @model_validator(mode="after")
    def _named_once(self) -> Constitution:
        if len({principle.id for principle in self.principles}) < len(self.principles):
            raise ValueError("two principles have the same id")
        return self


class PromptMessage(Body):
    """One message of a curated conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=20_000), _Plain]


class CuratedPrompt(Body):
    """One conversation to be answered, written by hand: of no person's words."""

    name: Slug = Field(description="unique in its set")
    language: Slug | None = None
    domain: Slug | None = None
    messages: tuple[PromptMessage, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> CuratedPrompt:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self


class _Guidelines(Body):
    text: Annotated[str, StringConstraints(max_length=MAX_GUIDELINES), _Plain]


def parse_constitution(text: str) -> Constitution:
    """A constitution out of TOML: `[[principles]]` with `id` and `text`. Raises InvalidInput."""
    try:
        return Constitution.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"the constitution is no TOML: {error}", field="constitution") from error
    except ValidationError as error:
        raise InvalidInput(f"this is no constitution: {validation_summary(error)}", field="constitution") from error


def parse_prompts(text: str) -> tuple[CuratedPrompt, ...]:
    """A prompt set out of JSONL: one CuratedPrompt a line, blank lines skipped. Raises InvalidInput with the line."""
    prompts: dict[str, CuratedPrompt] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = CuratedPrompt.model_validate_json(line)
        except ValidationError as error:
            raise InvalidInput(f"line {number} is no prompt: {validation_summary(error)}", field="prompts") from error
        if prompts.setdefault(prompt.name, prompt) is not prompt:
            raise InvalidInput(f"line {number}: the name {prompt.name} is taken by an earlier line", field="prompts")
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidInput(f"there are {len(prompts)} prompts, not 1 to {MAX_PROMPTS}", field="prompts")
    return tuple(prompts.values())


def _check_guidelines(text: str) -> None:
    try:
        _Guidelines(text=text)
    except ValidationError as error:
        raise InvalidInput(f"these are no guidelines: {validation_summary(error)}", field="guidelines") from error


_CHECKS: Mapping[GuidanceKind, Callable[[str], object]] = MappingProxyType(
    {
        GuidanceKind.GUIDELINES: _check_guidelines,
        GuidanceKind.CONSTITUTION: parse_constitution,
        GuidanceKind.PROMPTS: parse_prompts,
    }
)


def checked_text(kind: GuidanceKind, raw: bytes) -> str:
    """The text of a file of guidance, its line ends made one.

    Raises:
        InvalidInput: it is too large, is not UTF-8, or does not hold what its kind must; the message names the field.
    """
    if len(raw) > MAX_BYTES[kind]:
        raise InvalidInput(f"the file has {len(raw)} bytes, and {MAX_BYTES[kind]} are the most", field=kind.value)
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the file is not UTF-8 at byte {error.start}", field=kind.value) from error
    _CHECKS[kind](text)
    return text


# --- answers of the API -----------------------------------------------------------------------------------------


class GuidanceShown(Answer):
    """One published version."""

    kind: GuidanceKind
    version: str = Field(description="e.g. support@v2; versions are counted by kind")
    digest: Sha256
    created_at: Millis = Field(description="from when on it was in force")
    note: str
    text: str = Field(description="the file as it was published: Markdown, TOML or JSONL")
    principles: list[Principle] | None = Field(description="of a constitution")


class GuidanceNow(Answer):
    """What is in force for a policy; null where nothing was published."""

    policy: str
    guidelines: GuidanceShown | None
    constitution: GuidanceShown | None
    prompts: str | None = Field(description="the newest prompt set, e.g. support@v2")
