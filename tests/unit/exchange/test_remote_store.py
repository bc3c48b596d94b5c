"""A remote store that fails in its driver's own words is a store that is away, not a fault that ends the process."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from exchange.log.claims import Blobs
from exchange.registry.files import FilesystemRegistry
from schemas.errors import Unavailable


class EndpointUnreachable(Exception):
    """As drivers of object stores have them: no OSError."""


class AwayStore:
    """An fsspec file system of which every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> NoReturn:
            raise self._error

        return fail


def test_a_store_that_cannot_be_reached_is_unavailable() -> None:
    store = AwayStore(EndpointUnreachable("no route"))
    registry, blobs = FilesystemRegistry(store, "bucket"), Blobs(store, "bucket")
    for ask in (
        lambda: registry.versions("support"),
        lambda: registry.adapter("support", 1),
        lambda: registry.fetch_artifact("reports", "0" * 64, None),  # type: ignore[arg-type]
        lambda: blobs.get("attune.completions", "0" * 64, 3),
        lambda: blobs.put("attune.completions", "0" * 64, b"abc"),
    ):
        with pytest.raises(Unavailable, match="bucket cannot be used: no route"):
            ask()


def test_a_fault_of_our_own_is_not_taken_for_one() -> None:
    with pytest.raises(TypeError):
        FilesystemRegistry(AwayStore(TypeError("a bug")), "bucket").versions("support")
