"""The fate of a word, over snapshots that were really cut: waiting, in a snapshot, in versions, left out and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from exchange.reading import fates as fates_module
from exchange.reading.accepted import AcceptedWords
from exchange.reading.fates import WAITING, Fates
from exchange.registry.files import FilesystemRegistry
from exchange.registry.memory import MemoryRegistry
from exchange.registry.port import Registry
from schemas.completion import ConsentLevel
from schemas.event import Event
from schemas.fates import Fate, FateStatus
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.server.control.world import publish
from tests.unit.trainer.data.support import SCOPE, ledger_of
from trainer.joining.exclusions import EXPLANATIONS, Reason
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import cut_snapshot

ALL_TRAIN = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0.0, heldout_time=0.0)


class Town:
    """A log, a registry, and a trainer that only cuts snapshots."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.registry = registry
        self.make = Maker()
        self.words = AcceptedWords(self.log)
        self.fates = Fates(registry)
        self._cuts = 0

    def write(self, *events: Event) -> None:
        self.log.append([encode_event(event) for event in events])

    def cut(self, options: SnapshotSettings = ALL_TRAIN) -> str:
        self._cuts += 1
        folder = self.folder / f"cut{self._cuts}"
        with ledger_of(self.log) as ledger:
            manifest = cut_snapshot(ledger, SCOPE, options, folder).manifest
        self.registry.publish_snapshot(folder, manifest)
        return manifest.digest

    def version(self, number: int, snapshot: str) -> None:
        publish(self.registry, self.folder, number, snapshot=snapshot)

    def fate(self, name: str) -> Fate:
        return self.fates.of(self.words.find(name, search=False))


@pytest.fixture(params=["memory", "file"])
def town(request: pytest.FixtureRequest, tmp_path: Path) -> Town:
    registry = MemoryRegistry() if request.param == "memory" else FilesystemRegistry.at(f"file://{tmp_path}/registry")
    return Town(tmp_path, registry)


def test_a_word_goes_from_the_log_into_a_snapshot_into_versions(town: Town) -> None:
    make = town.make
    answer = make.completion(0)
    town.write(answer, make.thumb(answer, id="fb-1"))
    fate = town.fate("fb-1")
    assert (fate.status, fate.joined, fate.versions, fate.complete) == (FateStatus.WAITING, None, (), True)
    assert "safe on the log" in fate.explanation
    assert (fate.accepted.topic, fate.accepted.offset) == ("attune.feedback", 0)
    early = town.cut()
    fate = town.fate("fb-1")
    assert fate.status is FateStatus.WAITING
    assert fate.excluded is not None
    assert (fate.excluded.snapshot, fate.excluded.reason) == (early, "window_open")
    assert fate.explanation == f"It waits: {EXPLANATIONS[Reason.WINDOW_OPEN]}."
    town.write(make.completion(60_000))
    first = town.cut()
    fate = town.fate("fb-1")
    assert fate.status is FateStatus.IN_SNAPSHOT
    assert fate.joined is not None
    assert (fate.joined.snapshot, fate.joined.held_out, fate.excluded) == (first, False, None)
    town.version(1, first)
    assert town.fate("fb-1").versions == ("support@v1",)
    town.write(make.completion(120_000))
    second = town.cut()
    town.version(3, second)
    fate = town.fate("fb-1")
    assert fate.status is FateStatus.IN_VERSION
    assert fate.versions == ("support@v1", "support@v3")
    assert fate.joined is not None
    assert fate.joined.snapshot == first, "the first that holds it"
    assert fate.explanation == "It taught support@v1 and 1 version after it."


def test_what_is_left_out_says_why_in_the_trainers_words(town: Town) -> None:
    make = town.make
    answers = [make.completion(n, user=f"u{n}", id=f"c{n}") for n in range(6)]
    store = make.completion(7, user="u7", consent=ConsentLevel.STORE)
    first = make.thumb(answers[2], id="fb-first", user="u2")
    town.write(
        *answers,
        store,
        make.thumb(answers[0], at=50_000, id="fb-late", user="u0"),
        make.comment(answers[1], id="fb-comment", user="u1"),
        first,
        make.thumb(answers[2], up=False, at=2_000, id="fb-second", user="u2"),
        make.thumb(store, id="fb-private", user="u7"),
        make.completion(90_000),
    )
    town.cut()
    for name, reason in (
        ("fb-late", Reason.LATE),
        ("fb-comment", Reason.NOT_A_PREFERENCE),
        ("fb-first", Reason.SUPERSEDED),
        ("fb-private", Reason.NO_CONSENT),
    ):
        fate = town.fate(name)
        assert (fate.status, fate.joined, fate.versions) == (FateStatus.EXCLUDED, None, ()), name
        assert fate.excluded is not None
        assert (fate.excluded.reason, fate.excluded.explanation) == (reason, EXPLANATIONS[reason])
        assert EXPLANATIONS[reason] in fate.explanation
    assert town.fate("fb-second").status is FateStatus.IN_SNAPSHOT


