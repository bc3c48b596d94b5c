"""The influence cap, by hand."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.quality.share import within_share


def test_the_newest_of_whoever_speaks_most_are_kept() -> None:
    """30 words of one and 2 each of 10 others, share 1/4: the one may have c with c <= (20 + c) / 4, so 6."""
    speakers = ["loud"] * 30 + [f"p{n % 10}" for n in range(20)]
    fates = within_share(speakers, 0.25, 1_000)
    assert fates[:30] == ["taken"] * 6 + ["over_share"] * 24
    assert fates[30:] == ["taken"] * 20


def test_a_full_snapshot_of_one_persons_newest_words_is_still_nobodys() -> None:
    """Without the cap the newest 20 words would all be of the one; with room for 20 and a share of 0.1 they have 2."""
    speakers = ["loud"] * 100 + [f"p{n % 40}" for n in range(80)]
    fates = within_share(speakers, 0.1, 20)
    taken = Counter(who for who, fate in zip(speakers, fates, strict=True) if fate == "taken")
    assert (taken["loud"], taken.total()) == (2, 20)
    assert Counter(fates) == {"taken": 20, "over_share": 98, "over_cap": 62}


def test_few_people_may_have_twice_an_equal_part() -> None:
    assert within_share(["ann"] * 5, 0.05, 100) == ["taken"] * 5, "the only one has everything"
    assert within_share(["ann"] * 9 + ["bob"], 0.05, 100) == ["taken"] * 10, "two: twice a half"
    three = within_share(["ann"] * 9 + ["bob", "cid"], 0.05, 100)
    assert three.count("over_share") == 5, "three: c <= (2 + c) * 2 / 3, so 4"
    assert within_share([], 0.05, 100) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=200), st.floats(0.01, 1), st.integers(1, 100))
def test_nobody_ever_has_more_than_the_share(speakers: list[int], share: float, room: int) -> None:
    fates = within_share(speakers, share, room)
    taken = Counter(who for who, fate in zip(speakers, fates, strict=True) if fate == "taken")
    most = max(share, 2 / len(set(speakers))) * taken.total() if taken else 0
    assert all(count <= max(1, most + 1e-6) for count in taken.values())
    assert taken.total() <= room
    if "over_cap" in fates:
        assert taken.total() == room
