"""What is counted on the way to the log. Knows a few words; where the counts go is the listener's matter."""

from __future__ import annotations

from typing import Protocol


class Tally(Protocol):
    """Told of what does not go as it should. Called from several threads; must not block or raise."""

    def failed(self, reason: str) -> None:
        """A delivery failed: `unavailable`, `refused` (a record, for good), `fault` or `spool` (it cannot be read)."""
        ...

    def dropped(self, topic: str, reason: str) -> None:
        """A record was not kept: `queue_full`, `spool_full`, `disk`, `log_away` or `stopping`."""
        ...

    def buried(self, where: str) -> None:
        """A record became a dead letter: in the `topic`, in the `file`, or `lost`."""
        ...


class NoTally:
    """Counts nothing."""

    def failed(self, reason: str) -> None:
        """Nothing."""

    def dropped(self, topic: str, reason: str) -> None:
        """Nothing."""

    def buried(self, where: str) -> None:
        """Nothing."""
