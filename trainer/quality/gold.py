"""Gold items: answers whose verdict the operator knows, to see who reads what they judge. Knows the file; asks nobody.

One JSON object a line: `messages`, and for a gold item `answer` and `good`. Lines without an answer are ordinary
questions, among which `attune raters ask` hides the gold ones; here they are passed over. An answer of Attune's is a
gold item where the engine saw the same prompt and the person the same text, whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from schemas.base import Body
from schemas.errors import ConfigError, InvalidInput
from schemas.imported import ChatMessage
from schemas.wire import validation_summary

MAX_FILE_BYTES = 20_000_000
Shown = tuple[tuple[int, ...], str]
"""Prompt as the engine saw it, and the text that was shown."""


class AskedItem(Body):
    """One line."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, description="as for the chat API, text alone")
    answer: str | None = Field(default=None, min_length=1, description="what is shown; none: whatever the policy says")
    good: bool | None = Field(default=None, strict=True, description="the known verdict on `answer`")

    @model_validator(mode="after")
    def _both(self) -> AskedItem:
        if (self.answer is None) != (self.good is None):
            raise ValueError("answer and good come together")
        return self


def read_items(path: Path) -> tuple[AskedItem, ...]:
    """The lines of a file; blank ones are skipped.

    Raises:
        ConfigError: the file cannot be read, is too large or empty, or a line of it is faulty (named by number).
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", field="gold")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", field="gold") from error
    items: list[AskedItem] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                items.append(AskedItem.model_validate_json(line))
            except ValidationError as error:
                words = f"line {number} of {path.name} is no item: {validation_summary(error)}"
                raise ConfigError(words, field="gold") from error
    if not items:
        raise ConfigError(f"{path.name} has no items", field="gold")
    return tuple(items)


def gold_of(
    items: Sequence[AskedItem], encode_chat: Callable[[Sequence[ChatMessage], str], tuple[tuple[int, ...], object]]
) -> Mapping[Shown, bool]:
    """Which prompts with which texts are gold, and whether they are good.

    Args:
        encode_chat: a conversation and an answer -> the prompt's token ids by the base's chat template, and the
            answer's, which nobody asks for.

    Raises:
        ConfigError: the base's template cannot render an item, or it is too long.
    """
    found: dict[Shown, bool] = {}
    for number, item in enumerate(items, start=1):
        if item.answer is not None and item.good is not None:
            try:
                prompt, _ = encode_chat(item.messages, item.answer)
            except InvalidInput as error:
                raise ConfigError(f"item {number} cannot be asked: {error.message}", field="gold") from error
            found[tuple(prompt), item.answer.strip()] = item.good
    return found
