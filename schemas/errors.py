"""The one exception tree. Everything Attune raises on purpose is an `AttuneError`."""

from __future__ import annotations

from typing import Self


class AttuneError(Exception):
    """Base of all errors raised on purpose.

    `field` names the input at fault and `remedy` what to do about it, where there is such a thing; both are
    safe to show to whoever made the request.
    """

    def __init__(self, message: str, *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message

    def again(self) -> Self:
        """The same error as an object of its own: raised in several threads, one would gather all their tracebacks."""
        own = type(self).__new__(type(self))
        own.__dict__.update(self.__dict__)
        own.args, own.__cause__ = self.args, self
        return own


class ConfigError(AttuneError):
    """A setting is missing, unknown or contradicts another."""


class InvalidInput(AttuneError):
    """A request, event or file from outside does not keep its contract."""


class HandleRefused(InvalidInput):
    """A feedback handle is malformed, forged, expired or speaks of something else. `reason` is one word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, field="handle", remedy="Send the handle exactly as it came with the answer.")
        self.reason = reason


class UnknownEvent(InvalidInput):
    """An event of a type or major version that this code does not know; it belongs in the dead letters."""


class SealBroken(AttuneError):
    """Sealed content cannot be opened: its key was destroyed, or the bytes were altered."""


class NotFound(AttuneError):
    """What was asked for does not exist."""


class Conflict(AttuneError):
    """The request contradicts what is already stored (an idempotency key reused for other content, say)."""


class Refused(AttuneError):
    """The policy journal folded an entry to `refused`; the message says why."""


class Unavailable(AttuneError):
    """A part that is needed (log, registry, engine) cannot be reached or is full; trying again may help."""


class IntegrityError(AttuneError):
    """Stored bytes do not match their digest, or an immutable thing would be overwritten."""
