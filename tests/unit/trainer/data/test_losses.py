"""Beyond the log: what it deleted after it was read stays known, before it was read is told, and another is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from exchange.privacy.retention import expire_log
from schemas.base import now_ms
from schemas.errors import IntegrityError
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import SCOPE, pump_all
from trainer.intake.batch import Gap
from trainer.intake.ingest import Answer, Ingest
from trainer.intake.ledger import Ledger
from trainer.intake.report import IntakeReport
from trainer.joining.join import join
from trainer.metrics import TrainerMetrics

CONVERSATION = "one"  # all records of one conversation lie in one partition


def forget_everything(log: EventLog) -> None:
    """Retention deletes what the log holds now."""
    expire_log(log, {"standard": now_ms() + 1_000})


@contextmanager
def reading(folder: Path, log: EventLog, lost: Answer = "stop", replaced: Answer = "stop") -> Iterator[Ingest]:
    """As a trainer that starts: the ledger in `folder` goes on from where it stands."""
    with (
        Ledger(folder / "state" / "ledger.db", "support") as ledger,
        closing(Ingest(log, ledger, "support", on_records_lost=lost, on_log_replaced=replaced)) as ingest,
    ):
        yield ingest


def drain(ingest: Ingest) -> None:
    while ingest.lag():
        ingest.pump()


def test_the_ledger_keeps_what_the_log_has_deleted_and_joins_later_words_with_it(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([encode_event(answer)])
        with reading(tmp_path, log) as ingest:
            assert pump_all(ingest) == 1
        forget_everything(log)
        thumb = make.thumb(answer)
        log.append([encode_event(thumb), encode_event(make.completion(100_000))])
        with reading(tmp_path, log) as ingest:
            assert pump_all(ingest) == 2
            joined = join(ingest._ledger.known(), SCOPE, 10_000)
            assert ingest._ledger.gaps() == []
            assert ingest._ledger.sealed([answer.id]) == {answer.id: answer.content}
        assert [word.feedback.id for word in joined.words] == [thumb.id]
        with Ledger(tmp_path / "fresh.db", "support") as fresh:
            pump_all(Ingest(log, fresh, "support"))
            assert join(fresh.known(), SCOPE, 10_000).words == (), "the log alone does not know it any more"


def lose_three(folder: Path) -> SqliteLog:
    """Of six answers two were read; three more were deleted before, and one came later."""
    make = Maker()
    answers = [make.completion(n, conversation=CONVERSATION) for n in range(6)]
    log = SqliteLog(folder / "log.db")
    log.append([encode_event(answer) for answer in answers[:5]])
    with reading(folder, log) as ingest:
        assert ingest.pump(2) == 2
    forget_everything(log)
    log.append([encode_event(answers[5])])
    return log


def test_records_that_were_deleted_unread_stop_the_trainer_with_the_numbers_and_the_remedy(tmp_path: Path) -> None:
    with lose_three(tmp_path) as log:
        for _ in range(2):  # and whenever it is started again
            with reading(tmp_path, log) as ingest, pytest.raises(IntegrityError) as stopped:
                pump_all(ingest)
            assert "3 records of attune.completions/" in str(stopped.value)
            assert "(offsets 2 to 4)" in str(stopped.value)
            assert 'on_records_lost = "continue"' in str(stopped.value)


def test_by_order_reading_goes_on_and_keeps_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = TrainerMetrics()
    with lose_three(tmp_path) as log:
        with reading(tmp_path, log, lost="continue") as ingest:
            report = IntakeReport(ingest, metrics)
            drain(ingest)
            report(True)
            assert len(ingest._ledger.known().completions) == 3
            (gap,) = ingest._ledger.gaps()
            assert (gap.partition.topic, gap.first, gap.next, gap.records) == (COMPLETIONS.name, 2, 5, 3)
        with reading(tmp_path, log) as ingest:
            assert ingest.pump() == 0, "what was passed over stops nobody again"
            assert ingest._ledger.gaps() == [Gap(gap.partition, 2, 5)]
    count = metrics.registry.get_sample_value("attune_trainer_records_lost_total", {"topic": COMPLETIONS.name})
    assert count == 3
    assert "3 records of attune.completions" in caplog.text


@pytest.mark.parametrize(("told", "weight"), [("stop", "blocks"), ("continue", "slows")])
def test_the_doctor_tells_of_lost_records(tmp_path: Path, told: str, weight: str) -> None:
    lose_three(tmp_path).close()
    found = doctor(tmp_path, f'on_records_lost = "{told}"')
    assert found["records_lost"]["weight"] == weight
    assert found["records_lost"]["message"].startswith("3 records were deleted from the log before the trainer read")


def doctor(folder: Path, setting: str) -> dict[str, dict[str, str]]:
    config = folder / "trainer.toml"
    lines = ['model = "none"', 'log = "sqlite:///log.db"', 'registry = "file:registry"', 'state_dir = "state"', setting]
    config.write_text("\n".join(lines), encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "-c", str(config), "--json"], catch_exceptions=False)
    return {one["code"]: one for one in json.loads(result.output)["findings"]}


@pytest.mark.parametrize("shorter", [True, False], ids=["ends before", "has grown past"])
def test_another_log_stops_the_trainer_and_by_order_is_read_beside_what_is_known(tmp_path: Path, shorter: bool) -> None:
    make = Maker()
    with SqliteLog(tmp_path / "log.db") as log:
        log.append([encode_event(make.completion(n, conversation=CONVERSATION)) for n in range(3)])
        with reading(tmp_path, log) as ingest:
            drain(ingest)
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    with SqliteLog(tmp_path / "log.db") as log:
        fresh = [make.completion(n, conversation=CONVERSATION) for n in range(1 if shorter else 7)]
        log.append([encode_event(event) for event in fresh])
        log.append([encode_event(make.thumb(fresh[0]))])
        with pytest.raises(IntegrityError, match="this is another log") as stopped, reading(tmp_path, log):
            pass
        assert 'on_log_replaced = "continue"' in str(stopped.value)
        assert doctor(tmp_path, "")["log_replaced"]["weight"] == "blocks"
        with reading(tmp_path, log, replaced="continue") as ingest:
            drain(ingest)
            known = ingest._ledger.known()
            assert len(known.completions) == 3 + len(fresh)
            assert {place.topic for place in known.offsets} == {COMPLETIONS.name, FEEDBACK.name}
        with reading(tmp_path, log) as ingest:
            assert ingest.pump() == 0, "it is this log's ledger now"
