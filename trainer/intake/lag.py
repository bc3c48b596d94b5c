"""How far reading is behind the log, by topic, in records and in seconds. Pure but for the clock it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lag:
    """How far one topic has been read."""

    records: int
    """On the log and not yet read."""
    seconds: float
    """How long ago, at most, the oldest of them came."""


@dataclass
class LagMeter:
    """Turns what is unread into ages.

    What is unread came after whatever was read last, and after the last look at which nothing was unread: the later of
    the two bounds its age. So a topic on which nothing happens is not behind however old its newest record is.
    """

    now_ms: Callable[[], int]
    _caught_up: dict[str, int] = field(default_factory=dict)

    def look(self, unread: Mapping[str, int], newest_read_ms: Mapping[str, int]) -> dict[str, Lag]:
        """The lag of every topic now.

        Args:
            unread: records by topic.
            newest_read_ms: when the newest record that was read came to the log (ms since the epoch), by topic.
        """
        now = self.now_ms()
        found: dict[str, Lag] = {}
        for topic, records in unread.items():
            if records <= 0:
                self._caught_up[topic] = now
            since = max(self._caught_up.setdefault(topic, 0), newest_read_ms.get(topic, 0)) or now
            found[topic] = Lag(max(0, records), max(0, now - since) / 1000)
        return found
