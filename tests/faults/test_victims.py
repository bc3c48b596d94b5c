"""The care with signals: only a child of this very process that leads a group of its own is ever touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.victims import NotOurs, Victim, members, own_group, until

SLEEPER = ["-c", "import time; time.sleep(600)"]
PARENT = [
    "-c",
    "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid,"
    " flush=True); time.sleep(600)",
]


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Records every signal instead of sending it."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
    return sent


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_signal_goes_to_everyone_this_group_or_init(pid: int) -> None:
    with pytest.raises(NotOurs):
        own_group(pid)


def test_neither_this_process_nor_its_parent_is_a_victim() -> None:
    for pid in (os.getpid(), os.getppid()):
        with pytest.raises(NotOurs):
            own_group(pid)


def test_a_child_in_this_group_is_not_touched() -> None:
    with subprocess.Popen([sys.executable, *SLEEPER]) as child:
        with pytest.raises(NotOurs, match="no process group of its own"):
            own_group(child.pid)
        child.kill()


def test_a_reaped_victim_is_not_touched_again(tmp_path: Path, signals: list[tuple[int, int]]) -> None:
    victim = Victim("brief", ["-c", "pass"], tmp_path / "out")
    victim._process.wait(60)
    with pytest.raises(NotOurs):
        victim.kill()
    assert victim.stop() == victim.wait(1.0) == 0
    assert signals == []


def test_a_kill_takes_the_group_and_nothing_else(tmp_path: Path) -> None:
    with Victim("bystander", SLEEPER, tmp_path / "other") as bystander:
        with Victim("parent", PARENT, tmp_path / "out") as victim:
            until(lambda: victim.said().strip(), "the victim's child", 60)
            child = int(victim.said())
            assert os.getpgid(child) == victim.pid
            assert members(victim.pid) == 2
            assert victim.kill() == 1
            until(lambda: not _lives(child), "the end of the victim's child", 60)
            assert victim.wait(1.0) == -9
        assert not bystander.ended


def test_one_that_ends_by_itself_keeps_its_code(tmp_path: Path) -> None:
    with Victim("brief", ["-c", "raise SystemExit(3)"], tmp_path / "out") as victim:
        assert victim.wait(60) == 3


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
