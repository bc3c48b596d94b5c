"""How fast records reach Kafka: through our log, by bare kafka-python and by bare confluent-kafka.

The same events, encoded beforehand, go to the same real broker (started here, one node), by every way in turn, round
after round, each with a warm connection. All ways wait for acks=all, write idempotently, compress alike and choose
partitions by key alike. The log takes them in the batches that the server's appender gives it. What encoding costs is
reported apart. `ours` and `theirs` are records/s of our log and of bare kafka-python with the log's own batch size,
which is faster than with its defaults; the ratio is the median of the rounds' ratios. Prints one JSON object as its
last line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Producer as ConfluentProducer
from kafka import KafkaProducer

from deploy.brokers.broker import start_broker
from exchange.log.checks import record_bytes
from exchange.log.kafka.log import KafkaLog
from exchange.log.kafka.python_producer import BATCH_BYTES as WRITTEN_BYTES
from exchange.log.kafka.settings import KafkaSettings
from schemas.completion import CompletionRecorded
from schemas.sealed import seal
from schemas.wire import LogRecord, encode_event
from tests.golden.samples import COMPLETION

BATCH_RECORDS, BATCH_BYTES = 1000, 4 * 2**20  # exchange.log.appender's defaults
TOKENS = 100
Way = Callable[[Sequence[LogRecord]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000, help="events that each way sends in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compression", choices=["zstd", "none"], default="zstd")
    options = parser.parse_args()
    events = made_up(options.records)
    began = time.perf_counter()
    records = [encode_event(event) for event in events]
    encoding_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder)) as broker:
        rates = measure(broker.bootstrap, records, options.rounds, options.compression)
    bare = rates["kafka-python"]
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], bare, strict=True)]
    result = {
        "name": "log-throughput",
        "unit": "records/s, acks=all",
        "ours": round(statistics.median(rates["ours"])),
        "theirs": round(statistics.median(bare)),
        "ratio": round(statistics.median(ratios), 3),
        "spread": {way: [round(min(found)), round(max(found))] for way, found in rates.items()},
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "medians": {way: round(statistics.median(found)) for way, found in rates.items()},
        "ours_confluent_to_ours": round(
            statistics.median(rates["ours-confluent"]) / statistics.median(rates["ours"]), 2
        ),
        "encoding_us_per_record": round(1e6 * encoding_s / options.records, 1),
        "bytes_per_record": round(statistics.mean(record_bytes(record) for record in records)),
        "records": options.records,
        "rounds": options.rounds,
        "compression": options.compression,
    }
    print(json.dumps(result))


def made_up(count: int) -> list[CompletionRecorded]:
    """Completions of 100 tokens with sealed content, of 50 conversations."""
    rand = random.Random(0)
    events = []
    for number in range(count):
        logprobs = tuple(-rand.expovariate(1.0) for _ in range(TOKENS))
        choice = COMPLETION.choices[0].model_copy(update={"token_count": TOKENS, "logprobs": logprobs})
        content = seal(rand.randbytes(TOKENS * 12), key=bytes(32), key_id="key_1", subject="user_9c1b", event_id="e")
        changes = {"conversation": f"conv_{rand.randrange(50)}", "id": f"evt_{number}", "choices": (choice,)}
        events.append(COMPLETION.model_copy(update={**changes, "content": content}))
    return events


def measure(bootstrap: str, records: list[LogRecord], rounds: int, compression: str) -> dict[str, list[float]]:
    """Records/s by way, one for each round; the ways take turns, and begin with another one each round."""
    settings = KafkaSettings.model_validate({"compression": compression})
    with (
        KafkaLog([bootstrap], settings) as ours,
        KafkaLog([bootstrap], settings.model_copy(update={"producer": "confluent"})) as ours_confluent,
    ):
        ways: dict[str, Way] = {
            "ours": lambda batch: through(ours, batch),
            "ours-confluent": lambda batch: through(ours_confluent, batch),
            "kafka-python": bare_python(bootstrap, compression, batch_size=WRITTEN_BYTES),
            "kafka-python-defaults": bare_python(bootstrap, compression),
            "confluent": bare_confluent(bootstrap, compression),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way(records[:200])
        order = list(ways)
        for _ in range(rounds):
            for name in order:
                began = time.perf_counter()
                ways[name](records)
                rates[name].append(len(records) / (time.perf_counter() - began))
            order.append(order.pop(0))
    return rates


def through(log: KafkaLog, records: Sequence[LogRecord]) -> None:
    batch: list[LogRecord] = []
    size = 0
    for record in records:
        size += record_bytes(record)
        if batch and (len(batch) == BATCH_RECORDS or size > BATCH_BYTES):
            log.append(batch)
            batch, size = [], record_bytes(record)
        batch.append(record)
    log.append(batch)


def bare_python(bootstrap: str, compression: str, **options: int) -> Way:
    producer: Any = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type=None if compression == "none" else compression,
        **options,
    )

    def send(records: Sequence[LogRecord]) -> None:
        sent = [
            producer.send(record.topic, key=record.key, value=record.value, headers=list(record.headers))
            for record in records
        ]
        producer.flush()
        assert all(future.succeeded() for future in sent)

    return send


def bare_confluent(bootstrap: str, compression: str) -> Way:
    options = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": compression}
    producer: Any = ConfluentProducer({**options, "partitioner": "murmur2_random"})

    def send(records: Sequence[LogRecord]) -> None:
        stored: list[bool] = []
        for record in records:
            producer.produce(
                record.topic,
                record.value,
                record.key,
                headers=list(record.headers),
                on_delivery=lambda error, _: stored.append(error is None),
            )
            producer.poll(0)
        producer.flush()
        assert len(stored) == len(records)
        assert all(stored)

    return send


if __name__ == "__main__":
    main()
