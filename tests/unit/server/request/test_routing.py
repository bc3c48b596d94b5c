"""The split, pins and exploration as pure functions."""

from __future__ import annotations

import pytest

from schemas.completion import Arm
from schemas.errors import InvalidInput, NotFound, Unavailable
from server.request.routing import RoutingTable, explore, named_route, route, split_model

SALT = "salt"


def table(**changes: object) -> RoutingTable:
    values: dict[str, object] = {"stable": 1, "canary": 2, "canary_share": 0.3, "loaded": {0: None, 1: "a", 2: "b"}}
    return RoutingTable("support", **{**values, **changes})  # type: ignore[arg-type]


def canaries(of: RoutingTable, users: int = 4000, salt: str = SALT) -> set[int]:
    return {u for u in range(users) if route(of, None, subject=f"user-{u}", split_salt=salt).arm is Arm.CANARY}


def test_the_split_has_the_share_and_is_sticky() -> None:
    first = canaries(table())
    # 4000 draws at 0.3: mean 1200, standard deviation 29
    assert 1084 < len(first) < 1316
    assert first == canaries(table())


def test_a_growing_share_keeps_its_people_and_a_new_canary_or_salt_draws_others() -> None:
    first = canaries(table())
    assert first < canaries(table(canary_share=0.6))
    other = canaries(table(canary=3, loaded={0: None, 1: "a", 3: "c"}))
    # independent draws share 0.3 * 0.3 = 9 % of 4000
    assert 280 < len(first & other) < 440
    assert 280 < len(first & canaries(table(), salt="another")) < 440


def test_shares_of_none_and_all() -> None:
    assert canaries(table(canary_share=0.0)) == set()
    assert len(canaries(table(canary_share=1.0))) == 4000
    assert canaries(table(loaded={0: None, 1: "a"}, canary_share=1.0)) == set(), "a canary that is not loaded"


def test_pins() -> None:
    pinned = route(table(), 2, subject="u", split_salt=SALT)
    assert (pinned.name, pinned.digest, pinned.arm) == ("support@v2", "b", Arm.PINNED)
    assert route(table(), 0, subject="u", split_salt=SALT).digest is None
    with pytest.raises(NotFound, match=r"support@v9 .* support@v0, support@v1, support@v2"):
        route(table(), 9, subject="u", split_salt=SALT)
    with pytest.raises(Unavailable):
        route(table(loaded={0: None}, canary=None), None, subject="u", split_salt=SALT)


def test_a_named_version_has_the_arm_of_the_table() -> None:
    assert [named_route(table(), number).arm for number in (0, 1, 2)] == [Arm.PINNED, Arm.STABLE, Arm.CANARY]


def test_model_names() -> None:
    assert split_model("support") == ("support", None)
    assert split_model("support@v12") == ("support", 12)
    for wrong in ("support@12", "@v1", "support@v01", "support@v1@v2"):
        with pytest.raises(InvalidInput) as refused:
            split_model(wrong)
        assert refused.value.field == "model"


def test_exploration_share() -> None:
    explored = sum(explore(f"cmpl_{number}", 0.2) for number in range(4000))
    assert 700 < explored < 900  # mean 800, standard deviation 25
    assert not any(explore(f"cmpl_{number}", 0.0) for number in range(100))
    assert all(explore(f"cmpl_{number}", 1.0) for number in range(100))
