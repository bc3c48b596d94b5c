"""However a log's records come, the ledger holds the same in the end, and the same snapshot is cut from it.

Hypothesis shuffles the records across partitions, repeats some, holds some back, and ends the reader at any moment:
in the middle of a transaction, between two batches, with the ledger opened anew or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.log.memory import MemoryLog
from schemas.completion import ConsentLevel
from schemas.event import Event
from schemas.feedback import FeedbackReceived
from schemas.wire import LogRecord, encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import SCOPE
from trainer.intake.facts import Known
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import ABOUT, cut_snapshot

SETTINGS = SnapshotSettings(feedback_window_ms=10_000, heldout_users=0.3, heldout_time=0)


@cache
def told() -> tuple[LogRecord, ...]:
    """A log in the order in which it came about: every kind of word, people who change their mind, one who leaves."""
    make = Maker()
    answers = [make.completion(n * 100, user=f"u{n % 4}") for n in range(8)]
    thumbs = [make.thumb(answer, up=n % 2 == 0, at=1_000 + n, user=f"u{n % 4}") for n, answer in enumerate(answers)]
    words: list[FeedbackReceived] = [
        *thumbs,
        make.thumb(answers[0], up=False, at=2_000, user="u0"),  # the later word counts
        make.comparison([answers[0], answers[4]], winner=1, user="u0"),
        make.ranking(answers[4:7], [[2], [0, 1]], user="u1"),
        make.rating(answers[4], 5, at=1_500, user="u0"),
        make.correction(answers[5], "better", user="u1"),
        make.comment(answers[6]),
        make.retraction(thumbs[5], at=3_000),
        make.thumb(answers[4], at=90_000, user="u0"),  # too late
        make.thumb(make.completion(id="cmpl_never_recorded"), user="u1"),
    ]
    events: list[Event] = [
        *answers,
        make.displayed(answers[:3]),
        *words,
        make.consent("u2", ConsentLevel.STORE, at=1_200),
        make.consent("u2", ConsentLevel.TRAIN, at=1_400),
        make.consent("u1", ConsentLevel.STORE, at=4_000, policy="sales"),
        make.erasure("u3", at=5_000),
        make.judged("u1", "quarantined", at=6_000),
        make.judged("u1", "released", at=7_000),
        make.completion(50_000, user="u3", id="cmpl_came_back"),
        make.completion(100_000, id="cmpl_last"),
    ]
    foreign = encode_event(Maker("sales").completion(id="cmpl_foreign"))
    records = [encode_event(event) for event in events]
    broken = replace(records[0], value=b"{broken")
    return (*records, foreign, broken)


@dataclass(frozen=True)
class Way:
    """One way for these records to come. Places are indexes into what comes."""

    coming: tuple[tuple[int, int], ...]
    """(which record, a key that decides the partition), in the order of arrival."""
    pauses: frozenset[int]
    """Places at which the reader catches up before more comes."""
    batch: int
    crashes: tuple[str, ...]
    """What becomes of each batch in turn: `commit`, `lose` (it is rolled back) or `kill` (the ledger opens anew)."""


@st.composite
def ways(draw: st.DrawFn) -> Way:
    every = range(len(told()))
    again = draw(st.lists(st.sampled_from(every), max_size=12))
    order = draw(st.permutations([*every, *again]))
    keys = draw(st.lists(st.integers(0, 50), min_size=len(order), max_size=len(order)))
    return Way(
        tuple(zip(order, keys, strict=True)),
        frozenset(draw(st.sets(st.integers(0, len(order) - 1), max_size=4))),
        draw(st.integers(1, 9)),
        tuple(draw(st.lists(st.sampled_from(["commit", "lose", "kill"]), max_size=30))),
    )


class _Killed(Exception):
    pass


def found(path: Path, way: Way) -> tuple[Any, ...]:
    """What a trainer holds after the records came that way."""
    log, fates = MemoryLog(), iter(way.crashes)
    for place, (which, key) in enumerate(way.coming):
        if place in way.pauses:
            _catch_up(log, path, way.batch, fates)
        log.append([replace(told()[which], key=b"%d" % key)])
    _catch_up(log, path, way.batch, fates)
    with Ledger(path, "support") as ledger:
        return held(ledger)


def _catch_up(log: MemoryLog, path: Path, batch: int, fates: Iterator[str]) -> None:
    def before_commit(*_: object) -> None:
        nonlocal fate
        if (fate := next(fates, "commit")) == "lose":
            raise _Killed

    read, fate = True, "commit"
    while read:
        with Ledger(path, "support") as ledger, closing(Ingest(log, ledger, "support", before_commit)) as ingest:
            while read:
                try:
                    read = bool(ingest.pump(batch))
                except _Killed:
                    continue
                if fate == "kill":
                    break  # the process is gone right after its commit


def held(ledger: Ledger) -> tuple[Any, ...]:
    """Rows in a fixed order, and a snapshot without the places on the log that it was read from."""
    known = ledger.known()
    with TemporaryDirectory() as folder:
        manifest = cut_snapshot(ledger, SCOPE, SETTINGS, Path(folder) / "cut").manifest
    files = {name: digest for name, digest in manifest.files.items() if name != ABOUT}
    about = manifest.model_dump(exclude={"offsets", "digest", "files"})
    return _rows(known), len({letter.reason for letter in ledger.dead_letters()}), files, about


def _rows(known: Known) -> tuple[Any, ...]:
    kinds = (known.completions, known.feedback, known.displayed, known.consents, known.imported)
    gone = (known.erased_completions, known.erased_feedback, known.expired_completions, known.expired_feedback)
    return *(sorted(item.model_dump_json() for item in kind) for kind in kinds), *gone, known.watermark


@cache
def expected() -> tuple[Any, ...]:
    with TemporaryDirectory() as folder:
        log = MemoryLog()
        log.append(told())
        _catch_up(log, Path(folder) / "ledger.db", 1_000, iter(()))
        with Ledger(Path(folder) / "ledger.db", "support") as ledger:
            return held(ledger)


def test_the_story_has_something_of_everything() -> None:
    (completions, feedback, displayed, consents, _, gone, *_), dead, _, about = expected()
    assert (len(completions), len(displayed), len(consents), dead) == (8, 1, 3, 1)
    assert len(gone) == 2
    assert feedback
    assert all(about["counts"][name] for name in ("thumbs", "pairs", "answers"))
    assert {"feedback.late", "feedback.no_completion", "feedback.erased", "feedback.no_consent"} <= set(
        about["excluded"]
    )


@settings(max_examples=30, deadline=None)
@given(way=ways())
def test_every_way_ends_in_the_same_ledger_and_the_same_snapshot(way: Way) -> None:
    with TemporaryDirectory() as folder:
        assert found(Path(folder) / "ledger.db", way) == expected()
