"""Representatives of the crash scenes: a server killed under load, a trainer killed between training and commit."""

from __future__ import annotations

from pathlib import Path

from tests.faults.server_kills import killed_server
from tests.faults.trainer_kills import COMMIT, killed_at_each_moment


def test_a_server_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    outcome = killed_server(tmp_path, kills=1)
    outcome.check()
    assert outcome.acknowledged


def test_a_trainer_killed_between_training_and_commit_makes_the_same_adapter(tmp_path: Path) -> None:
    killed_at_each_moment(tmp_path, (COMMIT,), (), comparisons=24).check()
