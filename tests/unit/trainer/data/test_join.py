"""The join: windows, consent, and a reason for everything left out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import now_ms
from schemas.completion import ConsentLevel
from schemas.feedback import Comparison, FeedbackReceived, Outcome, Ranking, Thumbs
from tests.factories import START, Maker
from tests.unit.trainer.data.support import SCOPE, WINDOW_MS, joined, known, reasons
from trainer.intake.facts import Known
from trainer.joining.exclusions import EXPLANATIONS, Reason
from trainer.joining.join import join


def ids(words: object) -> list[str]:
    return [word.feedback.id for word in words]  # type: ignore[attr-defined]


def test_a_thumb_finds_its_answer() -> None:
    make = Maker()
    answer = make.completion(answers=[(1, 2), (3, 4)])
    thumb = make.thumb(answer, choice=1)
    result = joined(answer, thumb)
    assert ids(result.words) == [thumb.id]
    assert result.words[0].answers[0].key == (answer.completion_id, 1)
    assert result.exclusions == ()


def test_an_answer_nobody_judged_is_unlabelled_and_still_trains_ppo() -> None:
    make = Maker()
    answer = make.completion()
    result = joined(answer)
    assert result.words == ()
    assert [item.name for item in result.trainable] == [f"{answer.completion_id}/0"]


@pytest.mark.parametrize(("at", "counts"), [(WINDOW_MS, True), (WINDOW_MS + 1, False)])
def test_feedback_counts_up_to_the_end_of_the_window(at: int, counts: bool) -> None:
    make = Maker()
    answer = make.completion(0)
    thumb = make.thumb(answer, at=at)
    result = joined(answer, thumb)
    assert (ids(result.words) == [thumb.id]) is counts
    assert reasons(result) == ({} if counts else {thumb.id: {Reason.LATE}})


@pytest.mark.parametrize(("watermark", "settled"), [(WINDOW_MS - 1, False), (WINDOW_MS, True)])
def test_an_answer_is_settled_when_event_time_is_a_window_past_it(watermark: int, settled: bool) -> None:
    make = Maker()
    answer = make.completion(0)
    thumb = make.thumb(answer, at=100)
    result = join(known([answer, thumb], watermark=START + watermark), SCOPE, WINDOW_MS)
    assert bool(result.words) is settled
    assert bool(result.trainable) is settled
    waiting = {thumb.id: {Reason.WINDOW_OPEN}, f"{answer.completion_id}/0": {Reason.WINDOW_OPEN}}
    assert reasons(result) == ({} if settled else waiting)


def test_the_wall_clock_plays_no_part() -> None:
    make = Maker()
    answer = make.completion(0)
    assert answer.at != now_ms()
    assert join(known([answer]), SCOPE, WINDOW_MS).settled == ()


def test_a_comparison_has_its_window_after_its_last_answer() -> None:
    make = Maker()
    first, second = make.completion(0), make.completion(5_000)
    vote = make.comparison([first, second], 1, at=5_000 + WINDOW_MS)
    result = joined(first, second, vote)
    assert ids(result.words) == [vote.id]
    early = join(known([first, second, vote], watermark=START + WINDOW_MS), SCOPE, WINDOW_MS)
    assert reasons(early)[vote.id] == {Reason.WINDOW_OPEN}


def test_feedback_before_its_completion_waits() -> None:
    make = Maker()
    answer = make.completion()
    thumb = make.thumb(answer)
    other = make.completion()
    assert reasons(joined(other, thumb)) == {thumb.id: {Reason.NO_COMPLETION}}
    assert ids(joined(other, thumb, answer).words) == [thumb.id]


def test_consent_at_the_time_and_consent_now_are_both_needed() -> None:
    make = Maker()
    stored = make.completion(consent=ConsentLevel.STORE, user="ann")
    trained = make.completion(user="ann")
    words = [make.thumb(stored), make.thumb(trained)]
    result = joined(stored, trained, *words)
    assert ids(result.words) == [words[1].id]
    assert reasons(result) == {words[0].id: {Reason.NO_CONSENT}, f"{stored.completion_id}/0": {Reason.NO_CONSENT}}

    withdrawn = make.consent("ann", ConsentLevel.STORE, at=3_000)
    assert joined(trained, words[1], withdrawn).words == ()
    given_again = make.consent("ann", ConsentLevel.TRAIN, at=4_000)
    assert ids(joined(trained, words[1], given_again, withdrawn).words) == [words[1].id]
    assert joined(stored, words[0], given_again).words == ()


def test_a_rater_who_withdrew_is_not_learnt_from_though_the_answer_is() -> None:
    make = Maker()
    answer = make.completion(user="ann")
    thumb = make.thumb(answer, user="rita")
    result = joined(answer, thumb, make.consent("rita", ConsentLevel.NONE))
    assert reasons(result) == {thumb.id: {Reason.NO_CONSENT}}
    assert len(result.trainable) == 1


def test_a_comparison_with_one_withheld_answer_is_out_whole() -> None:
    make = Maker()
    fine, withheld = make.completion(), make.completion(consent=ConsentLevel.STORE)
    vote = make.comparison([fine, withheld])
    assert reasons(joined(fine, withheld, vote))[vote.id] == {Reason.NO_CONSENT}


def test_another_base_and_empty_answers_teach_nothing() -> None:
    make = Maker()
    foreign = make.completion(base_fingerprint="ef" * 32)
    empty = make.completion(answers=[()])
    words = [make.thumb(foreign), make.thumb(empty)]
    found = reasons(joined(foreign, empty, *words))
    assert found[words[0].id] == {Reason.WRONG_BASE}
    assert found[words[1].id] == {Reason.EMPTY}
    assert found[f"{foreign.completion_id}/0"] == {Reason.WRONG_BASE}
    assert Reason.EMPTY in found[f"{empty.completion_id}/0"]


def test_words_that_do_not_fit_or_do_not_teach_say_so() -> None:
    make = Maker()
    answer, other = make.completion(), make.completion()
    expected = [
        (make.thumb(answer, choice=5), Reason.UNKNOWN_CHOICE),
        (make.feedback(Comparison(winner=7), [answer, other]), Reason.MISMATCHED),
        (make.feedback(Ranking(order=((0,), (1,), (2,))), [answer, other], user="bob"), Reason.MISMATCHED),
        (make.feedback(Comparison(winner=0), answer), Reason.MISMATCHED),
        (make.feedback(Thumbs(value="up"), [answer, other], user="cid"), Reason.MISMATCHED),
        (make.comment(answer), Reason.NOT_A_PREFERENCE),
        (make.outcome(answer), Reason.NOT_A_PREFERENCE),
    ]
    result = joined(answer, other, *(word for word, _ in expected))
    assert result.words == ()
    assert reasons(result) == {word.id: {reason} for word, reason in expected}


def test_a_completion_id_taken_twice_counts_as_the_first() -> None:
    make = Maker()
    first, twin = make.completion(0, id="cmpl_x"), make.completion(9, id="cmpl_x", answers=[(7,)])
    twin = twin.model_copy(update={"id": "ev_twin"})
    result = joined(twin, first)
    assert [len(item.completion.choices) for item in result.settled] == [1]
    assert result.settled[0].completion.id == first.id
    assert reasons(result) == {"cmpl_x/0": {Reason.DUPLICATE}}


def test_tombstones_exclude_their_words_and_words_on_them() -> None:
    make = Maker()
    answer, gone = make.completion(user="bob"), make.completion(user="ann")
    on_gone = make.thumb(gone, user="bob")
    facts = known([answer, on_gone], watermark=START + 10 * WINDOW_MS)
    facts = Known(
        completions=facts.completions,
        feedback=facts.feedback,
        erased_completions=frozenset({gone.completion_id}),
        erased_feedback=frozenset({"fb_gone"}),
        watermark=facts.watermark,
    )
    result = join(facts, SCOPE, WINDOW_MS)
    assert reasons(result) == {on_gone.id: {Reason.ERASED}, "fb_gone": {Reason.ERASED}}


def test_words_that_cannot_all_be_meant_are_out() -> None:
    """She likes A, dislikes B and prefers B to A: nothing tells which of the three is a slip."""
    make = Maker()
    good, bad = make.completion(), make.completion()
    words = [make.thumb(good, up=True), make.thumb(bad, up=False)]
    vote = make.comparison([good, bad], winner=1)
    others = make.comparison([good, bad], winner=1, user="bob")
    agreeing = make.comparison([good, bad], winner=0, user="cid", at=900)
    likes = make.thumb(good, up=True, user="cid")
    result = joined(good, bad, *words, vote, others, agreeing, likes)
    out = {word.id: {Reason.CONTRADICTED} for word in (*words, vote)}
    assert reasons(result) == out
    assert set(ids(result.words)) == {others.id, agreeing.id, likes.id}


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason)


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_facts_makes_no_difference(rng: random.Random) -> None:
    make = Maker()
    answers = [make.completion(n * 700, user=f"u{n % 3}") for n in range(6)]
    words: list[FeedbackReceived] = []
    for number, answer in enumerate(answers):
        words += [make.thumb(answer, up=bool(number % 2), at=number * 800 + 50 * again) for again in range(3)]
    words += [make.retraction(words[0], at=6_000), make.retraction(words[5], at=7_000)]
    words += [make.comparison(answers[n : n + 2], n % 2, at=6_500) for n in range(4)]
    events = [*answers, *words, make.consent("u1", ConsentLevel.STORE)]
    first = join(known(events, watermark=START + 12_000), SCOPE, WINDOW_MS)
    rng.shuffle(events)
    assert join(known(events, watermark=START + 12_000), SCOPE, WINDOW_MS) == first


def test_a_comment_that_values_an_aspect_teaches_that_aspect() -> None:
    make = Maker()
    answer, other = make.completion(), make.completion()
    valued, silent = make.comment(answer, aspects={"tone": 0.5}), make.comment(other)
    beside = make.feedback(Outcome(name="resolved", value=True), [answer, other], aspects={"tone": 1.0})
    result = joined(answer, other, valued, silent, beside)
    assert ids(result.words) == [valued.id]
    assert reasons(result) == {silent.id: {Reason.NOT_A_PREFERENCE}, beside.id: {Reason.NOT_A_PREFERENCE}}
