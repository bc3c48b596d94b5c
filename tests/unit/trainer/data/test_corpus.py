"""What a trainer asks of its corpus: counts, anew only where the ledger changed; what an interrupted turn may keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from exchange.open import open_registry
from schemas.wire import encode_event
from tests.factories import BASE, Maker
from tests.unit.trainer.data.support import ledger_of, pump_all
from trainer.intake.ingest import Ingest
from trainer.joining.join import Joined, join
from trainer.resuming import outdated
from trainer.settings import FeedbackSection
from trainer.snapshots import corpus as module
from trainer.snapshots.corpus import Corpus
from trainer.state import TurnState


def test_labels_are_counted_anew_after_every_change_and_not_else(monkeypatch: pytest.MonkeyPatch) -> None:
    joins: list[Joined] = []

    def counting(*args: object) -> Joined:
        joins.append(join(*args))  # type: ignore[arg-type]
        return joins[-1]

    monkeypatch.setattr(module, "join", counting)
    make, log = Maker(), MemoryLog()
    said = [make.completion(0, user=f"u{row}") for row in range(3)]
    words = [make.thumb(one, user=f"u{row}") for row, one in enumerate(said)]
    with ledger_of(log) as ledger:
        corpus = Corpus(ledger, make.keys, FeedbackSection(feedback_window_ms=5_000), BASE, lambda *_: ())
        ingest = Ingest(log, ledger, "support")
        counts = []
        for events in ([*said, *words[:2]], [], [words[2], make.completion(9_000)], [make.erasure("u0")], []):
            log.append([encode_event(event) for event in events])
            pump_all(ingest)
            counts.append(corpus.count(3, None)[1])
        assert counts == [0, 0, 3, 2, 2], "the window was open at first"
        assert len(joins) == 3
        corpus.count(2, None)
        assert len(joins) == 4, "another parent, another answer"


def test_an_interrupted_turn_keeps_its_snapshot_only_if_it_would_be_cut_alike(tmp_path: Path) -> None:
    make, log, registry = Maker(), MemoryLog(), open_registry("memory:")
    said = make.completion(0, user="u1")
    log.append([encode_event(event) for event in (said, make.thumb(said, user="u1"), make.completion(90_000))])
    with ledger_of(log) as ledger:
        corpus = Corpus(ledger, make.keys, FeedbackSection(), BASE, lambda _text: ())
        manifest = corpus.cut(0, tmp_path / "snapshot", since=None).manifest
        registry.publish_snapshot(tmp_path / "snapshot", manifest)
        turn = TurnState(parent=0, snapshot=manifest.digest)
        whys = [
            outdated(turn, stable, "support", registry, one)
            for stable, one in (
                (0, corpus),
                (1, corpus),
                (0, replace(corpus, settings=FeedbackSection(max_labels=7))),
                (0, replace(corpus, base_fingerprint="f" * 64)),
            )
        ]
    recut = "its snapshot was cut for another base or under other settings of [feedback]"
    assert whys == [None, "support@v1 is stable now", recut, recut]
