"""How fast the trainer reads a log into its ledger, and how much memory that takes, at 100,000 events and at 1,000,000.

A real Kafka broker holds completions (60 prompt tokens, 40 answer tokens, sealed), thumbs, comparisons and displays of
20,000 people. For each size a process of its own reads that many of them from the start with the trainer's own ingest
into a fresh ledger on disk. `ours` is events a second at the larger size, `theirs` the same consumer without a ledger:
records polled and dropped. Memory is the process's high-water mark of resident memory, and must not grow with the
log. On a machine that others load too, `per_cpu_second` says what was spent, whoever else ran. Prints one JSON object
as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from deploy.brokers.broker import start_broker
from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import LogRecord, encode_event
from tests.factories import Maker
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger

PEOPLE = 20_000
GROWTH_LIMIT = 1.15
"""Of the high-water mark, from the smaller size to the larger."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=100_000, help="the smaller size")
    parser.add_argument("--read", nargs=2, metavar=("LOG", "HOW"), help="a child's part: `ledger` or `bare`")
    asked = parser.parse_args()
    if asked.read:
        url, how = asked.read
        print(json.dumps(read(url, asked.events, ledger=how == "ledger")))
        return
    with tempfile.TemporaryDirectory() as name, start_broker(Path(name) / "broker") as broker:
        url = f"kafka://{broker.bootstrap}"
        seconds, size = fill(broker.bootstrap, asked.events)
        print(f"{asked.events} events, {size / asked.events:.0f} bytes each, written in {seconds:.0f} s", flush=True)
        few, many = child(url, asked.few, "ledger"), child(url, asked.events, "ledger")
        bare = child(url, asked.few, "bare")
    for label, found in (("few", few), ("many", many), ("bare", bare)):
        print(f"{label}: {found}", flush=True)
    growth = many["peak_mib"] / few["peak_mib"]
    result = {
        "name": "replay",
        "unit": "events a second from Kafka into the ledger",
        "ours": many["rate"],
        "theirs": bare["rate"],
        "ratio": round(many["rate"] / bare["rate"], 3),
        "spread": {"rate_at_few": few["rate"]},
        "per_cpu_second": {name: one["rate_per_cpu_second"] for name, one in (("ours", many), ("theirs", bare))},
        "events": {"few": asked.few, "many": asked.events},
        "peak_mib": {"few": few["peak_mib"], "many": many["peak_mib"], "growth": round(growth, 3)},
    }
    print(json.dumps(result))
    if growth > GROWTH_LIMIT:
        sys.exit(f"memory grew by {growth:.2f} from {asked.few} to {asked.events} events")


def child(url: str, events: int, how: str) -> dict[str, Any]:
    """One reading in a process of its own, whose memory is its alone."""
    command = [sys.executable, "-m", "tests.bench.replay", "--read", url, how, "--events", str(events)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def read(url: str, events: int, *, ledger: bool) -> dict[str, Any]:
    """Read `events` records from the start of the log; rate and memory."""
    with tempfile.TemporaryDirectory() as name, open_log(url) as log:
        began, done, spent = time.monotonic(), 0, time.process_time()
        if ledger:
            with Ledger(Path(name) / "ledger.db", "support") as book, closing(Ingest(log, book, "support")) as ingest:
                while done < events:
                    done += ingest.pump(timeout_s=1.0)
        else:
            places = {TopicPartition(topic.name, n): 0 for topic in (COMPLETIONS, FEEDBACK) for n in range(6)}
            with closing(log.reader(places)) as reader:
                while done < events:
                    done += len(reader.poll(timeout_s=1.0))
        seconds, spent = time.monotonic() - began, time.process_time() - spent
    rates = {"rate": round(done / seconds), "rate_per_cpu_second": round(done / spent)}
    return {"events": done, "seconds": round(seconds, 1), **rates, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """The high-water mark of this process's resident memory. Not `ru_maxrss`: a child inherits its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError("this system does not tell")


def fill(bootstrap: str, events: int) -> tuple[float, int]:
    """Write made-up events; returns the seconds and the bytes that took. By librdkafka: reading is what is measured."""
    began, size = time.monotonic(), 0
    failed: list[object] = []
    with open_log(f"kafka://{bootstrap}") as log:
        log.partitions(COMPLETIONS.name)  # makes the topics, where this log still has to
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "acks": "all",
            "linger.ms": 50,
            "on_delivery": lambda error, _: failed.append(error) if error else None,
        }
    )
    for record in made_up(events):
        size += len(record.value)
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120) or failed:
        sys.exit(f"the events could not be written: {failed[:1]}")
    return time.monotonic() - began, size


def made_up(events: int) -> Iterator[LogRecord]:
    """Of ten events five are completions, three thumbs, one is a comparison and one a display.

    Encoding a million events one by one would take longer than reading them: these are a few, with ids put in.
    """
    make = Maker()
    tokens = range(1000, 1040)
    said = [
        make.completion(user="U" * 24, answers=[tokens], prompt=range(60), id="C" * 16 + str(n), conversation="V" * 16)
        for n in range(2)
    ]
    word, shown = (
        make.thumb(said[0], user="U" * 24, id="W" * 16),
        make.displayed(said[:1]).model_copy(update={"id": "W" * 16}),
    )
    pair = make.comparison(said, user="U" * 24, id="W" * 16)
    ten = [
        encode_event(event) for event in (said[0], word, said[1], said[0], word, said[1], said[0], word, pair, shown)
    ]
    for number in range(events):
        record = ten[number % 10]
        names = {
            b"U" * 24: b"user-%019d" % (number * 7919 % PEOPLE),
            b"C" * 16: b"cmpl_%011d" % number,
            b"V" * 16: b"conv_%011d" % (number // 10),
            b"W" * 16: b"fb_%013d" % number,
        }
        yield LogRecord(
            record.topic,
            _named(record.key, names),
            _named(record.value, names),
            tuple((name, _named(value, names) if name == "ce_id" else value) for name, value in record.headers),
        )


def _named(text: bytes, names: dict[bytes, bytes]) -> bytes:
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    return text


if __name__ == "__main__":
    main()
