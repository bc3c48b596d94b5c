"""The base of whatever is closed at the end of its `with`. Knows nothing of what closing means."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, Self


class Closeable(Protocol):
    """Name it as base, have a `close` that does no harm twice, and be used in a `with`."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
