"""Processes that are there to be killed, and the care it takes: nothing dies here but what this module started.

A victim leads a session and a process group of its own. Every signal first proves that its target is a child of this
process that has not been reaped, so its number cannot be anybody else's by now. Knows nothing of what a victim does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TAIL_LINES = 30


class NotOurs(AssertionError):
    """A signal was about to go to something that is not a living or unreaped victim of ours."""


def own_group(pid: int) -> int:
    """The process group that an unreaped child of this process leads.

    Raises:
        NotOurs: there is no such child any more, it leads no group of its own, or the group is init's or this one.
    """
    if pid <= 1:
        raise NotOurs(f"{pid} is no victim")
    try:
        # WNOWAIT leaves even a dead child unreaped: as long as it is, the kernel gives its number to nobody else.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        group = os.getpgid(pid)
    except (ChildProcessError, ProcessLookupError) as error:
        raise NotOurs(f"{pid} is no child of this process, or was reaped") from error
    if group <= 1 or group != pid or group == os.getpgrp():
        raise NotOurs(f"{pid} leads no process group of its own (it is in {group})")
    return group


def members(group: int) -> int:
    """How many living processes there are in a process group."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, _, its_group = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
                found += its_group == str(group) and state != "Z"
    return found


class Victim:
    """A running process with its output in a file. Leaves nothing behind when its context ends."""

    def __init__(
        self, name: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Run `python ARGUMENTS` with this interpreter; output is appended to `output`."""
        self.name = name
        self.output = output
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as written:
            self._from = written.tell()
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._peak_kb = 0

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or not; does not reap it."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

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
        group = own_group(self.pid)
        self.peak_mb()
        os.kill(self.pid, signal.SIGKILL)
        self._gone(60.0)
        deadline = time.monotonic() + leave_s
        while (left := members(group)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.clear()
        return left

    def pause(self) -> None:
        """SIGSTOP to the whole group: it is there and does nothing."""
        os.killpg(own_group(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(own_group(self.pid), signal.SIGCONT)

    def stop(self, patience_s: float = 60.0) -> int:
        """Ask it to end, kill it where that takes too long; returns its exit code."""
        if self._process.returncode is not None:
            return self._process.returncode
        if not self.ended:
            self.peak_mb()
            os.kill(own_group(self.pid), signal.SIGTERM)
            with suppress(AssertionError):
                self._gone(patience_s)
        return self.clear()

    def wait(self, patience_s: float) -> int:
        """The exit code once it has ended by itself; negative where a signal ended it."""
        if self._process.returncode is None:
            self._gone(patience_s)
        return self.clear()

    def clear(self) -> int:
        """Kill whatever is left of its group, and reap it. Returns the exit code."""
        if self._process.returncode is None:
            # Before the leader is reaped: until then the group's number is surely its own.
            with suppress(ProcessLookupError):
                os.killpg(own_group(self.pid), signal.SIGKILL)
            self._process.wait(60)
        code: int = self._process.returncode
        return code

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
        if self._process.returncode is None:
            with suppress(NotOurs):
                os.killpg(own_group(self.pid), signal.SIGCONT)
            self.stop(20.0)


def until(condition: Callable[[], object], what: str, patience_s: float = 120.0, pause_s: float = 0.05) -> None:
    """Wait until a condition holds. Raises AssertionError with `what` where it does not come true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(pause_s)
