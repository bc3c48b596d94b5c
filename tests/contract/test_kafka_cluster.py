"""Three brokers: what was acknowledged outlives the loss of any one of them, whichever leads."""

from __future__ import annotations

import gc
import logging

import pytest

from deploy.brokers.cluster import Cluster
from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.topics import FEEDBACK
from schemas.wire import LogRecord

pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def test_acknowledged_records_outlive_a_killed_broker(kafka_cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    # kafka-python leaves the sockets of refused connections to the garbage collector, and its log records, which
    # pytest would keep beyond this test, hold on to them.
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    _lose_one(kafka_cluster)
    gc.collect()


def _lose_one(kafka_cluster: Cluster) -> None:
    url = f"kafka://{kafka_cluster.bootstrap}"
    with open_log(url) as log:
        places = [TopicPartition(FEEDBACK.name, number) for number in log.partitions(FEEDBACK.name)]
        starts = {place: log.end_offset(place) for place in places}
        # Six partitions on three brokers: whichever is killed leads some of them.
        first = [LogRecord(FEEDBACK.name, b"%d" % number, b"before %d" % number) for number in range(30)]
        log.append(first)
        victim = kafka_cluster.brokers[0]
        victim.kill()
        assert not victim.running
        second = [LogRecord(FEEDBACK.name, b"%d" % number, b"after %d" % number) for number in range(30)]
        log.append(second)
        where = victim.bootstrap
        victim.restart()
        assert victim.running
        assert victim.bootstrap == where
        reader = log.reader(starts)
        wanted = sorted(record.value for record in [*first, *second])
        found: list[bytes] = []
        while len(found) < len(wanted) and (batch := reader.poll(timeout_s=20.0)):
            found += [stored.value for stored in batch]
        reader.close()
    assert sorted(found) == wanted
