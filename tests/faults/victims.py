"""Processes that are there to be killed. Knows output, memory and patience; `parents` knows the care with signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.parents import Here, Parent

TAIL_LINES = 30


class Victim:
    """A running process with its output in a file. Leaves nothing behind when its context ends."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
        parent: Parent | None = None,
    ) -> None:
        """Run `python -m MODULE ARGUMENTS`; output is appended to `output`."""
        self.name = name
        self.output = output
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        self._from = output.stat().st_size
        self._parent = parent or Here()
        self.pid = self._parent.start(module, arguments, output, environment or {})
        self._peak_kb = 0
        self._code: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._code is not None or self._parent.ended(self.pid)

    def said(self) -> str:
        """What this process has written so far."""
        with self.output.open("rb") as written:
            written.seek(self._from)
            return written.read().decode(errors="replace")

    def tail(self) -> str:
        return "\n".join(self.said().splitlines()[-TAIL_LINES:])

    def peak_mb(self) -> float:
        """Its largest resident set so far in MB, as far as it was looked at while it lived."""
        with suppress(OSError, StopIteration, ValueError, IndexError):
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
            line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            self._peak_kb = max(self._peak_kb, int(line.split()[1]))
        return self._peak_kb / 1024

    def kill(self, leave_s: float = 0.0) -> int:
        """`kill -9` of the process alone, then of what it leaves in its group; returns when all is gone.

        Returns how many processes it left that were still there `leave_s` seconds later.
        """
        self.peak_mb()
        self._parent.signal(self.pid, signal.SIGKILL)
        self._gone(60.0)
        deadline = time.monotonic() + leave_s
        while (left := members(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._reap()
        return left

    def stop(self, patience_s: float = 60.0) -> int:
        """Ask it to end, kill it where that takes too long; returns its exit code."""
        if not self.ended:
            self.peak_mb()
            self._parent.signal(self.pid, signal.SIGTERM)
            with suppress(AssertionError):
                self._gone(patience_s)
        return self._reap()

    def wait(self, patience_s: float) -> int:
        """The exit code once it has ended by itself; negative where a signal ended it."""
        self._gone(patience_s)
        return self._reap()

    def _reap(self) -> int:
        if self._code is None:
            self._code = self._parent.reap(self.pid)
        return self._code

    def _gone(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not self.ended:
            if time.monotonic() > deadline:
                raise AssertionError(f"the {self.name} did not end within {patience_s:.0f} s:\n{self.tail()}")
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(20.0)


def members(group: int) -> int:
    """How many living processes there are in a process group."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, _, its_group = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
                found += its_group == str(group) and state != "Z"
    return found


def until(condition: Callable[[], object], what: str, patience_s: float = 120.0, pause_s: float = 0.05) -> None:
    """Wait until a condition holds. Raises AssertionError with `what` where it does not come true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(pause_s)
