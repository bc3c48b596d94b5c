"""What of an interrupted turn stays when settings have changed meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from exchange.settings import build_settings
from tests.unit.trainer.control.house import candidate, open_house
from trainer.resuming import goes_on, settings_digest
from trainer.settings import TrainerSettings
from trainer.state import StateDir, TurnState

SUITE = '{"name": "hello", "messages": [{"role": "user", "content": "Hi"}], "must_match": ["hello"]}\n'
TURN = TurnState(parent=0, snapshot="0" * 64, reserved=1)


def settings(**sections: Any) -> TrainerSettings:
    return build_settings(TrainerSettings, {"model": "m", **sections})


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"reward_model": {"epochs": 3}},
        {"ppo": {"beta": 0.1}},
        {"gates": {"max_new_tokens": 8}},
        {"suites": {"max_new_tokens": 8}},
    ],
)
def test_what_decides_a_step_changes_the_digest(changed: dict[str, Any]) -> None:
    assert settings_digest(settings(**changed)) != settings_digest(settings())


def test_places_and_what_no_step_looks_at_leave_the_digest_as_it_is(tmp_path: Path) -> None:
    here = settings(state_dir=tmp_path, registry="memory:", poll_s=9.0, promotion={"min_votes": 7}, kto={"beta": 0.5})
    assert settings_digest(here) == settings_digest(settings())


def test_a_suite_counts_by_what_it_says_and_not_by_where_it_lies(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(SUITE, encoding="utf-8")
    shutil.copy(first, second)
    by_first, by_second = (settings(suites={"red_team": path}) for path in (first, second))
    assert settings_digest(by_first) == settings_digest(by_second)
    second.write_text(SUITE.replace("Hi", "Good day"), encoding="utf-8")
    assert settings_digest(by_first) != settings_digest(by_second)


@pytest.mark.parametrize("begun_under", ["these", "others", "unknown"])
def test_only_under_the_same_settings_finished_steps_are_gone_on_with(tmp_path: Path, begun_under: str) -> None:
    now, said = settings(), list[str]()
    digest = {"these": settings_digest(now), "others": settings_digest(settings(seed=1)), "unknown": None}[begun_under]
    with open_house() as house, StateDir(tmp_path / "state") as state:
        state.save_turn(TURN.model_copy(update={"settings": digest}))
        for place in ("snapshot/words.parquet", "reward/reward.json", "checkpoints/step-1/state", "judgement.json"):
            (state.turn_dir / place).parent.mkdir(parents=True, exist_ok=True)
            (state.turn_dir / place).write_bytes(b"made")
        turn = state.turn()
        assert turn is not None
        turn = goes_on(turn, state, now, house.registry, said.append)
        left = {path.name for path in state.turn_dir.iterdir()}
        assert (state.turn_dir / "snapshot" / "words.parquet").read_bytes() == b"made"
        if begun_under == "these":
            assert (left, said) == ({"turn.json", "snapshot", "reward", "checkpoints", "judgement.json"}, [])
        else:
            assert left == {"turn.json", "snapshot"}
            assert len(said) == 1
            assert "begun under other settings" in said[0]
        assert turn == state.turn() == TURN.model_copy(update={"settings": settings_digest(now)}), "its number stays"


def test_a_number_that_is_filled_already_is_given_up_with_what_filled_it(tmp_path: Path) -> None:
    with open_house() as house, StateDir(tmp_path / "state") as state:
        assert house.publisher.reserve(0) == 1
        house.publisher.publish(1, candidate(tmp_path), tmp_path / "work")
        state.save_turn(TURN)
        assert goes_on(TURN, state, settings(), house.registry, lambda _: None).reserved is None


def test_a_turn_noted_before_settings_were_kept_is_still_read(tmp_path: Path) -> None:
    with StateDir(tmp_path / "state") as state:
        state.turn_dir.mkdir()
        old = '{"keys":3,"mark":null,"parent":2,"reserved":null,"snapshot":"%s"}\n' % ("0" * 64)
        (state.turn_dir / "turn.json").write_text(old, encoding="utf-8")
        assert state.turn() == TurnState(parent=2, snapshot="0" * 64, keys=3)
