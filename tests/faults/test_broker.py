"""The representative of the broker scenes: `kill -9` of a real broker under load, and its restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.broker_faults import broker_killed

pytestmark = pytest.mark.kafka


def test_a_killed_broker_loses_and_doubles_nothing_and_holds_up_no_chat(tmp_path: Path) -> None:
    outcome = broker_killed(tmp_path, away_s=0, chats=10, words=10)
    outcome.check()
    assert outcome.acknowledged
