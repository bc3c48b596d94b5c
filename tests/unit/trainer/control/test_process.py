"""What a process must keep to: a clean end on SIGTERM, a feeder that survives a log that is away, provenance."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TextColumn

from schemas.errors import IntegrityError, Unavailable
from tests.factories import Maker
from tests.tiny_models import make_tiny_model
from tests.unit.trainer.data.support import joined
from trainer.intake.feeder import Feeder
from trainer.joining.exclusions import Reason
from trainer.joining.funnel import funnel
from trainer.metrics import TrainerMetrics
from trainer.progress import LiveDisplay, LogDisplay, Reporter, Stopped
from trainer.release.code_version import checkout_commit, code_version

SCRIPT = """
import logging, sys
from pathlib import Path
from trainer.main import run_trainer
from trainer.settings import load_settings
logging.basicConfig(level=logging.INFO)
sys.exit(run_trainer(load_settings(Path(sys.argv[1]))))
"""


def test_sigterm_ends_a_waiting_trainer_with_exit_code_0(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    config = tmp_path / "trainer.toml"
    config.write_text(f'model = "{model}"\ndevice = "cpu"\n', encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(config)], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "0 new labels; a turn begins at 200" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


class Scripted:
    """An ingest that does what it is told."""

    def __init__(self, *steps: int | Exception) -> None:
        self.steps = list(steps)
        self.told = 0

    def tell(self) -> None:
        self.told += 1
        raise Unavailable("nobody notes it")

    def pump(self, max_records: int = 1000, timeout_s: float = 0.0) -> int:
        step = self.steps.pop(0) if self.steps else 0
        if isinstance(step, Exception):
            raise step
        time.sleep(0.01)
        return step

    def lag(self) -> int:
        return sum(step for step in self.steps if isinstance(step, int))


def until(condition: object) -> None:
    for _ in range(500):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.01)
    pytest.fail("it never happened")


def test_a_log_that_is_away_is_tried_again() -> None:
    told: list[bool] = []
    script = Scripted(2, Unavailable("away"), 3)
    with Feeder(script, retry_s=0.01, report=told.append) as feeder:  # type: ignore[arg-type]
        feeder.start()
        until(lambda: len(told) >= 3)
        assert feeder.read == 5
        assert told[:3] == [True, False, True]
        assert script.told == 1, "lag tools are told now and then, and do no harm"
        feeder.check()


@pytest.mark.parametrize("error", [IntegrityError("another log"), sqlite3.OperationalError("disk is full")])
def test_any_other_error_ends_the_feeder_and_shows(error: Exception) -> None:
    with Feeder(Scripted(error)) as feeder:  # type: ignore[arg-type]
        feeder.start()
        until(lambda: not feeder._thread.is_alive())
        with pytest.raises(type(error), match=str(error)):
            feeder.check()


def test_catching_up_reads_what_is_there_and_no_more() -> None:
    feeder = Feeder(Scripted(3, 4))  # type: ignore[arg-type]
    assert feeder.catch_up() == 7
    assert feeder.catch_up() == 0


def test_a_stop_is_felt_at_the_next_step() -> None:
    stop = threading.Event()
    reporter = Reporter(LogDisplay(), TrainerMetrics(), stop)
    reporter("ppo", 1, 2, {"loss": 0.5})
    stop.set()
    with pytest.raises(Stopped):
        reporter("ppo", 2, 2, {"loss": 0.5})


def test_a_stage_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    display = LogDisplay()
    with caplog.at_level("INFO"):
        for done in range(1, 4):
            display.step("ppo", done, 3, {"grad_norm": 9.0, "reward_mean": 1.25, "loss": 0.5})
    (line,) = caplog.messages
    assert line.startswith("ppo: 3 steps in")
    assert line.endswith("loss 0.5, reward_mean 1.25")


def test_a_terminal_shows_bars_and_what_is_said() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Bars(TextColumn("{task.description} {task.completed}"), console=console, auto_refresh=False) as bars:
        display = LiveDisplay(bars)
        display.step("ppo", 2, 3, {"loss": 0.5})
        assert [(task.description, task.completed, task.total) for task in bars.tasks] == [("ppo", 2, 3)]
        display.say("support@v1 published")
        assert bars.tasks == []
    assert "support@v1 published" in screen.getvalue()


def test_metrics_are_served_while_the_trainer_runs() -> None:

    metrics = TrainerMetrics()
    metrics.turns.labels(outcome="published").inc()
    with metrics.served(0) as port:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'attune_trainer_turns_total{outcome="published"} 1.0' in page
    with metrics.served(None) as port:
        assert port is None


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert checkout_commit(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n", encoding="ascii")
    (git / "packed-refs").write_text(f"# pack-refs\n{'a' * 40} refs/heads/main\n", encoding="ascii")
    assert checkout_commit(tmp_path) == "a" * 40
    (git / "refs" / "heads" / "main").write_text("b" * 40 + "\n", encoding="ascii")
    assert checkout_commit(tmp_path) == "b" * 40
    (git / "HEAD").write_text("c" * 40 + "\n", encoding="ascii")
    assert checkout_commit(tmp_path) == "c" * 40
    assert code_version()


def test_the_funnel_shows_every_stage_and_every_reason() -> None:
    metrics = TrainerMetrics()
    make = Maker()
    good, late = make.completion(0, user="ann"), make.completion(1, user="bob")
    metrics.funnel(funnel(joined(good, late, make.thumb(good), make.thumb(late, at=50_000, user="bob"))))

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    stages = {
        stage: value("attune_trainer_funnel", stage=stage)
        for stage in ("answered", "displayed", "rated", "joined", "reward_model", "aspects", "ppo")
    }
    assert stages == {"answered": 2, "displayed": 0, "rated": 2, "joined": 1, "reward_model": 1, "aspects": 0, "ppo": 2}
    assert value("attune_trainer_excluded", item="feedback", reason="late") == 1
    assert {value("attune_trainer_excluded", item="answer", reason=str(reason)) for reason in Reason} == {0}
