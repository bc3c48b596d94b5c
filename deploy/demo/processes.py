"""Child processes of the demo: started with a log file, watched, and ended whatever happens.

Knows commands and log files; knows nothing of what the children do.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from schemas.errors import Unavailable

log = logging.getLogger(__name__)

TAIL_LINES = 25


@dataclass
class Child:
    """One child process. `stop` it, or use it as a context manager."""

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def check(self) -> None:
        """Raise Unavailable, with the last lines of its log, if the child has ended."""
        code = self.process.poll()
        if code is not None:
            raise Unavailable(
                f"the {self.name} ended early with code {code}. The end of {self.log_file}:\n{self.tail()}"
            )

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def last_words(self) -> str:
        """The last line of its log without date, time, level and logger."""
        return self.tail().rpartition("\n")[2].split(" ", 4)[-1]

    def wait(self, patience_s: float) -> int:
        """The exit code, once it has ended by itself. Raises Unavailable where it is not over in that time."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the {self.name} did not end within {patience_s:.0f} s:\n{self.tail()}") from error

    def stop(self, patience_s: float = 20.0) -> int:
        """Ask it to end, kill it and whatever it leaves behind where that takes too long; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                log.warning("the %s did not end within %.0f s and is killed", self.name, patience_s)
                self.process.kill()
        code = self.process.wait()
        with suppress(ProcessLookupError):  # the usual case: nothing of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(name: str, arguments: Sequence[str], log_file: Path, environment: Mapping[str, str] | None = None) -> Child:
    """Run `python ARGUMENTS` with this interpreter, its output going to `log_file`.

    The child leads a process group of its own, so that an interrupt at the terminal reaches only the demo, which then
    ends its children in order.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, this interpreter
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return Child(name, process, log_file)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Within the block, being terminated or hung up on is like Ctrl-C: everything unwinds, and so all children end.

    For the main thread only.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
