"""Snapshots: the same bytes for the same log, sealed, traceable, and open only to who has the keys."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from exchange.registry.memory import MemoryRegistry
from schemas.completion import ConsentLevel
from schemas.errors import Conflict, IntegrityError, InvalidInput
from schemas.event import Event
from schemas.manifests import FileDigest, canonical_json
from schemas.wire import encode_event
from tests.factories import PLAIN, START, Maker
from tests.unit.trainer.data.support import SCOPE, ledger_of, log_of
from trainer.snapshots.dataset import Dataset, open_dataset
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import ABOUT, SCHEMAS, Snapshot, cut_snapshot

SETTINGS = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0.3, heldout_time=0.1)
OPEN = SETTINGS.model_copy(update={"heldout_users": 0.0, "heldout_time": 0.0})


def story(make: Maker) -> list[Event]:
    """Every kind of word by several people, with repetitions, a change of mind and an erasure."""
    answers = [
        make.completion(n * 300, user=f"u{n % 4}", answers=[(10 + n, 11), (20 + n,)], version=n % 3 + 1)
        for n in range(8)
    ]
    words = [make.thumb(answer, up=n % 3 > 0, user=f"u{n % 4}") for n, answer in enumerate(answers)]
    return [
        *answers,
        *words,
        make.thumb(answers[0], up=False, user="u0", at=1_500),
        make.retraction(words[1]),
        make.comparison(answers[:2], 1, user="u0"),
        make.ranking(answers[2:5], [[1], [0, 2]], user="u2"),
        make.correction(answers[5], "how it should be", user="u1"),
        make.rating(answers[6], 5, user="u3", at=2_500),
        make.displayed(answers[:3]),
        make.consent("u3", ConsentLevel.STORE),
        make.erasure("u2", at=700),
        make.completion(90_000, user="u0"),
    ]


def cut(log: EventLog, folder: Path, *, size: int = 1000, options: SnapshotSettings = SETTINGS) -> Snapshot:
    with ledger_of(log, size=size) as ledger:
        return cut_snapshot(ledger, SCOPE, options, folder)


def encode(prompt: Sequence[int], text: str) -> list[int]:
    ids = [*text.encode(), 2]
    if len(prompt) + len(ids) > 12:
        raise InvalidInput("too long")
    return ids


def opened(make: Maker, *events: Event, options: SnapshotSettings = OPEN) -> Dataset:
    """What a snapshot of events, long past, comes to in the learner's hands."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "snapshot"
        snapshot = cut(log_of([*events, make.completion(900_000, user="clock")]), out, options=options)
        return open_dataset(out, snapshot.manifest, make.keys, encode)


def rows_digests(snapshot: Snapshot) -> dict[str, str]:
    return {name: digest.sha256 for name, digest in snapshot.manifest.files.items() if name != ABOUT}


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 20))
def test_the_same_log_gives_the_same_bytes_whatever_the_batches(size: int) -> None:
    make = Maker()
    log = log_of(story(make))
    with TemporaryDirectory() as folder:
        first = cut(log, Path(folder) / "a")
        second = cut(log, Path(folder) / "b", size=size)
        assert first.manifest == second.manifest
        for name in first.manifest.files:
            assert (Path(folder) / "a" / name).read_bytes() == (Path(folder) / "b" / name).read_bytes()


@settings(max_examples=15, deadline=None)
@given(rng=st.randoms(use_true_random=False), twice=st.sets(st.integers(0, 25)))
def test_order_and_repetition_on_the_log_leave_the_rows_alone(rng: random.Random, twice: set[int]) -> None:
    make = Maker()
    events = story(make)
    again = [*events, *(events[index] for index in twice if index < len(events))]
    rng.shuffle(again)
    with TemporaryDirectory() as folder:
        first = cut(log_of(events), Path(folder) / "a")
        second = cut(log_of(again), Path(folder) / "b", size=rng.randint(1, 30))
        assert rows_digests(first) == rows_digests(second)
        ours, theirs = first.manifest, second.manifest
        assert (ours.counts, ours.excluded, ours.watermark) == (theirs.counts, theirs.excluded, theirs.watermark)
        if not twice:
            assert ours.digest == theirs.digest


