"""From a snapshot to a judgement on the log and out of the next snapshot; and back by an operator's word."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from exchange.log.memory import MemoryLog
from exchange.reading.whole import read_whole
from schemas.manifests import SnapshotManifest
from schemas.raters import RaterJudged
from schemas.topics import RATERS
from schemas.wire import encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import LATER, SCOPE, WINDOW_MS, pump_all
from trainer.data import TokenPair
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.quality.review import RaterSettings
from trainer.quality.reviewer import Reviewer
from trainer.snapshots.selection import SnapshotSettings
from trainer.snapshots.snapshot import cut_snapshot

ANSWERS, PEOPLE, SEED = 24, 20, 3
SETTINGS = SnapshotSettings(feedback_window_ms=WINDOW_MS)


def flat(answers: Sequence[TokenPair]) -> Tensor:
    """A base that sees no difference."""
    return torch.zeros(len(answers), 4)


class Place:
    """A log on which people judge the same answers, and one of them the other way round."""

    def __init__(self, folder: Path, ledger: Ledger, ingest: Ingest, log: MemoryLog, make: Maker) -> None:
        self.folder, self.ledger, self.ingest, self.log, self.make = folder, ledger, ingest, log, make
        self.cuts = 0

    def cut(self) -> tuple[Path, SnapshotManifest]:
        pump_all(self.ingest)
        self.cuts += 1
        out = self.folder / f"cut{self.cuts}"
        return out, cut_snapshot(self.ledger, SCOPE, SETTINGS, out).manifest

    def reviewer(self, **settings: bool) -> Reviewer:
        keys = self.make.keys
        return Reviewer(self.log, self.ledger, keys, "support", "trainer_1", RaterSettings(**settings))

    def judged(self) -> list[RaterJudged]:
        return [event for event in read_whole(self.log, RATERS.name) if isinstance(event, RaterJudged)]


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    make, rng, log = Maker(), random.Random(SEED), MemoryLog()
    answers = [make.completion(number, answers=[(number + 3, 2)]) for number in range(ANSWERS)]
    words = [
        make.thumb(
            answer, up=(number % 2 == 0) != (who == 0 or rng.random() < 0.15), user=f"user_{who}", at=500 + number
        )
        for who in range(PEOPLE)
        for number, answer in enumerate(answers)
    ]
    log.append([encode_event(event) for event in (*answers, *words, make.completion(LATER))])
    with Ledger(folder / "ledger.db", "support") as ledger, closing(Ingest(log, ledger, "support")) as ingest:
        yield Place(folder, ledger, ingest, log, make)


def test_who_contradicts_all_others_is_out_of_the_next_snapshot_and_comes_back(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        folder, manifest = here.cut()
        found = here.reviewer().review(folder, manifest, flat)
        assert [finding.rater for finding in found.findings] == ["user_0"]
        assert manifest.counts["words"] == ANSWERS * PEOPLE, "what is cut is not changed"
        (event,) = here.judged()
        assert (event.rater, event.tenant, event.actor, event.at) == ("user_0", "acme", "trainer_1", manifest.watermark)
        assert event.evidence is not None
        assert (event.evidence.words, event.evidence.gold) == (ANSWERS, 0)

        here.reviewer().review(folder, manifest, flat)  # a turn that was interrupted looks again
        assert {one.id for one in here.judged()} == {event.id}

        folder, manifest = here.cut()
        assert manifest.counts["words"] == ANSWERS * (PEOPLE - 1)
        assert manifest.excluded["feedback.quarantined"] == ANSWERS
        assert "attune raters" in manifest.reasons["quarantined"]
        assert here.reviewer().review(folder, manifest, flat).findings == ()

        here.log.append([encode_event(here.make.judged("user_0", "released", at=LATER + 1))])
        folder, manifest = here.cut()
        assert manifest.counts["words"] == ANSWERS * PEOPLE
        assert here.reviewer().review(folder, manifest, flat).findings == (), "not for the same words"


def test_it_can_be_turned_off_and_says_nothing_where_nobody_said_enough(tmp_path: Path) -> None:
    def unasked(answers: Sequence[TokenPair]) -> Tensor:
        raise AssertionError("the base is not needed")

    with place(tmp_path) as here:
        folder, manifest = here.cut()
        assert here.reviewer(quarantine=False).review(folder, manifest, unasked).in_words() == ""
        strict = here.reviewer()
        strict = Reviewer(**{**vars(strict), "settings": RaterSettings(min_words=ANSWERS + 1)})
        assert strict.review(folder, manifest, unasked).findings == ()
        assert here.judged() == []


def test_people_whose_keys_are_gone_are_passed_over(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        folder, manifest = here.cut()
        here.make.keys.destroy("ann")
        assert here.reviewer().review(folder, manifest, flat).findings == (), "of no answer the content can be read"
