"""One voice per person and target: repetitions, changes of mind, retractions."""

from __future__ import annotations

from tests.factories import Maker
from tests.unit.trainer.data.support import WINDOW_MS, joined, reasons
from trainer.joining.exclusions import Reason


def ids(words: object) -> list[str]:
    return [word.feedback.id for word in words]  # type: ignore[attr-defined]


def test_the_latest_word_counts_once() -> None:
    make = Maker()
    answer = make.completion()
    first = make.thumb(answer, up=True, at=100)
    again = make.thumb(answer, up=True, at=200)
    changed = make.thumb(answer, up=False, at=50)
    stars = make.rating(answer, 1, at=60)
    result = joined(answer, first, again, changed, stars)
    assert ids(result.words) == [again.id]
    assert reasons(result) == {
        first.id: {Reason.DUPLICATE},
        changed.id: {Reason.SUPERSEDED},
        stars.id: {Reason.SUPERSEDED},
    }


def test_words_at_the_same_moment_go_by_id() -> None:
    make = Maker()
    answer = make.completion()
    low, high = make.thumb(answer, up=True, id="fb_a"), make.thumb(answer, up=False, id="fb_b")
    assert ids(joined(answer, high, low).words) == ["fb_b"]


def test_a_late_word_does_not_displace_a_timely_one() -> None:
    make = Maker()
    answer = make.completion()
    timely, late = make.thumb(answer, at=100), make.thumb(answer, up=False, at=WINDOW_MS + 1)
    assert ids(joined(answer, timely, late).words) == [timely.id]


def test_speakers_targets_and_kinds_each_have_a_voice() -> None:
    make = Maker()
    answer, other = make.completion(), make.completion()
    words = [
        make.thumb(answer, user="ann"),
        make.thumb(answer, user="bob"),
        make.thumb(answer, user=None),
        make.thumb(other, user="ann"),
        make.comparison([answer, other], user="ann"),
        make.correction(answer, "better", user="ann"),
    ]
    assert len(joined(answer, other, *words).words) == len(words)


def test_another_tenant_is_another_voice() -> None:
    make = Maker()
    answer = make.completion()
    ours, theirs = make.thumb(answer), make.thumb(answer, up=False, tenant="zen")
    assert len(joined(answer, ours, theirs).words) == 2


def test_a_retraction_takes_the_word_back_and_brings_no_earlier_one_up() -> None:
    make = Maker()
    answer = make.completion()
    first, second = make.thumb(answer, at=100), make.thumb(answer, up=False, at=200)
    result = joined(answer, first, second, make.retraction(second, at=300))
    assert result.words == ()
    assert reasons(result) == {first.id: {Reason.SUPERSEDED}, second.id: {Reason.RETRACTED}}


def test_taking_back_what_was_already_replaced_leaves_the_later_word() -> None:
    make = Maker()
    answer = make.completion()
    first, second = make.thumb(answer, at=100), make.thumb(answer, up=False, at=200)
    result = joined(answer, first, second, make.retraction(first, at=300))
    assert ids(result.words) == [second.id]
    assert reasons(result) == {first.id: {Reason.RETRACTED}}


def test_a_retraction_is_heard_however_late() -> None:
    make = Maker()
    answer = make.completion()
    thumb = make.thumb(answer)
    assert joined(answer, thumb, make.retraction(thumb, at=10 * WINDOW_MS)).words == ()


def test_only_the_speaker_can_retract_or_supersede() -> None:
    make = Maker()
    answer = make.completion()
    thumb = make.thumb(answer, user="ann")
    theft = make.retraction(thumb, user="eve")
    push = make.thumb(answer, up=False, user="eve", supersedes=thumb.id)
    result = joined(answer, thumb, theft, push)
    assert sorted(ids(result.words)) == [thumb.id, push.id]
    assert reasons(result) == {theft.id: {Reason.FOREIGN_RETRACTION}}
    assert result.foreign_supersedes == 2


def test_a_retraction_of_something_unknown_waits() -> None:
    make = Maker()
    answer = make.completion()
    thumb = make.thumb(answer)
    taken = make.retraction(thumb)
    assert reasons(joined(answer, taken)) == {taken.id: {Reason.UNKNOWN_FEEDBACK}}
    assert joined(answer, taken, thumb).words == ()


def test_a_named_supersession_works_across_kinds_of_word() -> None:
    make = Maker()
    answer = make.completion()
    thumb = make.thumb(answer)
    edit = make.correction(answer, "better", supersedes=thumb.id)
    result = joined(answer, thumb, edit)
    assert ids(result.words) == [edit.id]
    assert reasons(result) == {thumb.id: {Reason.SUPERSEDED}}
