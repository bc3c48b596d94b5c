"""What became of one word of feedback, as the API and the command line say it. Names no person and no candidate."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from schemas.base import Id, Millis, PolicyName, Record, Sha256


class FateStatus(StrEnum):
    """How far a word has come."""

    WAITING = "waiting"
    IN_SNAPSHOT = "in_snapshot"
    IN_VERSION = "in_version"
    EXCLUDED = "excluded"


class Accepted(Record):
    """When a word became durable, and where it lies on the log."""

    at: Millis = Field(description="when the log took it")
    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class Joined(Record):
    """The first snapshot that holds a word."""

    snapshot: Sha256
    watermark: Millis = Field(description="event time that the snapshot reaches to")
    held_out: bool = Field(description="there it judges the reward model and trains nothing")


class Excluded(Record):
    """What the newest snapshot that knows a word says against it."""

    snapshot: Sha256
    reason: str
    explanation: str


class Fate(Record):
    """What became of a word."""

    id: Id
    policy: PolicyName
    kind: str = Field(description="of signal")
    status: FateStatus
    explanation: str = Field(description="the whole in plain words")
    accepted: Accepted
    joined: Joined | None = None
    excluded: Excluded | None = None
    versions: tuple[str, ...] = Field(default=(), description="trained on snapshots that hold it, oldest first")
    judged: tuple[str, ...] = Field(default=(), description="trained on snapshots in which it was held out")
    complete: bool = Field(default=True, description="False where some snapshots could not be looked at")
