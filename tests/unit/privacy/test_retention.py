"""Retention per class: in the ledger, in the embedded log, and what the join makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog, TopicPartition
from exchange.log.sqlite import SqliteLog
from exchange.privacy.retention import Sweeper, cutoffs, expire_log
from schemas.base import now_ms
from schemas.completion import ConsentLevel
from schemas.errors import Unavailable
from schemas.event import Event
from schemas.topics import COMPLETIONS, CONSENTS, ERASURES, FEEDBACK
from schemas.wire import decode_event, encode_event
from tests.factories import START, Maker
from tests.unit.privacy.test_bytes import open_site
from tests.unit.trainer.data.support import SCOPE, pump_all, reasons
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.joining.join import join


def on(log: EventLog) -> list[Event]:
    found: list[Event] = []
    for topic in (COMPLETIONS.name, FEEDBACK.name, CONSENTS.name, ERASURES.name):
        reader = log.reader({TopicPartition(topic, number): 0 for number in log.partitions(topic)})
        found += [decode_event(record.value, record.headers) for record in reader.poll()]
        reader.close()
    return found


def test_the_ledger_drops_rows_by_class_and_the_join_says_why(tmp_path: Path) -> None:
    make, log = Maker(), MemoryLog()
    short = make.completion(0, user="ann", retention="short")
    old = make.completion(0, user="bob")
    fresh = make.completion(5_000, user="carl")
    words = [make.thumb(one, user=user, at=6_000) for one, user in ((short, "ann"), (old, "bob"), (fresh, "carl"))]
    early = make.correction(old, "secret words", at=500, user="bob")
    mind = make.consent("dora", ConsentLevel.STORE, at=0)
    log.append([encode_event(event) for event in (short, old, fresh, *words, early, mind)])
    path = tmp_path / "ledger.db"
    with Ledger(path, "support") as ledger:
        pump_all(Ingest(log, ledger, "support"))
        assert len(ledger.known().completions) == 3
        assert ledger.expire({"short": START + 1_000}) == {"short": 1}
        known = ledger.known()
        assert known.expired_completions == {short.completion_id}
        found = join(known, SCOPE, 10_000)
        assert reasons(found)[words[0].id] == {"expired"}

        assert ledger.expire({"short": START + 1_000, "standard": START + 1_000}) == {"short": 0, "standard": 2}
        known = ledger.known()
        assert [one.completion_id for one in known.completions] == [fresh.completion_id]
        assert known.expired_feedback == {early.id}
        assert (known.erased_completions, known.erased_feedback) == (frozenset(), frozenset())
        assert known.consents == (mind,), "what people decided is kept"
        why = reasons(join(known, SCOPE, 10_000))
        assert why[early.id] == why[words[1].id] == {"expired"}
        assert ledger.sealed([short.id, old.id, early.id, fresh.id]).keys() == {fresh.id}
        wal = path.with_name("ledger.db-wal").read_bytes()
        left = path.read_bytes() + wal
        assert short.content.data[:60].encode() not in left, "the bytes are gone, not only the row"
        assert fresh.content.data[:60].encode() in left


def test_what_came_twice_does_not_come_back_and_an_erasure_still_finds_its_way(tmp_path: Path) -> None:
    make, log = Maker(), MemoryLog()
    old = make.completion(0, user="ann")
    log.append([encode_event(old)])
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        ingest = Ingest(log, ledger, "support")
        pump_all(ingest)
        ledger.expire({"standard": START + 1})
        log.append([encode_event(old), encode_event(make.erasure("ann"))])
        pump_all(ingest)
        known = ledger.known()
        assert (known.completions, known.expired_completions) == ((), {old.completion_id})


def test_the_embedded_log_drops_by_class_and_keeps_decisions(tmp_path: Path) -> None:
    make = Maker()
    short, old = make.completion(user="ann", retention="short"), make.completion(user="bob")
    kept: list[Event] = [make.consent("bob", ConsentLevel.STORE), make.erasure("carl")]
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([encode_event(event) for event in (short, old, make.thumb(old), make.displayed([old]), *kept)])
        ends = {n: log.end_offset(TopicPartition(COMPLETIONS.name, n)) for n in log.partitions(COMPLETIONS.name)}
        assert expire_log(log, {"short": 0, "standard": 0}) == {"short": 0, "standard": 0}
        later = now_ms() + 1_000
        assert expire_log(log, {"short": later}) == {"short": 1}
        assert short.id not in {event.id for event in on(log)}
        assert expire_log(log, {"standard": later, "unheard": later}) == {"standard": 3, "unheard": 0}
        assert {event.id for event in on(log)} == {event.id for event in kept}
        for number, end in ends.items():
            assert log.end_offset(TopicPartition(COMPLETIONS.name, number)) == end, "offsets are never given again"
        left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert old.content.data[:60].encode() not in left
    assert expire_log(MemoryLog(), {"standard": later}) == {}


def test_a_sweep_counts_and_one_that_fails_is_tried_again() -> None:
    told: list[tuple[str, int]] = []
    seen: list[dict[str, int]] = []

    def sweep(before: object) -> dict[str, int]:
        seen.append(dict(before))  # type: ignore[call-overload]
        if len(seen) == 1:
            raise Unavailable("away")
        return {"short": 2, "standard": 0}

    sweeper = Sweeper({"short": 0.5, "standard": 30}, sweep, lambda name, number: told.append((name, number)))
    sweeper.once()
    assert told == []
    with sweeper:
        pass
    assert told == [("short", 2)]
    day = 24 * 3600 * 1000
    assert cutoffs({"short": 0.5}, day) == {"short": day // 2}
    assert seen[1]["short"] - seen[1]["standard"] == pytest.approx(29.5 * day)


async def test_the_class_comes_from_the_api_key(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.visits()
        _, text = site.api_keys.create(
            tenant="acme", scopes=site.api_keys.list()[0].scopes, default_consent=ConsentLevel.TRAIN, retention="short"
        )
        asked = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "user": "ann"}
        answer = await site.http.post("/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {text}"})
        assert answer.status_code == 200
        site.settle()
        assert expire_log(site.log, {"short": now_ms() + 1_000}) == {"short": 1}
        assert expire_log(site.log, {"standard": 0}) == {"standard": 0}
