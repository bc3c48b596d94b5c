"""Votes in JSONL: our own shape and TRL's preference shapes, which are one family.

One object a line. What was asked: `prompt` or `messages`, a list of messages with `role` and `content`, or a text. What
was said of it, either

- `chosen` and `rejected`: texts, or one message of the assistant each; without a prompt, whole conversations that begin
  alike (TRL's implicit prompt); or
- `answer` (or `completion`), and `liked` (or `label`), which is true or false.

Optional: `user`, `session`, `at` (ISO 8601, or ms since the epoch), `language`, `domain`, `source`. Other fields are
left unread: data sets have columns of their own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deploy.votes.vote import Vote, answer_of, chat_of, common_start
from schemas.base import Slug
from schemas.errors import InvalidInput
from schemas.imported import ChatMessage

FIELDS = frozenset(
    {"prompt", "messages", "chosen", "rejected", "answer", "completion", "liked", "label"}
    | {"user", "session", "at", "language", "domain", "source"}
)
MAX_NAME = 512
_SLUG: TypeAdapter[str] = TypeAdapter(Slug)


def vote_of(line: Any) -> Vote:
    """The vote in a line.

    Raises:
        InvalidInput: the line has not this shape; the message names the field and repeats nothing of what it holds.
    """
    if not isinstance(line, dict):
        raise InvalidInput("no JSON object", field="line")
    asked = _one_of(line, "prompt", "messages")
    messages = () if asked is None else chat_of(line[asked], asked)
    answers: tuple[str, ...]
    if "chosen" in line or "rejected" in line:
        liked = None
        messages, answers = _preference(line, messages)
    else:
        name, label = _one_of(line, "answer", "completion"), _one_of(line, "liked", "label")
        if name is None or label is None:
            raise InvalidInput("needs chosen and rejected, or an answer and whether it was liked", field="answer")
        liked, answers = line[label], (answer_of(line[name], name),)
        if not isinstance(liked, bool):
            raise InvalidInput(f"{label} must be true or false", field=label)
    return Vote(
        messages=messages,
        answers=tuple(answer.strip() for answer in answers),
        liked=liked,
        user=name_in(line, "user"),
        session=name_in(line, "session"),
        at=_time(line.get("at")),
        language=_slug(line, "language"),
        domain=_slug(line, "domain"),
        source=_slug(line, "source") or "jsonl",
    )


def _one_of(line: dict[str, Any], *names: str) -> str | None:
    present = [name for name in names if line.get(name) is not None]
    if len(present) > 1:
        raise InvalidInput(f"{' and '.join(present)} mean the same: give one", field=present[0])
    return present[0] if present else None


def _preference(
    line: dict[str, Any], messages: tuple[ChatMessage, ...]
) -> tuple[tuple[ChatMessage, ...], tuple[str, str]]:
    chosen, rejected = line.get("chosen"), line.get("rejected")
    if chosen is None or rejected is None:
        missing = "chosen" if chosen is None else "rejected"
        raise InvalidInput(f"{missing} is missing", field=missing)
    if not messages and isinstance(chosen, list) and isinstance(rejected, list):
        better, worse = chat_of(chosen, "chosen"), chat_of(rejected, "rejected")
        shared = common_start(better, worse)
        messages = better[:shared]
        chosen, rejected = ([one.model_dump() for one in chat[shared:]] for chat in (better, worse))
    return messages, (answer_of(chosen, "chosen"), answer_of(rejected, "rejected"))


def name_in(line: dict[str, Any], name: str) -> str | None:
    """What an app calls a user or a session, where it says. Raises InvalidInput where that is no short text."""
    value = line.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise InvalidInput(f"{name} must be a text of at most {MAX_NAME} characters", field=name)
    return value


def _slug(line: dict[str, Any], name: str) -> str | None:
    if line.get(name) is None:
        return None
    try:
        return _SLUG.validate_python(line[name])
    except ValidationError as error:
        raise InvalidInput(
            f"{name} must be a short name: letters, digits, dot, dash, underscore", field=name
        ) from error


def _time(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10**11:
        return value
    if isinstance(value, str):
        return iso_ms(value, "at")
    raise InvalidInput("at must be ISO 8601, or milliseconds since 1970", field="at")


def iso_ms(text: str, field: str) -> int:
    """A moment in ISO 8601 as ms since the epoch; without a zone it is UTC. Raises InvalidInput where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{field} is no moment in ISO 8601", field=field) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, round(moment.timestamp() * 1000))
