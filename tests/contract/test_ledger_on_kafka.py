"""The trainer's ledger on a real broker: it goes on by its own offsets, and says what retention took from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition

from deploy.brokers.broker import Broker
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_log
from schemas.errors import IntegrityError
from schemas.topics import COMPLETIONS, CONSENTS, ERASURES, FEEDBACK, RATERS
from schemas.wire import encode_event
from tests.factories import Maker
from trainer.intake.batch import Batch
from trainer.intake.ingest import Answer, Ingest
from trainer.intake.ledger import Ledger

pytestmark = pytest.mark.kafka
TOPICS = (COMPLETIONS.name, FEEDBACK.name, CONSENTS.name, ERASURES.name, RATERS.name)


@contextmanager
def reading(path: Path, log: EventLog, lost: Answer = "stop") -> Iterator[Ingest]:
    """As a trainer that starts: from where its ledger stands, or from the end of what other tests wrote."""
    with Ledger(path, "support") as ledger:
        if not ledger.offsets():
            places = [TopicPartition(topic, number) for topic in TOPICS for number in log.partitions(topic)]
            ledger.write(Batch((), (), {place: log.end_offset(place) for place in places}))
        with closing(Ingest(log, ledger, "support", on_records_lost=lost)) as ingest:
            yield ingest


def drain(ingest: Ingest) -> list[str]:
    """Read to the end; ids of the completions that are known then."""
    while ingest.lag():
        ingest.pump(timeout_s=1.0)
    return sorted(facts.completion_id for facts in ingest._ledger.known().completions)


def test_it_goes_on_by_its_own_offsets_and_tells_what_retention_took(kafka_broker: Broker, tmp_path: Path) -> None:
    make, path = Maker(), tmp_path / "ledger.db"
    answers = [make.completion(n, conversation="one") for n in range(6)]
    names = [answer.completion_id for answer in answers]
    with open_log(f"kafka://{kafka_broker.bootstrap}") as log:
        with reading(path, log) as ingest:
            log.append([encode_event(answer) for answer in answers[:2]])
            assert drain(ingest) == names[:2]
        places = log.append([encode_event(answer) for answer in answers[2:]])
        with reading(path, log) as ingest, closing(KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)) as admin:
            assert ingest.lag() == 4, "nothing is read twice, whoever was away"
            admin.delete_records({KafkaPartition(places[0].topic, places[0].partition): places[3].offset})
        with reading(path, log) as ingest, pytest.raises(IntegrityError, match="3 records of attune"):
            drain(ingest)
        with reading(path, log, lost="continue") as ingest:
            assert drain(ingest) == [*names[:2], names[5]]
            (gap,) = ingest._ledger.gaps()
            assert (gap.first, gap.next) == (places[0].offset, places[3].offset)
            assert ingest.totals.lost[COMPLETIONS.name] == 3
