"""The Kafka log while nobody answers: at a port that is closed, and at one that takes connections and says nothing."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from exchange.log.kafka.clients import Clients
from exchange.log.kafka.confluent_producer import maker
from exchange.log.kafka.log import KafkaLog
from exchange.log.kafka.python_producer import PythonProducer
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import TopicPartition
from schemas.errors import Unavailable
from schemas.topics import POLICY
from schemas.wire import LogRecord

PLACE = TopicPartition(POLICY.name, 0)
HASTY = KafkaSettings(connect_seconds=0.2)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """kafka-python's log records hold on to sockets of refused connections, which it leaves to the collector."""
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    yield
    gc.collect()


@pytest.fixture(params=["closed", "silent"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        if request.param == "closed":
            listener.close()
        yield where


def test_a_log_is_made_without_asking_anybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with KafkaLog([f"127.0.0.1:{listener.getsockname()[1]}"]):
            pass
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_every_call_says_that_nobody_answers_and_leaves_nothing_behind(address: str) -> None:
    before = threading.active_count()
    with KafkaLog([address], HASTY) as log:
        for call in (
            lambda: log.partitions(POLICY.name),
            lambda: log.append([LogRecord(POLICY.name, b"k", b"v")]),
            lambda: log.end_offset(PLACE),
            lambda: log.start_offset(PLACE),
            lambda: log.identity(POLICY.name),
            lambda: log.reader({PLACE: 0}),
            lambda: log.note_offsets("reader", {PLACE: 0}),
        ):
            with pytest.raises(Unavailable, match=f"Kafka at {address}"):
                call()
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_producers_of_both_libraries_need_somebody_to_answer(address: str) -> None:
    before = threading.active_count()
    clients = Clients([address], HASTY)
    for make in (maker(clients), lambda: PythonProducer(clients)):
        with pytest.raises(Unavailable, match=f"Kafka at {address}"):
            make()
    assert threading.active_count() == before


def test_a_closed_log_asks_nobody_any_more(address: str) -> None:
    log = KafkaLog([address], HASTY)
    log.close()
    for call in (lambda: log.append([LogRecord(POLICY.name, b"k", b"v")]), lambda: log.identity(POLICY.name)):
        with pytest.raises(Unavailable, match="is closed"):
            call()
    log.close()
