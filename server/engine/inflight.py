"""Counts who is using which model name, and waits until nobody is. Knows names only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Reference counts per name, for one event loop."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._idle: dict[str, asyncio.Event] = {}

    def count(self, name: str) -> int:
        """Holders of `name` now."""
        return self._counts[name]

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Count one more holder of `name` while the context lasts."""
        self._counts[name] += 1
        try:
            yield
        finally:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                if (idle := self._idle.pop(name, None)) is not None:
                    idle.set()

    async def drain(self, name: str) -> None:
        """Return when the count of `name` is zero. New holders that arrive while waiting are waited for too."""
        while self._counts[name]:
            await self._idle.setdefault(name, asyncio.Event()).wait()