def test_the_manifest_says_what_is_inside_and_what_is_not(tmp_path: Path) -> None:
    make = Maker()
    log = log_of(story(make))
    manifest = cut(log, tmp_path / "s").manifest
    assert manifest.watermark == START + 90_000
    assert sum(span.end for span in manifest.offsets.values()) == len(story(Maker()))
    assert manifest.feedback_window_ms == 10_000
    # u2's first answer and all of u2's words up to 0.7 s are gone; u3 has withdrawn.
    counts = manifest.counts
    assert counts["words.thumbs"] == len(pq.read_table(tmp_path / "s" / "thumbs.parquet"))
    assert counts["words"] == sum(count for name, count in counts.items() if name.startswith("words."))
    assert manifest.excluded["feedback.retracted"] == 1
    assert manifest.excluded["feedback.duplicate"] == 1
    assert manifest.excluded["answer.window_open"] == 1
    assert manifest.excluded["answer.no_consent"] == 4
    assert sum(manifest.counts_by_version.values()) == sum(manifest.counts_by_language.values())
    assert manifest.filters["current_version"] == SCOPE.current_version
    assert set(manifest.files) == {*SCHEMAS, ABOUT}


def test_each_word_is_found_again_used_or_with_its_reason(tmp_path: Path) -> None:
    make = Maker()
    events = [*story(make), make.thumb(make.completion(id="cmpl_elsewhere"))]
    cut(log_of(events), tmp_path / "s")
    used: set[str] = set()
    for name in ("pairs", "thumbs", "corrections"):
        used |= set(pq.read_table(tmp_path / "s" / f"{name}.parquet")["feedback_id"].to_pylist())
    excluded = pq.read_table(tmp_path / "s" / "exclusions.parquet").to_pylist()
    left_out = {row["id"] for row in excluded if row["item"] == "feedback"}
    said = {event.id for event in events if event.id.startswith("fb_")}
    assert used.isdisjoint(left_out)
    # A retraction that worked is neither: its reason stands beside the word it took back.
    assert said - used - left_out == {event.id for event in events if getattr(event, "supersedes", None)}


