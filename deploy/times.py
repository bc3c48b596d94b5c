"""Moments as the commands print them."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.base import now_ms


def when(at_ms: int) -> str:
    """A moment in UTC, from ms since the epoch."""
    at_ms = min(max(at_ms, 0), now_ms() + 10**11)  # what a log holds may be any number
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
