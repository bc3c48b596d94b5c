"""The ledger: sealed content, tombstones, one trainer at a time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from schemas.errors import ConfigError
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import ledger_of, pump_all
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def test_what_is_read_is_known_and_stays_sealed(log: MemoryLog) -> None:
    make = Maker()
    answer, thumb = make.completion(user="ann"), None
    edit = make.correction(answer, "much better")
    thumb = make.thumb(answer)
    log.append([encode_event(event) for event in (answer, edit, thumb)])
    with ledger_of(log) as ledger:
        known = ledger.known()
        assert [facts.completion_id for facts in known.completions] == [answer.completion_id]
        assert {word.id for word in known.feedback} == {edit.id, thumb.id}
        assert all(word.content is None for word in known.feedback)
        assert known.watermark == max(answer.at, edit.at, thumb.at)
        assert ledger.sealed([answer.id, edit.id, thumb.id]) == {answer.id: answer.content, edit.id: edit.content}


def test_a_row_that_cannot_be_parsed_stops_nothing(log: MemoryLog, tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    words = [make.thumb(answer, user=user) for user in ("ann", "bob")]
    log.append([encode_event(event) for event in (answer, *words)])
    with Ledger(tmp_path / "l.db", "support") as ledger, closing(Ingest(log, ledger, "support")) as ingest:
        pump_all(ingest)
    with closing(sqlite3.connect(tmp_path / "l.db")) as rows, rows:
        rows.execute(
            'UPDATE events SET facts = replace(facts, \'"aspects":{}\', \'"aspects":{"tone":null}\')'
            " WHERE event_id = ?",
            (words[0].id,),
        )
    with Ledger(tmp_path / "l.db", "support") as ledger:
        known = ledger.known()
        assert [word.id for word in known.feedback] == [words[1].id]
        assert len(known.completions) == 1


@pytest.mark.parametrize("erasure_first", [False, True])
def test_erased_rows_are_tombstones_whichever_comes_first(erasure_first: bool) -> None:
    make = Maker()
    gone, kept = make.completion(0, user="ann"), make.completion(0, user="bob")
    word, edit = make.thumb(gone, user="ann"), make.correction(kept, "secret words", user="ann")
    shown = make.displayed([gone])
    after = make.completion(9_000, user="ann")
    told = [gone, kept, word, edit, shown, after]
    erasure = make.erasure("ann", at=5_000)
    log = MemoryLog()
    with ledger_of(log) as ledger:
        ingest = Ingest(log, ledger, "support")
        for batch in ([erasure], told) if erasure_first else (told, [erasure]):
            log.append([encode_event(event) for event in batch])
            pump_all(ingest)
            ledger.known()
        known = ledger.known()
        assert {facts.id for facts in known.completions} == {kept.id, after.id}
        assert known.erased_completions == {gone.completion_id}
        assert known.erased_feedback == {word.id, edit.id}
        assert (known.feedback, known.displayed) == ((), ())
        assert ledger.sealed([gone.id, edit.id, kept.id, after.id]).keys() == {kept.id, after.id}


def test_nothing_of_the_erased_rests_in_the_file(tmp_path: Path, log: MemoryLog) -> None:
    make = Maker()
    gone = make.completion(user="ann")
    log.append([encode_event(gone), encode_event(make.erasure("ann"))])
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        pump_all(Ingest(log, ledger, "support"))
    database = sqlite3.connect(tmp_path / "ledger.db")
    dump = "\n".join(database.iterdump())
    database.close()
    assert gone.id in dump
    assert gone.content.data not in dump
    assert "logprobs" not in dump


def test_one_ledger_one_trainer_one_policy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path, "support"), pytest.raises(ConfigError, match="another trainer"):
        Ledger(path, "support")
    with pytest.raises(ConfigError, match="policy support"):
        Ledger(path, "sales")
    Ledger(path, "support").close()
