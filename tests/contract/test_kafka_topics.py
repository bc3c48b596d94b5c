"""`attune topics apply` and the check at start, against a cluster of three brokers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploy.brokers.cluster import Cluster
from deploy.cli import app
from exchange.log.layout import Laid
from exchange.log.port import LogMisconfigured, require_configured
from exchange.open import open_log
from schemas.errors import Refused
from schemas.topics import FEEDBACK, POLICY, TOPICS

pytestmark = pytest.mark.kafka
Ask = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture
def ask(kafka_cluster: Cluster) -> Iterator[Ask]:
    """The admin API of the cluster, which has no topics of ours before and after."""
    from exchange.log.kafka.clients import Clients
    from exchange.log.kafka.settings import KafkaSettings
    from exchange.log.kafka.topics import look

    with closing(Clients(kafka_cluster.bootstrap.split(","), KafkaSettings())) as clients:

        def clear() -> None:
            if found := list(clients.ask(look)):
                clients.ask(lambda admin: admin.delete_topics(found))
                while clients.ask(look):
                    pass

        clear()
        yield clients.ask
        clear()


@pytest.fixture
def config(kafka_cluster: Cluster, tmp_path: Path) -> Path:
    path = tmp_path / "trainer.toml"
    path.write_text(f'model = "none"\nlog = "kafka://{kafka_cluster.bootstrap}"\n[kafka]\nauto_create_topics = false\n')
    return path


def attune(config: Path, *words: str) -> Result:
    command = ["topics", "apply", "-c", str(config), *words]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"}, catch_exceptions=False)


def complaint(url: str) -> str:
    """What a process that starts says of the topics."""
    from exchange.log.kafka.settings import KafkaSettings

    with open_log(url, kafka=KafkaSettings(auto_create_topics=False)) as log:
        try:
            require_configured(log)
        except LogMisconfigured as error:
            return str(error)
    return ""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for it: brokers hear of a change one after another, and any of them may answer."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until


def test_topics_are_made_mended_and_never_shrunk(kafka_cluster: Cluster, ask: Ask, config: Path) -> None:
    from kafka.admin import ConfigResource

    from exchange.log.kafka.topics import look

    def found() -> dict[str, Laid]:
        laid: dict[str, Laid] = ask(look)
        return laid

    url = f"kafka://{kafka_cluster.bootstrap}"
    assert re.search(r"attune\.policy is not there.*attune topics apply", complaint(url))
    assert "not there" in attune(config, "--dry-run").output
    assert found() == {}
    assert "Done" in attune(config, "--yes").output
    eventually(lambda: set(found()) == set(TOPICS))
    made = found()
    assert {name: laid.partitions for name, laid in made.items()} == {
        name: topic.partitions for name, topic in TOPICS.items()
    }
    assert {laid.replication for laid in made.values()} == {3}
    assert {laid.configs["min.insync.replicas"] for laid in made.values()} == {"2"}
    eventually(lambda: complaint(url) == "")
    assert "nothing to do" in attune(config, "--yes").output

    short, long = ConfigResource("TOPIC", POLICY.name, {"retention.ms": "1000"}), str(100 * 24 * 3600 * 1000)
    ask(lambda admin: admin.alter_configs([short, ConfigResource("TOPIC", FEEDBACK.name, {"retention.ms": long})]))
    ask(lambda admin: admin.create_partitions({FEEDBACK.name: 7}))
    eventually(lambda: "instead of for ever" in complaint(url))
    eventually(lambda: found()[FEEDBACK.name].partitions == 7)
    with pytest.raises(Refused, match="2 differences are left"):
        attune(config, "--yes")
    eventually(lambda: complaint(url) == "")
    mended = found()
    assert mended[POLICY.name].configs["retention.ms"] == "-1"
    assert mended[FEEDBACK.name].configs["retention.ms"] == long
    assert mended[FEEDBACK.name].partitions == 7
