"""A process that watches another ends with it, and not before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from server.engine.watch import end_with

WATCHER = """
import sys
from server.engine.watch import end_with
end_with(int(sys.argv[1]))
print("on", flush=True)
sys.stdin.read()
"""


def test_it_ends_when_the_server_is_killed() -> None:
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-c", WATCHER, str(server.pid)]
    with server, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"on\n"
        assert watcher.poll() is None
        server.kill()
        assert watcher.wait(60) == 1


def test_nobody_watches_themselves_or_the_dead() -> None:
    end_with(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        dead.wait(60)
        with pytest.raises(ProcessLookupError):
            end_with(dead.pid)
