"""How far reading is behind: in records, in seconds, by topic, and what the metrics say of it."""

from __future__ import annotations

from pathlib import Path

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import LogRecord, encode_event
from tests.factories import Maker
from trainer.intake.ingest import Ingest
from trainer.intake.lag import Lag, LagMeter
from trainer.intake.ledger import Ledger
from trainer.intake.report import EVERY_S, IntakeReport
from trainer.metrics import TrainerMetrics


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


def test_lag_is_counted_from_the_newest_that_was_read_or_the_last_moment_with_nothing_unread() -> None:
    clock = Clock()
    meter = LagMeter(clock)
    clock.now = 100_000
    assert meter.look({"t": 5}, {}) == {"t": Lag(5, 0.0)}, "nothing is known of their age"
    assert meter.look({"t": 5}, {"t": 40_000}) == {"t": Lag(5, 60.0)}, "a backlog of a minute"
    assert meter.look({"t": 0}, {"t": 100_000}) == {"t": Lag(0, 0.0)}
    clock.now = 900_000
    assert meter.look({"t": 0}, {"t": 100_000}) == {"t": Lag(0, 0.0)}, "nothing happened since, and nothing waits"
    clock.now = 903_000
    assert meter.look({"t": 1}, {"t": 100_000}) == {"t": Lag(1, 3.0)}
    clock.now = 910_000
    assert meter.look({"t": 9}, {"t": 902_000}) == {"t": Lag(9, 8.0)}


def test_the_metrics_say_what_was_read_what_is_left_and_what_could_not_be_read(tmp_path: Path) -> None:
    log, make, metrics = MemoryLog(), Maker(), TrainerMetrics()
    answer = encode_event(make.completion())
    log.append([answer, LogRecord(answer.topic, b"k", b"{", answer.headers), encode_event(make.completion())])
    log.append([encode_event(make.thumb(make.completion())) for _ in range(4)])

    def value(name: str, topic: str) -> float | None:
        return metrics.registry.get_sample_value(f"attune_trainer_{name}", {"topic": topic})

    moment = [0.0]
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        ingest = Ingest(log, ledger, "support")
        report = IntakeReport(ingest, metrics, lambda: moment[0])
        ingest.pump(2)
        report(True)
        assert value("records_read_total", COMPLETIONS.name) == 2
        assert (value("lag_records", COMPLETIONS.name), value("lag_records", FEEDBACK.name)) == (1, 4)
        while ingest.pump():
            report(True)
        assert value("lag_records", FEEDBACK.name) == 4, "the end of the log is not asked for after each batch"
        moment[0] = EVERY_S
        report(True)
        assert (value("lag_records", COMPLETIONS.name), value("lag_records", FEEDBACK.name)) == (0, 0)
        assert (value("lag_seconds", COMPLETIONS.name), value("lag_seconds", FEEDBACK.name)) == (0, 0)
        assert value("records_read_total", COMPLETIONS.name) == 3
        assert value("dead_letters_total", COMPLETIONS.name) == 1
        assert value("records_read_total", FEEDBACK.name) == 4
        assert metrics.registry.get_sample_value("attune_trainer_log_reachable") == 1
        report(False)
        assert metrics.registry.get_sample_value("attune_trainer_log_reachable") == 0
        ingest.close()


def test_what_is_rolled_back_is_not_counted(tmp_path: Path) -> None:
    log: EventLog = MemoryLog()
    log.append([encode_event(Maker().completion())])

    def refuse(*_: object) -> None:
        raise RuntimeError

    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        ingest = Ingest(log, ledger, "support", refuse)
        try:
            ingest.pump()
        except RuntimeError:
            assert not ingest.totals.records
        else:
            raise AssertionError("it must be refused")
