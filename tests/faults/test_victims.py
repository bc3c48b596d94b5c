"""The care with signals: only an unreaped child of the parent itself that leads a group of its own is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.parents import Here, NotOurs, Nursery, Parent, own_group
from tests.faults.victims import Victim, members, until

SAMPLE = "tests.faults.sample_victim"


@pytest.fixture(params=["here", "nursery"])
def parent(request: pytest.FixtureRequest) -> Iterator[Parent]:
    if request.param == "here":
        yield Here()
    else:
        with Nursery(SAMPLE) as nursery:
            yield nursery


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_signal_goes_to_everyone_this_group_or_init(pid: int, parent: Parent) -> None:
    with pytest.raises(NotOurs):
        parent.signal(pid, signal.SIGKILL)
    with pytest.raises(NotOurs):
        parent.signal(pid, signal.SIGKILL, group=True)


def test_neither_this_process_nor_its_parent_is_a_victim(parent: Parent) -> None:
    for pid in (os.getpid(), os.getppid()):
        with pytest.raises(NotOurs):
            parent.signal(pid, signal.SIGKILL)


def test_a_child_in_this_group_is_not_touched() -> None:
    with subprocess.Popen([sys.executable, "-m", SAMPLE, "sleep"]) as child:
        with pytest.raises(NotOurs, match="no process group of its own"):
            own_group(child.pid)
        child.kill()


def test_another_parents_victim_is_not_touched(tmp_path: Path, parent: Parent) -> None:
    with Nursery(SAMPLE) as other, Victim("theirs", SAMPLE, ["sleep"], tmp_path / "out", parent=other) as theirs:
        with pytest.raises(NotOurs):
            parent.signal(theirs.pid, signal.SIGKILL)
        assert not theirs.ended


def test_a_reaped_victim_is_not_touched_again(tmp_path: Path, parent: Parent) -> None:
    victim = Victim("brief", SAMPLE, ["end", "3"], tmp_path / "out", parent=parent)
    assert victim.wait(60) == 3
    with pytest.raises(NotOurs):
        victim.kill()
    assert victim.stop() == victim.wait(1.0) == 3


def test_a_kill_takes_the_group_and_nothing_else(tmp_path: Path, parent: Parent) -> None:
    with Victim("bystander", SAMPLE, ["sleep"], tmp_path / "other", parent=parent) as bystander:
        with Victim("family", SAMPLE, ["family"], tmp_path / "out", parent=parent) as victim:
            until(lambda: victim.said().strip(), "the victim's child", 60)
            child = int(victim.said())
            assert os.getpgid(child) == victim.pid
            assert members(victim.pid) == 2
            assert victim.kill() == 1
            until(lambda: not members(victim.pid), "the end of the victim's child", 60)
            assert victim.wait(1.0) == -9
        assert not bystander.ended


def test_a_nursery_takes_its_victims_with_it(tmp_path: Path) -> None:
    with Nursery(SAMPLE) as nursery:
        pid = Victim("sleeper", SAMPLE, ["sleep"], tmp_path / "out", parent=nursery).pid
        assert members(pid) == 1
    assert members(pid) == 0
