"""How a person sees where the trainer is: live bars on a terminal, one log line for each stage elsewhere.

Also where a stop is felt: every step of every stage passes here, and after SIGTERM the next one ends the turn; its
checkpoints stay. Knows stages and numbers; knows nothing of learning.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from schemas.errors import AttuneError
from trainer.metrics import TrainerMetrics

log = logging.getLogger(__name__)


class Stopped(AttuneError):
    """The trainer was asked to stop; what is done so far is on disk."""


class Display(Protocol):
    """Shows stages and says things."""

    def step(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """`done` of `total` steps of `stage` are over."""

    def say(self, message: str) -> None:
        """One line for whoever watches."""


class LogDisplay:
    """One log line when a stage ends."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def step(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        started = self._started.setdefault(stage, time.monotonic())
        if done >= total:
            del self._started[stage]
            log.info("%s: %d steps in %.1f s; %s", stage, total, time.monotonic() - started, in_words(metrics))

    def say(self, message: str) -> None:
        self._started.clear()  # a stage that stopped early must not lend its start to the next turn's
        log.info("%s", message)


class LiveDisplay:
    """A bar for each stage of the turn."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def step(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, words="")
        self._bars.update(self._tasks[stage], completed=done, total=total, words=in_words(metrics))

    def say(self, message: str) -> None:
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._bars.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {message}", highlight=False)


@contextmanager
def open_display() -> Iterator[Display]:
    """Bars where stderr is a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield LogDisplay()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[words]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield LiveDisplay(bars)


class Reporter:
    """A learner's `Progress` that shows, measures, and ends the turn after a stop was asked for."""

    def __init__(self, display: Display, metrics: TrainerMetrics, stop: threading.Event) -> None:
        self._display = display
        self._metrics = metrics
        self._stop = stop

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Raises Stopped after SIGTERM."""
        self.check()
        self._display.step(stage, done, total, metrics)
        self._metrics.step(stage, done, total)

    def check(self) -> None:
        """Raises Stopped after SIGTERM."""
        if self._stop.is_set():
            raise Stopped("the trainer was asked to stop")

    def say(self, message: str) -> None:
        """One line for whoever watches."""
        self._display.say(message)


_TELLING = ("loss", "train_accuracy", "reward_mean", "kl_to_base_per_sequence", "clip_fraction", "entropy_per_token")


def in_words(metrics: Mapping[str, float], most: int = 4) -> str:
    """The most telling of the metrics, short."""
    chosen = [name for name in _TELLING if name in metrics] or list(metrics)
    return ", ".join(f"{name} {metrics[name]:.3g}" for name in chosen[:most])
