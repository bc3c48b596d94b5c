"""URLs lead to the right implementation, and what is no URL is refused with what to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exchange.keys.memory import MemoryKeys
from exchange.keys.sqlite import SqliteKeys
from exchange.log.memory import MemoryLog
from exchange.log.sqlite import SqliteLog
from exchange.open import open_keys, open_log, open_registry
from exchange.registry.files import FilesystemRegistry
from exchange.registry.memory import MemoryRegistry
from schemas.errors import ConfigError, Unavailable


def test_each_url_opens_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_log("memory:") as log:
        assert isinstance(log, MemoryLog)
    with open_log("sqlite:///relative.db") as log:
        assert isinstance(log, SqliteLog)
    with open_log(f"sqlite:///{tmp_path}/absolute.db"):
        pass
    assert isinstance(open_keys("memory:"), MemoryKeys)
    keys = open_keys("sqlite:///keys.db")
    assert isinstance(keys, SqliteKeys)
    keys.close()
    assert isinstance(open_registry("memory:"), MemoryRegistry)
    assert isinstance(open_registry(f"file://{tmp_path}/registry"), FilesystemRegistry)
    assert {path.name for path in tmp_path.glob("*.db")} == {"relative.db", "absolute.db", "keys.db"}


@pytest.mark.parametrize("url", ["", "memory", "sqlite:", "sqlite:///", "sqlite://x.db", "postgres://x", "log.db"])
def test_what_is_no_url_of_a_log_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Write"):
        open_log(url)


@pytest.mark.parametrize("url", ["", "sqlite:///", "vault://x"])
def test_what_is_no_url_of_a_key_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Write"):
        open_keys(url)


@pytest.mark.parametrize("url", ["kafka://", "kafka:///", "kafka://host", "kafka://host:port", "kafka://a:1,b"])
def test_a_kafka_url_needs_hosts_and_ports(url: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        open_log(url)


def test_a_log_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable):
        open_log(f"sqlite:///{tmp_path}/folder")


@pytest.mark.parametrize("scheme", ["kafka", "kafkas"])
def test_a_password_in_the_url_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_log(f"{scheme}://attune:hunter2@127.0.0.1:9092")
    assert refused.value.field == "log"
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("opened", "url"),
    [
        (open_keys, "postgresql://attune:hunter2@db/keys"),
        (open_registry, "nosuch://attune:hunter2@bucket/prefix"),
        (open_log, "redis://attune:hunter2@host/0"),
    ],
)
def test_a_password_is_not_shown_where_a_url_is_refused(opened: Callable[[str], object], url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        opened(url)
    assert "attune:(hidden)@" in str(refused.value)
    assert "hunter2" not in str(refused.value)
