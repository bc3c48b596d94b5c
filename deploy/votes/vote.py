"""One vote as any file may hold it, and the text of chats in the shapes that other systems write them.

Knows text and limits; knows no file format and nothing of how a vote is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import InvalidInput
from schemas.imported import ChatMessage

MAX_MESSAGES = 256
MAX_VOTE_BYTES = 1_000_000
"""Of one vote's text: as much as a chat request may have."""
BY_MODEL = "said_by_a_model"
"""Why a vote of the source `ai` is left out of what has no place for that mark."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@dataclass(frozen=True)
class Vote:
    """A verdict on one answer, or a preference of one over another."""

    messages: tuple[ChatMessage, ...]
    """The conversation up to where the answer begins."""
    answers: tuple[str, ...]
    """The answer judged; of a preference, the better one first."""
    liked: bool | None
    """None: a preference."""
    user: str | None = None
    """Who voted, as their app calls them."""
    session: str | None = None
    """The conversation, as their app calls it."""
    at: int | None = None
    """When, ms since the epoch; None where nobody knows."""
    language: str | None = None
    domain: str | None = None
    source: str = "jsonl"

    def __post_init__(self) -> None:
        """Raises InvalidInput where there is nothing to learn from, or too much to keep."""
        if not self.messages:
            raise InvalidInput("there is no conversation before the answer", field="messages")
        if len(self.messages) > MAX_MESSAGES:
            raise InvalidInput(f"more than {MAX_MESSAGES} messages", field="messages")
        if not all(answer.strip() for answer in self.answers):
            raise InvalidInput("an answer is empty", field="answer")
        if len(set(self.answers)) != len(self.answers):
            raise InvalidInput("chosen and rejected are the same", field="rejected")
        size = sum(len(_utf8(text)) for text in (*self.answers, *(message.content for message in self.messages)))
        if size > MAX_VOTE_BYTES:
            raise InvalidInput(f"more than {MAX_VOTE_BYTES} bytes of text", field="messages")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the text is no valid Unicode", field="messages") from error


def chat_of(value: Any, field: str) -> tuple[ChatMessage, ...]:
    """A conversation: a list of messages with role and content, or one text, which is the user's.

    Raises:
        InvalidInput: it is neither, or holds something else than text.
    """
    if isinstance(value, str):
        return (ChatMessage(role="user", content=value),) if value.strip() else ()
    if not isinstance(value, list):
        raise InvalidInput("neither a text nor a list of messages", field=field)
    return tuple(_message(item, field) for item in value)


def _message(item: Any, field: str) -> ChatMessage:
    role = _ROLES.get(str(item.get("role"))) if isinstance(item, dict) else None
    if role is None:
        raise InvalidInput(f"a message needs a role, one of {', '.join(_ROLES)}", field=field)
    return ChatMessage.model_validate({"role": role, "content": text_of(item.get("content"), field)})


def text_of(content: Any, field: str) -> str:
    """The text of a message's content: as it is, or of its parts where all of them are text.

    Raises:
        InvalidInput: it is no text, or has parts (images, files) that are none.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    raise InvalidInput("only text can be imported", field=field)


def answer_of(value: Any, field: str) -> str:
    """One answer: a text, or a list of exactly one message of the assistant.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(value, str):
        return value
    messages = chat_of(value, field)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise InvalidInput("an answer is a text, or one message of the assistant", field=field)
    return messages[0].content


def common_start(first: Sequence[ChatMessage], second: Sequence[ChatMessage]) -> int:
    """How many messages two conversations share from their beginning."""
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return length
