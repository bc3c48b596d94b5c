"""Langfuse's exports of traces and scores, as JSON or JSONL.

Looked at: version 4.16, `worker/src/features/batchExport`, `database-read-stream` and `blobstorage`, and the field
reference of the blob storage export. The export of a table names its columns in camelCase and puts a trace's scores
beside it, a column for each name; the blob storage export writes snake_case, scores in files of their own. Traces,
observations ("events") and scores may come in any number of files together: scores are gathered first. Which score is
the vote, the caller says by name. Its value is a thumb where it is 1, or 0 or -1, or a word for one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deploy.votes.jsonl import iso_ms, name_in
from deploy.votes.records import Item
from deploy.votes.vote import Vote, answer_of, chat_of, text_of
from schemas.errors import InvalidInput
from schemas.imported import ChatMessage

SOURCE = "langfuse"
MAX_SCORES = 1_000_000
"""Scores that are held in memory; they come in another order than their traces."""
_WORDS = {
    **dict.fromkeys(("true", "up", "good", "positive", "like", "liked", "thumbs_up", "thumbs-up", "👍"), True),
    **dict.fromkeys(
        ("false", "down", "bad", "negative", "dislike", "disliked", "thumbs_down", "thumbs-down", "👎"), False
    ),
}


@dataclass(frozen=True)
class Score:
    """What one score said of a trace, or of one observation in it."""

    value: Any
    at: int | None
    by_model: bool
    """An evaluator's, not a person's."""


@dataclass
class Scores:
    """The scores of one name, by what they speak of."""

    name: str | None
    """None: the only one that occurs."""
    of_trace: dict[str, list[Score]] = field(default_factory=dict)
    of_observation: dict[str, list[Score]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    count: int = 0

    def gather(self, items: Iterable[Item]) -> None:
        """Take the scores among `items`.

        Raises:
            InvalidInput: there are too many, or several names and none was chosen.
        """
        for item in items:
            if is_score(item.value) and (self.name is None or item.value["name"] == self.name):
                self._add(item.value)
        if self.name is None and len(self.names) > 1:
            raise InvalidInput(
                f"there are scores of several names: {', '.join(sorted(self.names)[:10])}",
                field="score",
                remedy="Say with --score which of them is the vote.",
            )

    def _add(self, row: dict[str, Any]) -> None:
        self.names.add(str(row["name"])[:64])
        if len(self.names) > 100 or self.count >= MAX_SCORES:
            raise InvalidInput(
                f"more than 100 names of scores, or more than {MAX_SCORES} scores",
                field="score",
                remedy="Say with --score which of them is the vote, or split the export.",
            )
        value, words = row.get("value"), _either(row, "stringValue", "string_value")
        # A boolean has both, a number only the value, a category only the words.
        score = Score(
            value if value is not None and not _is_category(row) else words, _at(row), row.get("source") == "EVAL"
        )
        observation = _either(row, "observationId", "observation_id")
        place = self.of_observation if observation else self.of_trace
        name = observation or _either(row, "traceId", "trace_id")
        if isinstance(name, str):
            place.setdefault(name, []).append(score)
            self.count += 1

    def of(self, row: dict[str, Any]) -> list[Score]:
        """The scores of a trace or observation: its own, and those of its trace where it is the root of it."""
        row_id, trace = row.get("id"), _either(row, "traceId", "trace_id")
        parent = _either(row, "parentObservationId", "parent_observation_id")
        found: list[Score] = []
        if trace is None:
            found += self.of_trace.get(str(row_id), [])
        else:
            found += self.of_observation.get(str(row_id), [])
            found += self.of_trace.get(str(trace), []) if not parent else []
        column = row.get(self.name) if self.name and self.name not in _COLUMNS else None
        values = column if isinstance(column, list) else []
        return found or [Score(value, None, False) for value in values]


_COLUMNS = frozenset({"tags", "comments", "input", "output", "metadata", "id"})


def is_score(value: Any) -> bool:
    """Whether an item is a score rather than a trace or an observation."""
    if not isinstance(value, dict) or "input" in value or not isinstance(value.get("name"), str):
        return False
    return bool({"dataType", "data_type", "stringValue", "string_value"} & value.keys())


def is_trace(value: Any) -> bool:
    """Whether an item is a trace or an observation."""
    return isinstance(value, dict) and "input" in value and "output" in value and "id" in value


def vote_of(row: Any, scores: Scores) -> Vote | str | None:
    """The vote on a trace or observation, in one word why there is none (unscored, not_a_thumb, contradicting,
    not_a_person, no_text), or None for a score.

    Raises:
        InvalidInput: the item is none of these.
    """
    if is_score(row):
        return None
    if not is_trace(row):
        raise InvalidInput("neither a trace nor a score of Langfuse", field="item")
    found = scores.of(row)
    if not found:
        return "unscored"
    people = [score for score in found if not score.by_model]
    if not people:
        return "not_a_person"
    verdicts = {_liked(score.value) for score in people}
    if None in verdicts:
        return "not_a_thumb"
    if len(verdicts) > 1:
        return "contradicting"
    try:
        messages, answer = _asked(_json(row["input"])), _answered(_json(row["output"]))
    except InvalidInput:
        return "no_text"
    if not messages or not answer.strip():
        return "no_text"
    return Vote(
        messages=messages,
        answers=(answer.strip(),),
        liked=verdicts.pop(),
        user=_short(row, "userId", "user_id"),
        session=_short(row, "sessionId", "session_id"),
        at=max((score.at for score in people if score.at is not None), default=_at(row)),
        source=SOURCE,
    )


def _either(row: dict[str, Any], first: str, second: str) -> Any:
    return row.get(first) if row.get(first) is not None else row.get(second)


def _is_category(row: dict[str, Any]) -> bool:
    return _either(row, "dataType", "data_type") in ("CATEGORICAL", "TEXT")


def _short(row: dict[str, Any], first: str, second: str) -> str | None:
    return name_in(row, first) or name_in(row, second)


def _at(row: dict[str, Any]) -> int | None:
    value = row.get("timestamp") or _either(row, "startTime", "start_time")
    return iso_ms(value, "timestamp") if isinstance(value, str) else None


def _liked(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def _json(value: Any) -> Any:
    """What an SDK wrote as JSON in a text comes back as that; any other text stays one."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _asked(value: Any) -> tuple[ChatMessage, ...]:
    """The conversation in an input: messages, an object that holds them, or a text."""
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    return chat_of(value, "input")


def _answered(value: Any) -> str:
    """The answer in an output: a text, a message, one in a list, or OpenAI's completion."""
    if isinstance(value, dict):
        choices = value.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            value = choices[0].get("message")
        if isinstance(value, dict) and "content" in value:
            return text_of(value["content"], "output")
    return answer_of(value, "output")
