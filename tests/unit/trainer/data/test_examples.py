"""From words to rows, selection and held-out splits, by hand-worked cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.completion import COLLECTED
from schemas.event import Event
from tests.factories import START, Maker
from tests.unit.trainer.data.support import joined
from trainer.joining.exclusions import Reason
from trainer.joining.funnel import funnel
from trainer.snapshots.examples import Rows, propensity_weights, rows_of
from trainer.snapshots.selection import Selection, SnapshotSettings, heldout_by, select

ALL = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0, heldout_time=0)


def rows(*events: Event, settings: SnapshotSettings = ALL) -> Rows:
    result = joined(*events)
    return rows_of(select(result, settings, None), result.settled, settings)


def pairs(*events: Event) -> list[tuple[str, str, bool, float]]:
    return [(row.chosen_completion, row.rejected_completion, row.tie, row.weight) for row in rows(*events).pairs]


def test_a_winner_is_preferred_to_each_other() -> None:
    make = Maker()
    a, b, c = (make.completion(id=name) for name in "abc")
    found = pairs(a, b, c, make.comparison([a, b, c], 1))
    assert found == [("b", "a", False, 0.5), ("b", "c", False, 0.5)]


def test_a_tie_ties_each_two() -> None:
    make = Maker()
    a, b, c = (make.completion(id=name) for name in "abc")
    assert pairs(a, b, make.comparison([a, b], "tie")) == [("a", "b", True, 1.0)]
    assert pairs(a, b, c, make.comparison([a, b, c], "tie")) == [
        ("a", "b", True, 1 / 3),
        ("a", "c", True, 1 / 3),
        ("b", "c", True, 1 / 3),
    ]


def test_both_bad_is_a_thumb_down_on_each() -> None:
    make = Maker()
    a, b = make.completion(id="a"), make.completion(id="b")
    found = rows(a, b, make.comparison([a, b], "both_bad"))
    assert found.pairs == ()
    assert [(row.completion_id, row.liked, row.kind) for row in found.thumbs] == [
        ("a", False, "comparison"),
        ("b", False, "comparison"),
    ]


def test_a_ranking_is_all_its_pairs_in_one_set() -> None:
    make = Maker()
    a, b, c = (make.completion(id=name) for name in "abc")
    word = make.ranking([a, b, c], [[2], [0, 1]])
    assert pairs(a, b, c, word) == [("c", "a", False, 1 / 3), ("c", "b", False, 1 / 3), ("a", "b", True, 1 / 3)]
    assert {(row.feedback_id, row.number) for row in rows(a, b, c, word).pairs} == {(word.id, n) for n in range(3)}


@pytest.mark.parametrize(("stars", "liked"), [(1, False), (2, False), (3, None), (4, True), (5, True)])
def test_stars_are_kept_and_liked_or_not_where_they_are_not_three(stars: int, liked: bool | None) -> None:
    make = Maker()
    answer = make.completion()
    found = rows(answer, make.rating(answer, stars), make.thumb(answer, user="other"))
    assert {(row.stars, row.liked) for row in found.thumbs} == {(stars, liked), (None, True)}


def test_a_correction_is_a_row_of_its_own() -> None:
    make = Maker()
    answer = make.completion(id="a")
    found = rows(answer, make.correction(answer, "better"))
    assert [(row.completion_id, row.choice) for row in found.corrections] == [("a", 0)]
    assert (found.pairs, found.thumbs) == ((), ())


def test_thumbs_weigh_more_where_people_rarely_click() -> None:
    make = Maker()
    busy = [make.completion(domain="busy") for _ in range(8)]
    quiet = [make.completion(domain="quiet") for _ in range(8)]
    words = [make.thumb(answer) for answer in (*busy[:5], quiet[0])]
    result = joined(*busy, *quiet, *words)
    # (judged + 1) / (answers + 2): 7/18 overall, 6/10 busy, 2/10 quiet.
    weights = propensity_weights(result.words, result.settled, 5)
    assert weights["en", "busy"] == pytest.approx(7 / 18 * 10 / 6)
    assert weights["en", "quiet"] == pytest.approx(7 / 18 * 10 / 2)
    assert propensity_weights(result.words, result.settled, 1.5)["en", "quiet"] == 1.5


def test_silence_on_answers_that_were_only_collected_says_nothing() -> None:
    make = Maker()
    seen = [make.completion(domain="busy") for _ in range(8)]
    collected = [make.completion(domain=COLLECTED) for _ in range(50)]
    words = [make.thumb(answer) for answer in seen[:5]]
    result = joined(*seen, *collected, *words)
    assert propensity_weights(result.words, result.settled, 5) == {("en", "busy"): pytest.approx(1)}
    late = joined(*seen, *collected, *words, make.thumb(collected[0]))
    assert ("en", COLLECTED) in propensity_weights(late.words, late.settled, 5)


def test_ppo_gets_what_is_new_unless_nothing_is() -> None:
    make = Maker()
    old, new = make.completion(0, id="old"), make.completion(20_000, id="new")
    result = joined(old, new)
    # The window is 10 s: at a watermark of 15 s `old` had been settled, `new` had not.
    chosen = select(result, ALL, START + 15_000)
    assert [answer.name for answer in chosen.answers] == ["new/0"]
    assert [(item.id, item.reason) for item in chosen.exclusions] == [("old/0", Reason.SEEN_BEFORE)]
    again = select(result, ALL, START + 40_000)
    assert [answer.name for answer in again.answers] == ["old/0", "new/0"]
    assert again.exclusions == ()
    edge = select(result, ALL, START + 10_000)
    assert [answer.name for answer in edge.answers] == ["new/0"]


def test_caps_keep_the_newest_and_say_what_they_left() -> None:
    make = Maker()
    answers = [make.completion(n * 100, id=f"c{n}") for n in range(4)]
    words = [make.thumb(answer, at=1_000 + n) for n, answer in enumerate(answers)]
    result = joined(*answers, *words)
    chosen = select(result, ALL.model_copy(update={"max_labels": 3, "max_answers": 1}), None)
    assert [word.feedback.id for word in chosen.words] == [word.id for word in words[1:]]
    assert [answer.name for answer in chosen.answers] == ["c3/0"]
    assert {(item.id, item.reason) for item in chosen.exclusions} == {
        (words[0].id, Reason.OVER_CAP),
        *((f"c{n}/0", Reason.OVER_CAP) for n in range(3)),
    }


def test_the_newest_new_labels_are_held_out_by_time() -> None:
    make = Maker()
    answers = [make.completion(n * 1_000) for n in range(20)]
    words = [make.thumb(answer, at=n * 1_000 + 10) for n, answer in enumerate(answers)]
    result = joined(*answers, *words)
    settings = ALL.model_copy(update={"heldout_time": 0.25})
    assert select(result, settings, None).time_cut == START + 15_000
    # Settled after the last snapshot: the ones finished later than 10 s before its watermark, 7 of them.
    assert select(result, settings, START + 22_000).time_cut == START + 19_000
    table = rows(*answers, *words, settings=settings)
    assert [row.heldout for row in table.thumbs] == [""] * 15 + ["time"] * 5
    assert {row.heldout for row in table.answers} == {""}


def test_labels_of_one_moment_are_never_all_held_out() -> None:
    make = Maker()
    answers = [make.completion(0) for _ in range(10)]
    result = joined(*answers, *(make.thumb(answer) for answer in answers))
    assert select(result, ALL.model_copy(update={"heldout_time": 0.5}), None).time_cut is None


@given(st.text(min_size=1, max_size=20))
def test_a_person_is_on_one_side_for_ever(group: str) -> None:
    nothing = Selection((), (), (), None)
    settings = ALL.model_copy(update={"heldout_users": 0.3})
    more = ALL.model_copy(update={"heldout_users": 0.6})
    side = heldout_by(group, None, nothing, settings)
    assert side == heldout_by(group, 5, nothing, settings)
    if side:
        assert heldout_by(group, None, nothing, more) == "user"


def test_about_the_asked_share_of_persons_is_held_out() -> None:
    settings = ALL.model_copy(update={"heldout_users": 0.2})
    held = sum(bool(heldout_by(f"user_{n}", None, Selection((), (), (), None), settings)) for n in range(5_000))
    assert 0.18 < held / 5_000 < 0.22


def test_the_funnel_counts_each_stage() -> None:
    make = Maker()
    answers = [make.completion(user=f"u{n}") for n in range(5)]
    greedy = make.completion(finish_reason="length", user="u9")
    words = [
        make.thumb(answers[0], user="u0"),
        make.thumb(answers[0], user="u0", at=2_000),
        make.thumb(answers[1], user="u1", at=50_000),
        make.comparison(answers[:2], user="u1"),
        make.comment(answers[2], user="u2"),
        make.thumb(greedy, user="u9"),
    ]
    counted = funnel(joined(*answers, greedy, *words, make.displayed(answers[:3])))
    assert (counted.answered, counted.displayed, counted.rated) == (6, 3, 4)
    assert (counted.joined, counted.words, counted.ppo, counted.quarantined) == (3, 3, 5, 0)
    assert counted.excluded_feedback == {"duplicate": 1, "late": 1, "not_a_preference": 1}
    assert counted.excluded_answers == {"cut_off": 1}


def test_aspects_of_any_word_on_one_answer_are_rows_and_a_person_s_latest_counts() -> None:
    make = Maker()
    answer, other = make.completion(id="a"), make.completion(id="b")
    found = rows(
        answer,
        other,
        make.thumb(answer, at=1_000, aspects={"tone": 0.5, "accuracy": -1.0}),
        make.comment(answer, at=2_000, aspects={"tone": -0.5}),
        make.thumb(answer, at=1_500, user="bob", aspects={"tone": 1.0, "beyond": 1.5}),
        make.comparison([answer, other], at=1_600, aspects={"tone": 1.0}),
    )
    said = {(row.group, row.completion_id, row.aspect, row.value) for row in found.aspects}
    assert said == {("ann", "a", "tone", -0.5), ("ann", "a", "accuracy", -1.0), ("bob", "a", "tone", 1.0)}
    assert len(found.aspects) == 3
    assert len(found.thumbs) == 2
