"""Whoever starts victims is their parent, and only a parent signals them: nothing dies here but what it started.

A victim leads a session and a process group of its own. Every signal first proves that its target is an unreaped child
of the very process that sends it, so its number cannot be anybody else's by now.

There are two kinds of parents. `Here` runs `python -m ...` anew each time. A `Nursery` is a process that has imported
what is slow to import and forks: what it starts is the same program with the same arguments, a second later instead of
ten.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


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


class Parent(Protocol):
    """Starts victims and looks after them."""

    def start(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> int:
        """Run `python -m MODULE ARGUMENTS` with its output appended to a file; the pid."""

    def ended(self, pid: int) -> bool:
        """Whether it has ended, reaped or not."""

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        """Send a signal to a victim that is not reaped, or to its whole group. Raises NotOurs."""

    def reap(self, pid: int) -> int:
        """Kill what is left of its group, and forget it. Its exit code; negative where a signal ended it."""


class Here:
    """This process as parent."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}

    def start(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> int:
        with output.open("ab") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        process.returncode = 0  # reaped here and by nobody else: Popen must not wait for it as well
        return process.pid

    def ended(self, pid: int) -> bool:
        return pid in self._codes or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        leader = own_group(pid)
        if group:
            os.killpg(leader, number)
        else:
            os.kill(pid, number)

    def reap(self, pid: int) -> int:
        if pid not in self._codes:
            # Before the leader is reaped: until then the group's number is surely its own.
            with suppress(ProcessLookupError):
                self.signal(pid, signal.SIGKILL, group=True)
            self._codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return self._codes[pid]


class _Forking(Here):
    """The parent inside a nursery."""

    def start(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> int:
        ready, tell = os.pipe()
        if (pid := os.fork()) == 0:
            os.setsid()
            os.close(ready)
            os.close(tell)
            self._become(module, arguments, output, environment)
        os.close(tell)
        os.read(ready, 1)  # ends once the child leads its group
        os.close(ready)
        return pid

    def _become(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> None:
        code = 1
        try:
            nothing, written = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for target, source in ((0, nothing), (1, written), (2, written)):
                os.dup2(source, target)
            os.environ.update(environment)
            sys.argv = [module, *arguments]
            code = int(importlib.import_module(module).main() or 0)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


class Nursery:
    """A parent of its own process, with modules imported that its victims need. Ends with its victims."""

    def __init__(self, *modules: str, environment: Mapping[str, str] | None = None) -> None:
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.parents", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
            start_new_session=True,
        )

    def start(self, module: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> int:
        pid: int = self._ask("start", module, list(arguments), str(output), dict(environment))
        return pid

    def ended(self, pid: int) -> bool:
        return bool(self._ask("ended", pid))

    def signal(self, pid: int, number: int, *, group: bool = False) -> None:
        self._ask("signal", pid, int(number), group)

    def reap(self, pid: int) -> int:
        code: int = self._ask("reap", pid)
        return code

    def _ask(self, what: str, *words: Any) -> Any:
        with self._asking:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([what, *words]).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the nursery has ended"
        told = json.loads(answer)
        if "not_ours" in told:
            raise NotOurs(told["not_ours"])
        return told["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(60)  # at the end of its input it reaps its victims and ends


def serve_nursery(modules: Sequence[str]) -> None:
    """The life of a nursery's process: commands come line by line, until the one who asks is gone."""
    parent, started = _Forking(), list[int]()
    answers = os.fdopen(os.dup(1), "w")  # what a victim inherits as its output is redirected, this is not
    os.set_inheritable(answers.fileno(), False)
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        what, *words = json.loads(line)
        try:
            match what:
                case "start":
                    module, arguments, output, environment = words
                    answer: Any = parent.start(module, arguments, Path(output), environment)
                    started.append(answer)
                case "ended":
                    answer = parent.ended(*words)
                case "signal":
                    pid, number, group = words
                    parent.signal(pid, number, group=group)
                    answer = None
                case _:
                    answer = parent.reap(*words)
            told = {"answer": answer}
        except NotOurs as error:
            told = {"not_ours": str(error)}
        print(json.dumps(told), file=answers, flush=True)
    for pid in started:
        parent.reap(pid)


if __name__ == "__main__":
    serve_nursery(sys.argv[1:])
