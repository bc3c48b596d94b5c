"""Votes from before Attune: they warm the reward model, never PPO, and are erased like everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.keys.memory import MemoryKeys
from schemas.completion import Consent, ConsentLevel
from schemas.errors import InvalidInput
from schemas.event import Event
from schemas.imported import ChatMessage, FeedbackImported, ImportedContent
from tests.factories import START, Maker
from tests.unit.trainer.data.support import SCOPE, ledger_of, log_of
from trainer.data import TokenPair
from trainer.joining.exclusions import Exclusion, Reason
from trainer.settings import FeedbackSection
from trainer.snapshots.corpus import Corpus, training_data
from trainer.snapshots.dataset import Dataset, open_dataset
from trainer.snapshots.selection import is_heldout_person
from trainer.snapshots.snapshot import Snapshot, cut_snapshot

SETTINGS = FeedbackSection(feedback_window_ms=10_000, heldout_users=0.0, heldout_time=0.0, min_answers=2)


def imported(
    make: Maker,
    *answers: str,
    liked: bool | None = None,
    user: str | None = "ann",
    at: int = 0,
    target: str = "vote_1",
    **more: object,
) -> FeedbackImported:
    """A vote `at` ms after START: thumbs where `liked` is given, else a preference of two answers."""
    name = make._next("imp")
    conversation = f"conv_{name}"
    content = ImportedContent(messages=(ChatMessage(role="user", content="hello"),), answers=answers)
    fields: dict[str, object] = {
        "id": name,
        "at": START + at,
        "policy": make.policy,
        "tenant": make.tenant,
        "conversation": conversation,
        "end_user": user,
        "kind": "preference" if liked is None else "thumbs",
        "liked": liked,
        "target": target,
        "consent": Consent(level=ConsentLevel.TRAIN, source="import"),
        "source": "jsonl",
        "actor": "operator",
        "content": make.sealed(user or conversation, name, content.model_dump_json()),
    }
    return FeedbackImported.model_validate(fields | more)


def encode(_: object, text: str) -> list[int]:
    return [*text.encode(), 2]


def encode_chat(messages: tuple[ChatMessage, ...], answer: str) -> TokenPair:
    if len(answer) > 20:
        raise InvalidInput("too long", field="messages")
    prompt = tuple("".join(message.content for message in messages).encode())
    return prompt, tuple(encode(prompt, answer))


def cut(folder: Path, *events: Event, settings: FeedbackSection = SETTINGS) -> Snapshot:
    with ledger_of(log_of(events)) as ledger:
        return cut_snapshot(ledger, SCOPE, settings, folder)


def opened(folder: Path, keys: MemoryKeys, *events: Event, settings: FeedbackSection = SETTINGS) -> Dataset:
    snapshot = cut(folder, *events, settings=settings)
    return open_dataset(folder, snapshot.manifest, keys, encode, encode_chat)


def test_imported_votes_become_pairs_and_thumbs_of_their_own_cohort(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    data = opened(
        tmp_path,
        make.keys,
        answer,
        make.thumb(answer),
        make.completion(900_000),
        imported(make, "good", "bad"),
        imported(make, "fine", liked=False, target="vote_2", user=None),
    )
    (pair,) = data.train.pairs
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == (
        tuple(b"hello"), (*b"good", 2), (*b"bad", 2),
    )  # fmt: skip
    assert (pair.source, pair.group, pair.weight, pair.tie) == ("imported", "ann", 1.0, False)
    live, old = data.train.thumbs
    assert (live.cohort, old.cohort, old.liked, old.answer_ids) == ("user", "imported", False, (*b"fine", 2))
    assert {item.completion_id for item in data.train.answers} == {answer.completion_id}
    prompts = training_data(data, 0.5).prompts
    assert tuple(b"hello") not in prompts, "candidates are judged on what Attune was asked"


def test_the_latest_word_of_a_person_on_a_target_counts_once(tmp_path: Path) -> None:
    make = Maker()
    first = imported(make, "a", liked=True, at=1)
    second = imported(make, "a", liked=True, at=2)
    last = imported(make, "a", liked=False, at=3)
    other = imported(make, "a", liked=True, user="bob", at=0)
    result = cut(tmp_path, last, first, other, second, make.completion(900_000))
    assert {vote.id for vote in result.joined.imported} == {last.id, other.id}
    assert set(result.joined.exclusions) >= {
        Exclusion("feedback", first.id, Reason.SUPERSEDED),
        Exclusion("feedback", second.id, Reason.SUPERSEDED),
    }
    assert result.manifest.counts["imported"] == 2


@pytest.mark.parametrize("level", [ConsentLevel.NONE, ConsentLevel.STORE])
def test_without_consent_to_training_nothing_is_learnt(tmp_path: Path, level: ConsentLevel) -> None:
    make = Maker()
    stored = imported(make, "a", liked=True, consent=Consent(level=level, source="import"))
    withdrawn = imported(make, "b", liked=True, user="bob", target="vote_2")
    result = cut(tmp_path, stored, withdrawn, make.consent("bob", level), make.completion(900_000))
    assert result.joined.imported == ()
    assert result.manifest.excluded["feedback.no_consent"] == 2


def test_an_erased_persons_votes_are_tombstones_whichever_comes_first(tmp_path: Path) -> None:
    make = Maker()
    vote, erasure = imported(make, "secret", liked=True, at=1), make.erasure("ann", at=5)
    later = imported(make, "new", liked=True, at=9, target="vote_2")
    for number, events in enumerate(([vote, erasure, later], [erasure, vote, later])):
        with ledger_of(log_of(events)) as ledger:
            assert ledger.sealed([vote.id, later.id]).keys() == {later.id}
            assert ledger.known().erased_imported == {vote.id}
            result = cut_snapshot(ledger, SCOPE, SETTINGS, tmp_path / str(number))
        assert Exclusion("feedback", vote.id, Reason.ERASED) in result.joined.exclusions
        assert [one.id for one in result.joined.imported] == [later.id]


def test_a_destroyed_key_empties_a_snapshot_that_was_cut_before(tmp_path: Path) -> None:
    make = Maker()
    snapshot = cut(tmp_path, imported(make, "secret", liked=True), make.completion(900_000))
    assert "secret" not in (tmp_path / "imported.parquet").read_bytes().decode("latin-1")
    make.keys.destroy("ann")
    data = open_dataset(tmp_path, snapshot.manifest, make.keys, encode, encode_chat)
    assert (data.train.thumbs, data.dropped) == ((), {"key_destroyed": 1})


def test_what_the_model_cannot_take_is_dropped_and_counted(tmp_path: Path) -> None:
    make = Maker()
    long, same = "x" * 30, imported(make, "a", "b")
    events = [imported(make, long, liked=True, target="vote_2"), same, make.completion(900_000)]
    data = opened(tmp_path / "a", make.keys, *events)
    assert (len(data.train.pairs), data.dropped) == (1, {"not_rendered": 1})
    manifest = cut(tmp_path / "b", *events).manifest
    assert open_dataset(tmp_path / "b", manifest, make.keys, encode).dropped == {"not_rendered": 2}


def test_held_out_people_neither_train_nor_judge_with_imported_votes(tmp_path: Path) -> None:
    make = Maker()
    settings = SETTINGS.model_copy(update={"heldout_users": 0.5})
    people = [f"u{number}" for number in range(40)]
    votes = [imported(make, "a", liked=True, user=user) for user in people]
    data = opened(tmp_path, make.keys, *votes, make.completion(900_000), settings=settings)
    assert {thumb.group for thumb in data.train.thumbs} == {
        user for user in people if not is_heldout_person(user, settings)
    }
    assert data.heldout.thumbs == ()


def test_labels_know_when_they_were_said_and_imported_ones_are_older_than_all(tmp_path: Path) -> None:
    make = Maker()
    one, two = make.completion(answers=[(5, 6)]), make.completion(answers=[(5, 7)])
    words = [make.comparison([one, two], 0, 70), make.thumb(one, at=71), make.rating(two, 4, 72, user="bob")]
    edited = make.correction(two, "better", 73)
    votes = [imported(make, "a", "b", at=99), imported(make, "c", liked=True, at=98, target="vote_2")]
    data = opened(tmp_path, make.keys, one, two, *words, edited, *votes, make.completion(900_000)).train
    assert [pair.at - START for pair in data.pairs] == [70, 73, -START]
    assert [thumb.at - START for thumb in data.thumbs] == [71, -START]
    assert [rating.at - START for rating in data.ratings] == [72]


def test_live_labels_come_first_where_room_is_short(tmp_path: Path) -> None:
    make = Maker()
    answers = [make.completion(number) for number in range(2)]
    votes = [imported(make, "a", liked=True, target=f"vote_{number}", at=number) for number in range(3)]
    events = [*answers, *(make.thumb(answer) for answer in answers), *votes, make.completion(900_000)]
    result = cut(tmp_path, *events, settings=SETTINGS.model_copy(update={"max_labels": 3}))
    assert (result.manifest.counts["words"], result.manifest.counts["imported"]) == (2, 1)
    assert result.manifest.excluded["feedback.over_cap"] == 2


def test_imported_votes_count_towards_a_turn_once_ppo_has_answers_to_learn_from() -> None:
    make = Maker()
    votes = [imported(make, "a", liked=True, target=f"vote_{number}") for number in range(5)]
    one, two = make.completion(), make.completion(1)
    for answers, expected in (([one], 1), ([one, two], 6)):
        with ledger_of(log_of([*answers, make.thumb(one), *votes, make.completion(900_000)])) as ledger:
            corpus = Corpus(ledger, make.keys, SETTINGS, SCOPE.base_fingerprint, encode, encode_chat)
            assert corpus.count(SCOPE.current_version, None)[1] == expected


def test_a_snapshot_from_before_imports_still_opens(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    snapshot = cut(tmp_path, answer, make.thumb(answer), make.completion(900_000))
    (tmp_path / "imported.parquet").unlink()
    files = {name: digest for name, digest in snapshot.manifest.files.items() if name != "imported.parquet"}
    older = snapshot.manifest.model_copy(update={"files": files})
    assert len(open_dataset(tmp_path, older, make.keys, encode, encode_chat).train.thumbs) == 1
