"""Whether chats notice that the Kafka broker is away: their latency with it and without it, in turn, under one load.

A real broker and a real server process (everything of the product but the model: the engine without one) under eight
clients that chat and press thumbs. In every round the broker is there for a while, then stopped (SIGSTOP; with
`--how kill` killed), then there again until the spool is empty. `ours` is the 99th percentile of chat seconds without
the broker, `theirs` with it; both are medians over the rounds, and `ratio` is the median of the rounds' own ratios. At
the end every acknowledged thumb is looked up on the log. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.brokers.broker import Broker, start_broker
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_log
from schemas.topics import COMPLETIONS, FEEDBACK, Topic
from schemas.wire import header
from tests.faults.serving import Server
from tests.faults.victims import until

CLIENTS = 8
PAUSE_S = 0.25
"""Mean pause of a client between two chats."""
QUESTION = [{"role": "user", "content": "Where is my order?"}]


@dataclass
class Seen:
    """What the clients saw in one phase. Seconds."""

    chats: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    durable: Counter[str] = field(default_factory=Counter)


@dataclass
class Account:
    """What they saw in all; `now` is the phase under way."""

    now: Seen = field(default_factory=Seen)
    failed: list[str] = field(default_factory=list)
    completions: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that the broker is there and then away")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each phase")
    parser.add_argument("--how", choices=("pause", "kill"), default="pause", help="what becomes of the broker")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with start_broker(folder / "kafka") as broker, Server(folder / "home", f"kafka://{broker.bootstrap}") as server:
            server.start()
            server.until_ready()
            print(json.dumps(measure(server, broker, options.rounds, options.seconds, options.how)))


def measure(server: Server, broker: Broker, rounds: int, seconds: float, how: str) -> dict[str, Any]:
    """Phases in turn under one load, and what came of them."""
    account, stop = Account(), threading.Event()
    clients = [threading.Thread(target=talk, args=(server, account, stop, seed)) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    phase(account, min(seconds, 5.0))  # connections are made, caches warm
    resident = [rss_mb(server)]
    there: list[Seen] = []
    away: list[Seen] = []
    spooled: list[int] = []
    for number in range(rounds):
        there.append(phase(account, seconds))
        broker.pause() if how == "pause" else broker.kill()
        phase(account, 5.0)  # until the client of the broker has noticed: this is counted too, with the failures
        away.append(phase(account, seconds))
        spooled.append(state(server)["spool_bytes"])
        resident.append(rss_mb(server))
        broker.resume() if how == "pause" else broker.start()
        until(lambda: state(server)["log"] == "ok" and state(server)["spool_bytes"] == 0, "the spool is sent")
        print(f"round {number + 1}: {told(there[-1])} with it, {told(away[-1])} without, {spooled[-1]} bytes spooled")
    stop.set()
    for client in clients:
        client.join()
    until(lambda: state(server)["queue_bytes"] == 0 and state(server)["spool_bytes"] == 0, "everything is on the log")
    with closing(open_log(server.log_url)) as event_log:
        words, answers = ids_on(event_log, FEEDBACK), ids_on(event_log, COMPLETIONS)
    resident.append(rss_mb(server))
    pairs = list(zip(away, there, strict=True))
    ratios = [percentile(a.chats, 99) / percentile(b.chats, 99) for a, b in pairs]
    return {
        "name": "broker-away",
        "unit": "seconds of a chat, 99th percentile",
        "ours": median_of(away, 99),
        "theirs": median_of(there, 99),
        "ratio": round(statistics.median(ratios), 3),
        "spread": {"ratio": [round(min(ratios), 3), round(max(ratios), 3)], "rounds": rounds},
        "p50": {"away": median_of(away, 50), "with": median_of(there, 50)},
        "p50_ratio": round(statistics.median(percentile(a.chats, 50) / percentile(b.chats, 50) for a, b in pairs), 3),
        "how": how,
        "chats": {"away": sum(len(one.chats) for one in away), "with": sum(len(one.chats) for one in there)},
        "failed": len(account.failed),
        "failures": account.failed[:3],
        "feedback_p50": {"away": median_of(away, 50, "words"), "with": median_of(there, 50, "words")},
        "feedback_p99": {"away": median_of(away, 99, "words"), "with": median_of(there, 99, "words")},
        "feedback_durable": {
            "away": dict(sum((one.durable for one in away), Counter())),
            "with": dict(sum((one.durable for one in there), Counter())),
        },
        "acknowledged": len(account.acknowledged),
        "acknowledged_missing": len(account.acknowledged - set(words)),
        "answers_missing": len({f"evt.{name}" for name in account.completions} - set(answers)),
        "records_twice": len(words) + len(answers) - len(set(words)) - len(set(answers)),
        "spool_bytes_most": max(spooled),
        "rss_mb": {"first": resident[0], "most": max(resident), "last": resident[-1]},
    }


def phase(account: Account, seconds: float) -> Seen:
    """What the clients see from now on, for so long."""
    with account.lock:
        account.now = seen = Seen()
    time.sleep(seconds)
    with account.lock:
        account.now = Seen()
    return seen


def talk(server: Server, account: Account, stop: threading.Event, seed: int) -> None:
    """One client: chats, and rates every answer."""
    rng = random.Random(seed)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while not stop.wait(rng.uniform(0, 2 * PAUSE_S)):
            try:
                one_turn(server, client, account)
            except (httpx.HTTPError, KeyError, IndexError) as error:
                with account.lock:
                    account.failed.append(f"{type(error).__name__}: {error}")


def one_turn(server: Server, client: httpx.Client, account: Account) -> None:
    body = {"model": "support", "messages": QUESTION, "max_tokens": 24}
    seen, began = account.now, time.monotonic()
    answer = client.post("/v1/chat/completions", json=body, headers=server.app()).raise_for_status()
    chatted = time.monotonic()
    thumb = {"handle": answer.headers["attune-handle"], "kind": "thumbs", "value": "up"}
    word = client.post("/v1/feedback", json=thumb).raise_for_status().json()
    rated = time.monotonic()
    with account.lock:
        account.completions.add(answer.headers["attune-completion-id"])
        account.acknowledged.add(word["id"])
        if seen is account.now:  # a turn that began in one phase and ended in another says nothing of either
            seen.chats.append(chatted - began)
            seen.words.append(rated - chatted)
            seen.durable[word["durable"]] += 1


def ids_on(event_log: EventLog, topic: Topic) -> list[str]:
    """The event ids on a topic, as often as they are there."""
    places = [TopicPartition(topic.name, number) for number in event_log.partitions(topic.name)]
    ends = {place: event_log.end_offset(place) for place in places}
    with closing(event_log.reader(dict.fromkeys(places, 0))) as reader:
        found: list[str] = []
        while any(reader.positions()[place] < end for place, end in ends.items()):
            found += [header(record.headers, "ce_id") or "" for record in reader.poll(timeout_s=1.0)]
    return found


def state(server: Server) -> dict[str, Any]:
    """What readyz says."""
    return dict(httpx.get(f"{server.url}/readyz", timeout=20).json())


def rss_mb(server: Server) -> int:
    """The server's resident memory now, MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) // 1024


def told(seen: Seen) -> str:
    return f"{percentile(seen.chats, 50) * 1000:.0f} ms (p99 {percentile(seen.chats, 99) * 1000:.0f} ms)"


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median_of(phases: list[Seen], percent: int, of: str = "chats") -> float:
    return round(statistics.median(percentile(getattr(one, of), percent) for one in phases), 4)


if __name__ == "__main__":
    main()
