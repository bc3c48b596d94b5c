"""Two trainers, one lease: who makes versions, who waits, and what the one that lost it may still do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from schemas.errors import ConfigError
from tests.unit.trainer.control.house import POLICY, open_house
from trainer.release.lease import LeaseLost, TrainerLease
from trainer.state import StateDir


def test_a_second_trainer_waits_says_so_once_and_takes_over_when_the_first_gives_it_back() -> None:
    log = MemoryLog()
    with open_house("trainer-a", log) as first, open_house("trainer-b", log) as second:
        assert first.lease.wait(threading.Event(), poll_s=0.01, say=[].append)
        said: list[str] = []
        took = threading.Event()

        def wait() -> None:
            if second.lease.wait(threading.Event(), poll_s=0.01, say=said.append):
                took.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not took.wait(0.15)
        assert len(said) == 1
        assert "trainer-a" in said[0]
        first.lease.close()
        assert took.wait(5)
        thread.join()
        second.journal.refresh()
        assert second.journal.state(POLICY).lease.holder == "trainer-b"
        # Waiting asked the journal for nothing that it would have refused.
        assert all(line.outcome.applied for line in second.journal.history(POLICY))


def test_a_stopped_trainer_stops_waiting() -> None:
    log = MemoryLog()
    stop = threading.Event()
    stop.set()
    with open_house("trainer-a", log) as first, open_house("trainer-b", log) as second:
        first.lease.renew()
        assert not second.lease.wait(stop, poll_s=0.01, say=[].append)


def test_an_expired_lease_is_taken_and_the_old_holder_can_publish_nothing() -> None:
    log = MemoryLog()
    clock = [1_000]
    with open_house("trainer-a", log) as first, open_house("trainer-b", log) as second:
        slow = TrainerLease(first.journal, POLICY, "trainer-a", 10, clock=lambda: clock[0])
        quick = TrainerLease(second.journal, POLICY, "trainer-b", 10, clock=lambda: clock[0])
        slow.renew()
        with pytest.raises(LeaseLost):
            quick.renew()
        clock[0] += 10_001
        assert quick.renew() == 2
        with pytest.raises(LeaseLost, match="trainer-b"), slow.fenced():
            pytest.fail("the block must not run")
        assert slow.lost


def test_renewing_raises_the_epoch_and_keeps_the_holder() -> None:
    with open_house() as house:
        assert [house.lease.renew() for _ in range(3)] == [1, 2, 3]
        with house.lease.fenced() as epoch:
            assert epoch == 4
            assert house.journal.state(POLICY).lease.epoch == 4


def test_the_thread_keeps_a_short_lease_alive_and_never_breaks_into_a_fenced_block() -> None:
    log = MemoryLog()
    with open_house("trainer-a", log, ttl_s=0.3) as first, open_house("trainer-b", log) as second:
        first.lease.renew()
        first.lease.start()
        time.sleep(0.6)
        with pytest.raises(LeaseLost):
            second.lease.renew()
        with first.lease.fenced() as epoch:
            time.sleep(0.25)  # longer than a renewal takes to come
            first.journal.refresh()
            assert first.journal.state(POLICY).lease.epoch == epoch
        first.lease.close()
        assert second.lease.renew() > epoch


def test_two_processes_cannot_share_a_state_dir_and_the_holder_stays(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        holder = state.holder()
        with pytest.raises(ConfigError, match="another trainer works in"):
            StateDir(tmp_path)
    with StateDir(tmp_path) as state:
        assert state.holder() == holder
