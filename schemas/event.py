"""What all events share. An event is a past-tense, frozen, versioned fact; changes to one are additive."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field

from schemas.base import Id, Millis, PolicyName, Record


class Event(Record):
    """A fact on the log. `id` is unique for ever: a reader that sees it twice counts it once."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]
    MAJOR: ClassVar[int] = 1

    id: Id
    at: Millis = Field(description="event time: when it happened at the source")
    policy: PolicyName
    tenant: Id

    @abstractmethod
    def key(self) -> str:
        """The partition key: events of one key keep their order."""

    @classmethod
    def wire_type(cls) -> str:
        """The CloudEvents `type`, such as `attune.feedback.received.v1`."""
        return f"{cls.TYPE}.v{cls.MAJOR}"
