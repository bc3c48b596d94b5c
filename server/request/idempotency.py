"""Remembers which request was made under an idempotency key, so that a key cannot come to mean two things.

It remembers the latest ones of this process only. That the same key gives the same answer everywhere does not depend
on it: ids are derived from the key. What a restart or another replica cannot see is that the key came with other
content: then the event that lies first on the log counts, as readers count an id once.
"""

from __future__ import annotations

from collections import OrderedDict

from exchange.log.line import Durable
from schemas.errors import Conflict


class Remembered:
    """The latest `limit` keyed requests. For one event loop."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        # id -> digest of the content, and where it is durable (None: nowhere yet)
        self._known: OrderedDict[str, tuple[str, Durable | None]] = OrderedDict()

    def begin(self, item_id: str, digest: str) -> Durable | None:
        """Note a request; where the very same one was stored before, None if it was not.

        Raises:
            Conflict: the id was used for other content.
        """
        known = self._known.get(item_id)
        if known is None:
            self._known[item_id] = (digest, None)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
            return None
        if known[0] != digest:
            raise Conflict(
                "this idempotency_key was used for other content",
                field="idempotency_key",
                remedy="Use a new key for new feedback; `supersedes` replaces an earlier one.",
            )
        return known[1]

    def stored(self, item_id: str, digest: str, durable: Durable) -> None:
        """The request is durable."""
        self._known[item_id] = (digest, durable)

    def failed(self, item_id: str) -> None:
        """The request is not durable; it may be tried again, with other content too."""
        known = self._known.get(item_id)
        if known is not None and known[1] is None:
            del self._known[item_id]
