"""Whose words count: quarantine and release as facts on the log, contradictions by content, and how people agree."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from schemas.raters import standings
from tests.factories import START, Maker
from tests.unit.trainer.data.support import LATER, SCOPE, WINDOW_MS, joined, ledger_of, log_of, reasons
from trainer.joining.contradictions import contradicted
from trainer.joining.exclusions import Reason
from trainer.joining.join import Joined, join
from trainer.quality.agreement import agreement
from trainer.release.votes import canary_votes
from trainer.settings import FeedbackSection
from trainer.snapshots.corpus import Corpus
from trainer.snapshots.identity import Identities
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import cut_snapshot


def ids(result: Joined) -> set[str]:
    return {word.feedback.id for word in result.words}


def test_a_quarantined_persons_words_are_out_with_the_reason_until_they_are_released() -> None:
    make = Maker()
    answer, other = make.completion(), make.completion(user="bob")
    hers, his = make.thumb(answer), make.thumb(other, user="bob")
    out = joined(answer, other, hers, his, make.judged("ann"))
    assert ids(out) == {his.id}
    assert reasons(out) == {hers.id: {Reason.QUARANTINED}}
    assert len(out.trainable) == 2, "what was answered to her can be learnt from all the same"
    back = joined(answer, other, hers, his, make.judged("ann"), make.judged("ann", "released", at=6_000))
    assert ids(back) == {hers.id, his.id}
    another = make.judged("ann").model_copy(update={"tenant": "other"})
    assert ids(joined(answer, other, hers, his, another)) == {hers.id, his.id}, "a tenant judges its own people alone"


def test_a_release_holds_against_the_evidence_up_to_it_alone() -> None:
    make = Maker()
    found = make.judged("ann", at=5_000, until=4_000)
    released = make.judged("ann", "released", at=6_000)
    again = make.judged("ann", at=7_000, until=5_500)
    newer = make.judged("ann", at=9_000, until=8_000)
    by_hand = make.judged("ann", at=9_500)
    for order in permutations([found, released, again]):
        (standing,) = standings(order).values()
        assert (standing.quarantined, standing.decisive) == (False, released)
        assert standing.released_at == START + 6_000
    for more in (newer, by_hand):
        (standing,) = standings([more, found, again, released]).values()
        assert (standing.quarantined, standing.decisive) == (True, more)


def test_what_a_test_finds_late_in_old_words_changes_nothing() -> None:
    """Another trainer's finding that is dated after the release, but rests on what was said before it."""
    make = Maker()
    found = make.judged("ann", at=9_000, until=6_000)
    (standing,) = standings([make.judged("ann", at=5_000), make.judged("ann", "released", at=6_000), found]).values()
    assert not standing.quarantined


def test_the_ledger_keeps_judgements_and_a_quarantined_vote_decides_no_canary(tmp_path: Path) -> None:
    make = Maker()
    pair = [make.completion(version=version, user="ann") for version in (3, 4)]
    votes = [make.comparison(pair, user=user) for user in ("ann", "bob")]
    with ledger_of(
        log_of([*pair, *votes, make.judged("bob"), make.judged("x").model_copy(update={"policy": "y"})])
    ) as ledger:
        assert [one.rater for one in ledger.known().raters] == ["bob"], "each policy has its own"
        corpus = Corpus(ledger, make.keys, FeedbackSection(), SCOPE.base_fingerprint, lambda *_: ())
        counted = corpus.votes(canary=4, stable=3, since_ms=0)
        assert len(canary_votes(ledger.known().feedback, canary=4, stable=3, since_ms=0)) == 2
    assert [vote.speaker for vote in counted] == ["acme/user/ann"]


def test_contradictions_on_equal_answers_are_seen_by_content_and_not_without_it(tmp_path: Path) -> None:
    """Two chats in which the same was asked and answered: the word of each is on an answer of its own."""
    make = Maker()
    first, second, other = make.completion(), make.completion(100), make.completion(200, answers=[(9, 2)])
    up, down = make.thumb(first, up=True), make.thumb(second, up=False)
    bobs = make.thumb(second, up=False, user="bob")
    fine = make.thumb(other, up=True)
    events = [first, second, other, up, down, bobs, fine, make.completion(LATER)]
    with ledger_of(log_of(events)) as ledger:
        bare = join(ledger.known(), SCOPE, WINDOW_MS)
        assert contradicted(bare.words) == frozenset()
        same = Identities(ledger, make.keys).of(answer for word in bare.words for answer in word.answers)
        assert contradicted(bare.words, same) == {up.id, down.id}
        settings = SnapshotSettings(feedback_window_ms=WINDOW_MS)
        cut = cut_snapshot(ledger, SCOPE, settings, tmp_path / "cut", identify=Identities(ledger, make.keys).of)
        assert cut.manifest.excluded["feedback.contradicted"] == 2
        assert "the opposite" in cut.manifest.reasons["contradicted"]
        assert ids(cut.joined) == {bobs.id, fine.id}
        make.keys.destroy("ann")
        gone = Identities(ledger, make.keys).of(answer for word in bare.words for answer in word.answers)
        assert contradicted(bare.words, gone) == frozenset(), "what cannot be opened is like no other"


@pytest.mark.parametrize("orders", [([[0], [1]], [[1], [0]]), ([[0], [1, 2]], [[2], [0], [1]])])
def test_orders_turned_round_are_contradictions_and_ties_are_none(orders: tuple[list[list[int]], ...]) -> None:
    make = Maker()
    count = sum(map(len, orders[0]))
    answers = [make.completion() for _ in range(count)]
    said = [make.ranking(answers, order) for order in orders]
    said[1] = said[1].model_copy(update={"target": said[1].target.model_copy(update={"comparison_id": "cmp_again"})})
    tie = make.comparison(answers[:2], "tie")
    tie = tie.model_copy(update={"target": tie.target.model_copy(update={"comparison_id": "cmp_third"})})
    assert ids(joined(*answers, *said, tie)) == {tie.id}


def test_agreement_counts_each_person_once_for_an_item() -> None:
    """Items: A liked by ann and bob; B liked by ann, disliked by bob and cid. D_o = 4 / 2, D_e = 12 / 4."""
    make = Maker()
    liked, mixed, lonely = (make.completion(n) for n in range(3))
    said = [
        *(make.thumb(liked, user=user) for user in ("ann", "bob")),
        *(make.thumb(mixed, up=user == "ann", user=user) for user in ("ann", "bob", "cid")),
        make.thumb(lonely),
        make.thumb(mixed, user="ai", source="ai"),
        *(make.comparison([liked, mixed], winner=0, user=user) for user in ("dan", "eve")),
    ]
    found = agreement(joined(liked, mixed, lonely, *said).words)
    assert found["thumbs"].alpha == pytest.approx(1 - 2 / 3)
    assert (found["thumbs"].items, found["thumbs"].people, found["thumbs"].judgements) == (2, 3, 5)
    assert (found["pairs"].items, found["pairs"].alpha) == (1, None)
    assert "alpha 0.33 (2 shared by 3 people" in found["thumbs"].in_words()
    assert agreement([])["thumbs"].in_words() == "not measurable (nothing was judged by more than one person)"