def test_content_stays_sealed_in_the_files(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    events = [answer, make.correction(answer, "how it should be"), make.completion(900_000)]
    cut(log_of(events), tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        assert b"how it should be" not in path.read_bytes()
    sealed = pq.read_table(tmp_path / "s" / "completions.parquet").to_pylist()
    assert [row["data"] for row in sealed] == [answer.content.data]
    assert not {"token_ids", "text", "messages"} & {name for schema in SCHEMAS.values() for name in schema.names}


def test_a_snapshot_is_published_and_opened_elsewhere(tmp_path: Path) -> None:
    make = Maker()
    registry = MemoryRegistry()
    snapshot = cut(log_of(story(make)), tmp_path / "s")
    registry.publish_snapshot(tmp_path / "s", snapshot.manifest)
    registry.publish_snapshot(tmp_path / "s", snapshot.manifest)
    manifest = registry.snapshot(snapshot.manifest.digest)
    assert canonical_json(manifest) == canonical_json(snapshot.manifest)
    folder = registry.fetch_artifact("snapshots", manifest.digest, tmp_path / "cache")
    assert open_dataset(folder, manifest, make.keys, encode) == open_dataset(
        tmp_path / "s", manifest, make.keys, encode
    )


def test_more_of_the_log_is_another_snapshot_even_with_the_same_rows(tmp_path: Path) -> None:
    make = Maker()
    events = story(make)
    registry = MemoryRegistry()
    first = cut(log_of(events), tmp_path / "a")
    second = cut(log_of([*events, make.displayed([events[0]])]), tmp_path / "b")  # type: ignore[list-item]
    assert rows_digests(first) == rows_digests(second)
    assert first.manifest.digest != second.manifest.digest
    registry.publish_snapshot(tmp_path / "a", first.manifest)
    registry.publish_snapshot(tmp_path / "b", second.manifest)


def test_a_snapshot_is_never_written_over_another(tmp_path: Path) -> None:
    make = Maker()
    log = log_of(story(make))
    cut(log, tmp_path / "s")
    with pytest.raises(Conflict):
        cut(log, tmp_path / "s")


def test_an_empty_log_gives_an_empty_snapshot(tmp_path: Path) -> None:
    snapshot = cut(MemoryLog(), tmp_path / "s")
    assert snapshot.manifest.counts["words"] == snapshot.manifest.counts["answers"] == 0
    data = open_dataset(tmp_path / "s", snapshot.manifest, Maker().keys, encode)
    assert data.train == data.heldout
    assert data.train.answers == ()


def test_altered_files_are_refused(tmp_path: Path) -> None:
    make = Maker()
    snapshot = cut(log_of(story(make)), tmp_path / "s")
    (tmp_path / "s" / "pairs.parquet").write_bytes((tmp_path / "s" / "thumbs.parquet").read_bytes())
    with pytest.raises(IntegrityError, match=r"pairs\.parquet"):
        open_dataset(tmp_path / "s", snapshot.manifest, make.keys, encode)
    (tmp_path / "s" / "pairs.parquet").unlink()
    with pytest.raises(IntegrityError, match=r"no pairs\.parquet"):
        open_dataset(tmp_path / "s", snapshot.manifest, make.keys, encode)


def test_the_learner_gets_the_tokens_as_logged() -> None:
    make = Maker()
    answer = make.completion(prompt=(5, 6), answers=[(7, 8), (9,)], version=2, id="c")
    data = opened(make, answer, make.thumb(answer, up=False, choice=1))
    first, second = data.train.answers
    assert (first.prompt_ids, first.answer_ids, first.behaviour_logprobs) == ((5, 6), (7, 8), (-0.5, -0.625))
    assert (first.sample_id, first.completion_id, first.choice) == ("c/0", "c", 0)
    assert (first.temperature, first.top_p, first.top_k) == (1.0, 1.0, 0)
    assert (first.behaviour_version, first.reward, first.group) == (2, None, "ann")
    assert (second.sample_id, second.answer_ids) == ("c/1", (9,))
    (thumb,) = data.train.thumbs
    assert (thumb.prompt_ids, thumb.answer_ids, thumb.liked, thumb.cohort) == ((5, 6), (9,), False, "user")
    assert data.dropped == {}


def test_a_top_k_of_any_size_is_a_row() -> None:
    make = Maker()
    answer = make.completion(sampling=PLAIN.model_copy(update={"top_k": 3_000_000_000}))
    (found,) = opened(make, answer, make.thumb(answer)).train.answers
    assert found.top_k == 2**31 - 1


def test_pairs_and_corrections_in_the_learners_hands() -> None:
    make = Maker()
    good, bad = make.completion(answers=[(7, 2)]), make.completion(answers=[(8, 2)])
    vote, edit = make.comparison([bad, good], 1, user="rita"), make.correction(bad, "ok", user="bob")
    data = opened(make, good, bad, vote, edit)
    first, second = data.train.pairs
    assert (first.chosen_ids, first.rejected_ids, first.tie, first.weight) == ((7, 2), (8, 2), False, 1.0)
    assert (first.group, first.source, first.set_id) == ("rita", "comparison", vote.id)
    assert (second.chosen_ids, second.rejected_ids, second.source) == ((111, 107, 2), (8, 2), "correction")
    assert [(item.prompt_ids, item.answer_ids) for item in data.train.demonstrations] == [((1, 2, 3), (111, 107, 2))]


def test_a_destroyed_key_takes_its_rows_along() -> None:
    make = Maker()
    gone, kept = make.completion(user="ann", answers=[(4,)]), make.completion(user="bob", answers=[(5,)])
    words = [
        make.thumb(gone, user="bob"),
        make.comparison([gone, kept], user="bob"),
        make.thumb(kept, user="bob"),
        make.correction(kept, "edit", user="ann"),
    ]
    make.keys.key_for("ann")
    make.keys.destroy("ann")
    data = opened(make, gone, kept, *words)
    assert [answer.group for answer in data.train.answers] == ["bob"]
    assert data.train.pairs == ()
    assert len(data.train.thumbs) == 1
    assert data.dropped == {"key_destroyed": 4}


def test_what_cannot_be_used_is_counted_not_raised() -> None:
    make = Maker()
    here, there = make.completion(prompt=(1,)), make.completion(prompt=(2,))
    same = make.completion(prompt=(1,))
    promptless = make.completion(prompt=())
    moved = make.completion().model_copy(update={"content": here.content})
    words = [
        make.comparison([here, there], user="a"),
        make.comparison([here, same], user="b"),
        make.thumb(promptless, user="c"),
        make.thumb(moved, user="d"),
        make.correction(here, "", user="e"),
    ]
    data = opened(make, here, there, same, promptless, moved, *words)
    assert data.dropped == {"no_prompt": 2, "other_prompt": 1, "same_answer": 1, "seal_broken": 2, "unreadable": 1}
    assert len(data.train.answers) == 3


def test_a_correction_that_the_model_cannot_take_is_left_out_and_its_answer_stays() -> None:
    make = Maker()
    answer = make.completion(prompt=(5, 6))
    fits, long = make.correction(answer, "x" * 9, user="a"), make.correction(answer, "x" * 10, user="b")
    data = opened(make, answer, fits, long)
    assert data.dropped == {"too_long": 1}
    assert [(pair.group, len(pair.chosen_ids)) for pair in data.train.pairs] == [("a", 10)]
    assert len(data.train.demonstrations) == len(data.train.answers) == 1


def test_nobody_is_on_both_sides() -> None:
    make = Maker()
    answers = [make.completion(n * 100, user=f"u{n}", answers=[(n + 10,)]) for n in range(40)]
    words = [make.thumb(answer, user=f"u{n}", at=n * 100 + 10) for n, answer in enumerate(answers)]
    data = opened(make, *answers, *words, options=OPEN.model_copy(update={"heldout_users": 0.3}))
    train, heldout = (
        {item.group for item in split.answers} | {item.group for item in split.thumbs}
        for split in (data.train, data.heldout)
    )
    assert train
    assert heldout
    assert train.isdisjoint(heldout)
    assert len(data.train.thumbs) + len(data.heldout.thumbs) == 40


def test_later_snapshots_take_new_answers_and_all_labels(tmp_path: Path) -> None:
    make = Maker()
    log = MemoryLog()
    old = make.completion(0, id="old")
    log.append([encode_event(event) for event in (old, make.thumb(old), make.completion(30_000, id="mid"))])
    with ledger_of(log) as ledger:
        first = cut_snapshot(ledger, SCOPE, OPEN, tmp_path / "a")
    new = make.completion(60_000, id="new")
    log.append([encode_event(event) for event in (new, make.thumb(new, at=61_000), make.completion(90_000))])
    with ledger_of(log) as ledger:
        second = cut_snapshot(ledger, SCOPE, OPEN, tmp_path / "b", since=first.manifest.watermark)
    data = open_dataset(tmp_path / "b", second.manifest, make.keys, encode)
    assert [answer.completion_id for answer in data.train.answers] == ["mid", "new"]
    assert len(data.train.thumbs) == 2
    assert second.manifest.excluded["answer.seen_before"] == 1


def test_a_rating_keeps_its_stars_and_three_are_no_thumb() -> None:
    make = Maker()
    answers = [make.completion(answers=[(7 + stars,)]) for stars in range(1, 6)]
    words = [make.rating(answer, stars) for stars, answer in enumerate(answers, 1)]
    data = opened(make, *answers, *words).train
    assert data.thumbs == ()
    assert sorted((one.answer_ids[0] - 7, one.stars) for one in data.ratings) == [(n, n) for n in range(1, 6)]
    assert [thumb.liked for one in data.ratings if (thumb := one.thumb())] == [False, False, True, True]


def test_a_snapshot_from_before_stars_still_opens(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion()
    manifest = cut(log_of([answer, make.thumb(answer, up=False), make.completion(900_000)]), tmp_path).manifest
    file = tmp_path / "thumbs.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["stars"]), file)
    digest = FileDigest(sha256=hashlib.sha256(file.read_bytes()).hexdigest(), size=file.stat().st_size)
    older = manifest.model_copy(update={"files": {**manifest.files, "thumbs.parquet": digest}})
    data = open_dataset(tmp_path, older, make.keys, encode)
    assert [thumb.liked for thumb in (*data.train.thumbs, *data.heldout.thumbs)] == [False]


def test_aspects_come_along_and_a_snapshot_from_before_them_still_opens(tmp_path: Path) -> None:
    make = Maker()
    answer = make.completion(answers=[(7, 2)])
    events = [answer, make.thumb(answer, aspects={"tone": 0.5, "accuracy": -1.0}), make.completion(900_000)]
    manifest = cut(log_of(events), tmp_path, options=OPEN).manifest
    data = open_dataset(tmp_path, manifest, make.keys, encode).train
    assert [(one.answer, one.aspect, one.value, one.group) for one in data.aspects] == [
        (((1, 2, 3), (7, 2)), "accuracy", -1.0, "ann"),
        (((1, 2, 3), (7, 2)), "tone", 0.5, "ann"),
    ]
    assert manifest.counts["aspects"] == 2
    (tmp_path / "aspects.parquet").unlink()
    files = {name: digest for name, digest in manifest.files.items() if name != "aspects.parquet"}
    older = manifest.model_copy(update={"files": files})
    assert open_dataset(tmp_path, older, make.keys, encode).train.aspects == ()


def test_prompts_know_their_slices_and_a_snapshot_from_before_them_still_opens(tmp_path: Path) -> None:
    make = Maker()
    german = make.completion(prompt=(5, 6), language="de", domain=None)
    events = [german, make.thumb(german), make.completion(prompt=(7, 8)), make.completion(900_000)]
    manifest = cut(log_of(events), tmp_path, options=OPEN).manifest
    slices = open_dataset(tmp_path, manifest, make.keys, encode).slices
    assert slices[5, 6] == ("language de", f"tenant {make.tenant}")
    assert slices[7, 8] == ("language en", "domain orders", f"tenant {make.tenant}")
    file = tmp_path / "completions.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["language", "domain", "tenant"]), file)
    digest = FileDigest(sha256=hashlib.sha256(file.read_bytes()).hexdigest(), size=file.stat().st_size)
    older = manifest.model_copy(update={"files": {**manifest.files, "completions.parquet": digest}})
    assert set(open_dataset(tmp_path, older, make.keys, encode).slices.values()) == {()}


def test_a_prompt_that_several_asked_belongs_to_each_and_an_answer_to_whoever_it_was_given_to() -> None:
    make = Maker()
    first = make.completion(0, prompt=(5, 6), language=None, domain=None, tenant="acme")
    later = make.completion(1, prompt=(5, 6), language="de", domain=None, tenant="bolt")
    for events in ((first, later), (later, first)):
        data = opened(make, *events)
        assert set(data.slices[5, 6]) == {"tenant acme", "language de", "tenant bolt"}
        assert {one.completion_id: one.slices for one in data.train.answers} == {
            first.completion_id: ("tenant acme",),
            later.completion_id: ("language de", "tenant bolt"),
        }
