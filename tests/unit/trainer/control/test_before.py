"""What a candidate goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.trainer.control.house import POLICY, candidate, open_house
from trainer.before import fetch_before


@pytest.mark.parametrize(("ended_with", "goes_on"), [(0.03, 0.03), (0.0, None), (-0.02, None)])
def test_the_parents_kl_coefficient_goes_on_unless_it_could_never_grow(
    tmp_path: Path, ended_with: float, goes_on: float | None
) -> None:
    with open_house() as house:
        made = replace(candidate(tmp_path), metrics={"beta_next": ended_with})
        house.publisher.publish(house.publisher.reserve(0), made, tmp_path)
        before = fetch_before(house.registry, POLICY, tmp_path / "cache", parent=1, reward_model=None, answers=())
    assert before.beta == goes_on