def test_a_word_taken_back_later_is_left_out_and_what_it_taught_is_still_named(town: Town) -> None:
    make = town.make
    answer = make.completion(0)
    word = make.thumb(answer, id="fb-1")
    town.write(answer, word, make.completion(60_000))
    town.version(1, town.cut())
    town.write(make.retraction(word, at=70_000, id="fb-undo"), make.completion(120_000))
    town.version(2, town.cut())
    fate = town.fate("fb-1")
    assert (fate.status, fate.versions) == (FateStatus.EXCLUDED, ("support@v1",))
    assert fate.explanation == "It is left out: the person took it back. It had taught support@v1 before."
    undo = town.fate("fb-undo")
    assert (undo.status, undo.excluded) == (FateStatus.IN_VERSION, None)
    assert undo.explanation.startswith("It is heeded")


def test_a_held_out_word_judges_and_does_not_teach(town: Town) -> None:
    make = town.make
    answer = make.completion(0)
    town.write(answer, make.thumb(answer, id="fb-1"), make.completion(60_000))
    held = town.cut(ALL_TRAIN.model_copy(update={"heldout_users": 0.999_999}))
    town.version(1, held)
    fate = town.fate("fb-1")
    assert (fate.status, fate.versions, fate.judged) == (FateStatus.IN_VERSION, (), ("support@v1",))
    assert fate.joined is not None
    assert fate.joined.held_out
    assert "held out" in fate.explanation


def test_pairs_and_corrections_are_found_as_thumbs_are(town: Town) -> None:
    make = town.make
    pair = [make.completion(0, id="a"), make.completion(1, id="b", answers=[(20, 21)])]
    town.write(
        *pair,
        make.comparison(pair, 0, id="fb-pair"),
        make.correction(pair[0], "better", id="fb-fix"),
        make.completion(60_000),
    )
    town.cut()
    assert {town.fate(name).status for name in ("fb-pair", "fb-fix")} == {FateStatus.IN_SNAPSHOT}


def test_a_damaged_snapshot_hides_no_other(tmp_path: Path) -> None:
    town = Town(tmp_path, FilesystemRegistry.at(f"file://{tmp_path}/registry"))
    make = town.make
    answer = make.completion(0)
    town.write(answer, make.thumb(answer, id="fb-1"), make.completion(60_000))
    good = town.cut()
    town.write(make.completion(120_000))
    bad = town.cut()
    (tmp_path / "registry" / "artifacts" / "snapshots" / bad / "thumbs.parquet").write_bytes(b"PAR1")
    fate = town.fate("fb-1")
    assert (fate.status, fate.complete) == (FateStatus.IN_SNAPSHOT, False)
    assert fate.joined is not None
    assert fate.joined.snapshot == good


def test_memory_and_work_are_bounded(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    make = town.make
    answer = make.completion(0)
    town.write(answer, make.thumb(answer, id="fb-1"), make.completion(60_000))
    cuts = []
    for number in range(4):
        town.write(make.completion(70_000 + number))
        cuts.append(town.cut())
    monkeypatch.setattr(fates_module, "_MAX_SNAPSHOTS", 3)
    town.fates = Fates(town.registry, cache_bytes=1)
    town.version(1, cuts[-1])
    fate = town.fate("fb-1")
    assert (fate.status, fate.versions, fate.complete) == (FateStatus.IN_VERSION, ("support@v1",), False)
    assert len(town.fates._indexes) == 1


def test_every_reason_that_waits_is_one_of_the_trainers() -> None:
    assert {str(reason) for reason in Reason} >= WAITING
    assert all("it waits" in EXPLANATIONS[Reason(name)] for name in WAITING)
