"""How brokers are configured and placed; that they start is shown by everything marked kafka."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.brokers.broker import Broker
from deploy.brokers.node import Access, Node, properties
from deploy.brokers.ports import free_ports, require_free
from schemas.errors import ConfigError, Unavailable

NODES = [Node(number, 21_000 + number, 22_000 + number, Path("/data") / str(number)) for number in (1, 2, 3)]


def read(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_one_node_keeps_one_copy_and_three_keep_three() -> None:
    alone, second = read(properties(NODES[0], NODES[:1], Access())), read(properties(NODES[1], NODES, Access()))
    assert (alone["default.replication.factor"], alone["min.insync.replicas"]) == ("1", "1")
    assert (second["default.replication.factor"], second["min.insync.replicas"]) == ("3", "2")
    assert second["node.id"] == "2"
    assert second["controller.quorum.voters"] == "1@127.0.0.1:22001,2@127.0.0.1:22002,3@127.0.0.1:22003"
    assert second["listeners"] == "PLAINTEXT://127.0.0.1:21002,CONTROLLER://127.0.0.1:22002"
    assert second["log.dirs"] == "/data/2/data"
    assert second["auto.create.topics.enable"] == "false"


def test_free_ports_are_different_and_taken_ones_are_refused() -> None:
    assert len(set(free_ports(6))) == 6
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} is taken"):
            require_free(port)


def test_missing_java_and_maven_are_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ATTUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"java is needed.*apt-get install openjdk-17-jre-headless"):
        Broker(NODES[0]).start()


def test_a_broker_that_is_down_cannot_be_paused_but_may_be_stopped_and_killed(tmp_path: Path) -> None:
    broker = Broker(Node(1, 21_001, 22_001, tmp_path))
    broker.stop()
    broker.kill()
    broker.resume()
    assert not broker.running
    with pytest.raises(Unavailable, match="is down"):
        broker.pause()
