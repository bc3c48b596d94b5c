"""A log, a registry and an operator, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from exchange.registry.files import FilesystemRegistry
from exchange.registry.port import Registry
from tests.unit.server.control.world import Operator


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    with MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db") as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return FilesystemRegistry.at(f"file://{tmp_path}/registry")


@pytest.fixture
def operator(log: EventLog) -> Operator:
    return Operator(log)
