"""From files to votes, whatever their format: one stream of what was found, with its place.

Knows which reader takes which format; knows nothing of what becomes of a vote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy.votes import jsonl, langfuse, open_webui
from deploy.votes.records import Advance, Item, read_items
from deploy.votes.vote import BY_MODEL, Vote
from schemas.errors import ConfigError, InvalidInput
from schemas.feedback import FeedbackSource


class Format(StrEnum):
    """What a file is. `jsonl` is ours and TRL's."""

    AUTO = "auto"
    JSONL = "jsonl"
    OPEN_WEBUI = "open-webui"
    LANGFUSE = "langfuse"


@dataclass(frozen=True)
class Found:
    """One item of a file: a vote, or why there is none."""

    place: str
    vote: Vote | None = None
    left_out: str | None = None
    """In one word: it was understood, and is no vote that can be learnt from."""
    bad: str | None = None
    """It was not understood."""
    unread: frozenset[str] = frozenset()
    """Names of fields that were left unread."""


class VoteReader:
    """The votes in some files, as often as they are asked for.

    Raises:
        InvalidInput: a file cannot be read, or it cannot be told what it is.
        ConfigError: `score` was given for files that have none.
    """

    def __init__(self, paths: Sequence[Path], format: Format = Format.AUTO, score: str | None = None) -> None:
        self._paths = paths
        self.format = format if format is not Format.AUTO else _format_of(paths)
        if score is not None and self.format is not Format.LANGFUSE:
            raise ConfigError("only Langfuse's exports have scores", field="score", remedy="Leave --score out.")
        self._scores = langfuse.Scores(score)
        if self.format is Format.LANGFUSE:
            self._scores.gather(item for path in paths for item in read_items(path))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(path.stat().st_size for path in self._paths)

    def read(self, advance: Advance = lambda _: None) -> Iterator[Found]:
        """Everything in the files, in order. `advance` is told the bytes read so far, over all files."""
        before = 0
        for path in self._paths:
            here = f"{path.name}, " if len(self._paths) > 1 else ""
            for item in read_items(path, lambda read, start=before: advance(start + read)):  # type: ignore[misc]
                found = self._found(item, f"{here}{item.place}")
                if found is not None:
                    yield found
            before += path.stat().st_size

    def _found(self, item: Item, place: str) -> Found | None:
        if item.fault is not None:
            return Found(place, bad=item.fault)
        try:
            match self.format:
                case Format.OPEN_WEBUI:
                    read: Vote | str | None = open_webui.vote_of(item.value)
                case Format.LANGFUSE:
                    read = langfuse.vote_of(item.value, self._scores)
                case _:
                    read = jsonl.vote_of(item.value)
        except InvalidInput as error:
            return Found(place, bad=f"{error.field}: {error.message}" if error.field else error.message)
        if read is None:
            return None
        if isinstance(read, str):
            return Found(place, left_out=read)
        if read.source == FeedbackSource.AI:  # what is imported counts as people's
            return Found(place, left_out=BY_MODEL)
        return Found(place, vote=read, unread=_unread(item.value, self.format))


def _unread(value: Any, format: Format) -> frozenset[str]:
    return frozenset(str(name)[:64] for name in value.keys() - jsonl.FIELDS) if format is Format.JSONL else frozenset()


def _format_of(paths: Sequence[Path]) -> Format:
    """What the first readable item of the files says they are."""
    for path in paths:
        for item in read_items(path):
            if item.fault is None:
                if open_webui.is_feedback(item.value):
                    return Format.OPEN_WEBUI
                is_langfuse = langfuse.is_trace(item.value) or langfuse.is_score(item.value)
                return Format.LANGFUSE if is_langfuse else Format.JSONL
    return Format.JSONL
