"""Questions to a cluster that is busy for a moment, and to one that stays so."""

from __future__ import annotations

import pytest
from kafka import errors

from exchange.log.kafka.clients import Clients
from exchange.log.kafka.lazy import Lazy
from exchange.log.kafka.settings import KafkaSettings
from schemas.errors import Unavailable


def busy(times: int) -> tuple[Clients, list[object]]:
    """Clients whose cluster answers only the question after so many; and the list of those that were asked."""
    clients = Clients(["kafka:9092"], KafkaSettings(connect_seconds=0.1))
    clients._admin = Lazy(lambda: [None] * times)
    return clients, []


def test_a_question_is_asked_again_while_no_connection_is_free() -> None:
    clients, asked = busy(3)

    def question(left: list[None]) -> str:
        asked.append(left)
        if left:
            left.pop()
            raise errors.NodeNotReadyError("No node_id provided")
        return "answered"

    assert clients.ask(question) == "answered"
    assert len(asked) == 4


def test_a_cluster_that_never_gets_ready_is_away() -> None:
    clients, asked = busy(10**6)

    def question(left: list[None]) -> str:
        asked.append(left)
        raise errors.NodeNotReadyError("No node_id provided")

    with pytest.raises(Unavailable, match="NodeNotReady"):
        clients.ask(question)
    assert len(asked) > 1
