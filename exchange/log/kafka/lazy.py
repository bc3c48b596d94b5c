"""Something made by the first caller that needs it, in that caller's thread. Knows nothing of what it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from schemas.errors import Unavailable

T = TypeVar("T")


class Lazy(Generic[T]):
    """Makes its value once. A try that fails (Unavailable) is made again by the next caller. Thread-safe."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        self._failures = 0
        self._failure: Unavailable | None = None

    def get(self) -> T:
        """The value, made now if it is not there. Raises Unavailable as `make` does."""
        failures = self._failures
        with self._lock:
            if self._value is None:
                # Who waited while another tried in vain does not try again: ten callers would wait ten times as long.
                if self._failure is not None and self._failures > failures:
                    raise self._failure.again()
                try:
                    self._value = self._make()
                except Unavailable as error:
                    self._failure = error
                    self._failures += 1
                    raise
            return self._value

    def forget(self, value: T | None = None) -> T | None:
        """What was there, which the next caller makes anew; with `value` only if it is still that one."""
        with self._lock:
            if value is not None and self._value is not value:
                return None
            old, self._value = self._value, None
            return old
