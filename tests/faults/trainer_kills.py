"""Scenes: `kill -9` of the trainer, at exact moments of a turn and at random ones under load; two trainers at once.

Each ends with the adapter of a run that nobody interrupted: same snapshot, same digest. On the embedded log.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.brokers.broker import start_broker
from exchange.open import open_registry
from tests.faults.audit import Audit, all_words, take_stock
from tests.faults.load import Account, Load
from tests.faults.outcome import Outcome, judged
from tests.faults.parents import Parent
from tests.faults.serving import Server
from tests.faults.training import Trainer, WorldOn, copied, seeded_world, trainer_nursery, uninterrupted
from tests.faults.victims import until
from tests.tiny_models import make_tiny_model
from tests.unit.trainer.control.world import World

Moment = tuple[str, str, str, int]
"""In words; MODULE:NAME; before or after; how manieth call."""

WAITING = "waiting after its turn"
COMMIT: Moment = ("judged, no number taken yet", "trainer.release.publish:Publisher.reserve", "before", 1)
"""Between training and commit."""
ANNOUNCED: Moment = ("announced, no traffic yet", "trainer.release.publish:Publisher.start_canary", "before", 1)
MOMENTS: tuple[Moment, ...] = (
    ("a batch is in the ledger, not committed", "trainer.intake.ledger:Ledger._bury", "before", 1),
    ("a batch is committed", "trainer.intake.ledger:Ledger.write", "after", 1),
    ("a snapshot is cut by half", "pyarrow.parquet:write_table", "after", 3),
    ("the snapshot is published, the turn not noted", "trainer.state:StateDir.save_turn", "before", 1),
    ("the turn is noted", "trainer.state:StateDir.save_turn", "after", 1),
    ("the reward model is trained, not saved", "trainer.learn.reward_model:RewardModel.save", "before", 1),
    ("a checkpoint is written by half", "trainer.learn.checkpoint:write_json", "before", 1),
    ("a checkpoint is written", "trainer.learn.ppo_run:write_checkpoint", "after", 2),
    ("the adapter is trained, not noted", "trainer.candidate:write_whole", "before", 1),
    COMMIT,
    ("a number is taken, not noted", "trainer.release.publish:Publisher.reserve", "after", 1),
    ("the adapter is in the registry by half", "exchange.registry.files:FilesystemRegistry._stage", "after", 2),
    ("the adapter is published, not announced", "trainer.release.publish:Publisher._announce", "before", 1),
)
"""Of one turn, in the order in which they come; after each of them the turn goes on to the next."""
ENDINGS: tuple[Moment, ...] = (
    ANNOUNCED,
    ("the canary serves, the turn not ended", "trainer.state:StateDir.finish", "before", 1),
    ("the turn is half ended", "trainer.state:StateDir.drop_turn", "before", 1),
)
"""Moments after which there is nothing left to be made: each ends a copy of the turn."""


def killed_at_each_moment(
    work: Path,
    moments: tuple[Moment, ...] = MOMENTS,
    endings: tuple[Moment, ...] = ENDINGS,
    comparisons: int = 48,
) -> Outcome:
    """One turn that dies at one moment after the other, going on each time where it stopped."""
    with trainer_nursery() as nursery:
        world = copied(seeded_world(work, comparisons), work / "victim")
        trainer = Trainer(world, parent=nursery)
        for _, place, when, count in moments:
            trainer.dies_at(place, when, count)
            if place.endswith("_stage"):
                registry = work / "victim" / "registry" / "artifacts" / "adapters"
                assert list(registry.glob(".staging-*")), "the adapter was to be there by half"
                assert not open_registry(world.registry).versions("support"), "and not to be seen"
        others = [shutil.copytree(world.folder, work / f"ending-{number}") for number in range(len(endings))]
        trainer.finishes()
        same = _as_uninterrupted(trainer, work / "uninterrupted")
        for folder, (words, place, when, count) in zip(others, endings, strict=True):
            other = Trainer(World(folder, world.model), parent=nursery)
            other.dies_at(place, when, count)
            other.finishes()
            assert other.published().digest == trainer.published().digest, f"killed when {words}: another adapter"
            assert other.state().canary == trainer.state().canary
    told = ", ".join(words for words, *_ in (*moments, *endings))
    notes = [f"{len(moments) + len(endings)} kills: {told}", same]
    return _of_words(take_stock(world.log, all_words(world.log), work, trainer.ledger), notes)


def killed_under_load(work: Path, *, kills: int, seed: int = 0, per_turn: int = 7) -> Outcome:
    """Kill the trainer at random moments while a server on the same log has its load; several turns, each with kills
    from its first second to its last.
    """
    rng = random.Random(seed)
    people = seeded_world(work)
    lasted, seen, turns = 8.0, list[str](), list[_Turn]()
    with trainer_nursery() as nursery:
        while len(seen) < kills:
            delays = [rng.uniform(0.0, 1.0) * lasted for _ in range(min(per_turn, kills - len(seen)))]
            number = len(turns)
            turn = _one_turn_under_load(work / f"turn-{number}", people, delays, seed + number, nursery)
            seen += turn.seen
            turns.append(turn)
            lasted = max(lasted, turn.last_s)
    account, audit = Account(), turns[0].audit
    for turn in turns:
        account.add(turn.account)
    for turn in turns[1:]:
        audit += turn.audit
    notes = [f"{len(seen)} kills in {len(turns)} turns, while {_tally(seen)}", turns[0].same]
    return judged(account, audit, notes=notes, peak_mb=max(turn.peak_mb for turn in turns))


@dataclass(frozen=True)
class _Turn:
    account: Account
    audit: Audit
    peak_mb: float
    seen: list[str]
    """What the trainer was at when it was killed."""
    last_s: float
    """Seconds that its last run took until there was a canary."""
    same: str


def _one_turn_under_load(home: Path, people: World, delays: list[float], seed: int, parent: Parent) -> _Turn:
    """A trainer that is killed so many seconds after each of its starts, and then left alone."""
    seen: list[str] = []
    with Server(home, parent=parent) as server:
        trainer = Trainer(copied(people, home), parent=parent)
        with Load(server, seed=seed, chatters=2, raters=2, pause_s=0.15) as load:
            with load.server_down():
                server.start()
                server.until_ready()
            load.until_more(chats=10, words=10)
            for delay in delays:
                with trainer.start() as victim:
                    time.sleep(delay)
                    assert not victim.ended, f"the trainer ended by itself:\n{victim.tail()}"
                    seen.append(_where(trainer))
                    victim.kill()
                load.until_more(chats=1, words=1)
                if seen[-1] == WAITING:
                    break  # the turn is over: the next kills go to another
            began = time.monotonic()
            with trainer.start() as victim:
                until(lambda: trainer.state().canary, "a canary", 400, pause_s=0.5)
                last_s = time.monotonic() - began
                load.until_more(chats=5, words=5)
                assert victim.stop() == 0
            account = load.settle()
            server.stop()
        trainer.finishes()  # reads what came after
        same = _as_uninterrupted(trainer, home / "uninterrupted")
        audit = take_stock(server.log_url, account, home, trainer.ledger)
        return _Turn(account, audit, server.peak_mb, seen, last_s, same)


def killed_on_kafka(work: Path, moments: tuple[Moment, ...] = (MOMENTS[0], COMMIT, ANNOUNCED)) -> Outcome:
    """A trainer that dies at some moments while a server on the same Kafka log has its load."""
    home = work / "home"
    with start_broker(work / "broker") as broker, trainer_nursery() as nursery:
        kafka = f"kafka://{broker.bootstrap}"
        with Server(home, log=kafka, parent=nursery) as server:
            people = WorldOn(home, make_tiny_model(work / "model"), kafka)
            people.talk(start_ms=0, comparisons=48, seed=1, prefix="a")
            trainer = Trainer(people, parent=nursery)
            with Load(server, chatters=2, raters=2, pause_s=0.15) as load:
                with load.server_down():
                    server.start()
                    server.until_ready()
                load.until_more(chats=10, words=10)
                for _, place, when, count in moments:
                    trainer.dies_at(place, when, count)
                    load.until_more(chats=1, words=1)
                trainer.finishes()
                account = load.settle()
                server.stop()
        trainer.finishes()
        same = _as_uninterrupted(trainer, work / "uninterrupted")
        audit = take_stock(kafka, account, work, trainer.ledger)
    notes = [f"{trainer.kills} kills: {', '.join(words for words, *_ in moments)}", same]
    return judged(account, audit, notes=notes, peak_mb=server.peak_mb, all_answers=True)


def two_trainers(work: Path, *, lease_s: float = 20.0) -> Outcome:
    """Two trainers by mistake: the second waits for the lease, takes over when the first is killed in the middle of
    its turn, and makes the same adapter; the first, started again, waits in its turn.
    """
    world = copied(seeded_world(work), work / "both")
    with trainer_nursery() as nursery:
        first, second = (
            Trainer(world, name, settings={"lease_s": lease_s}, parent=nursery) for name in ("first", "second")
        )
        with first.start() as one:
            until(lambda: (first.turn / "turn.json").exists(), "the first begins a turn", 240, pause_s=0.02)
            holder = first.state().lease.holder
            with second.start() as two:
                until(lambda: f"another trainer ({holder})" in two.said(), f"the second waits:\n{two.tail()}", 240)
                when = "in the middle of its turn" if first.state().canary is None else "after its turn"
                one.kill()
                wait_s = 120 + 2 * lease_s
                until(lambda: first.state().lease.holder not in (None, holder), "the second takes over", wait_s)
                until(lambda: first.state().canary, "a canary", 240, pause_s=0.2)
                with first.start() as again:
                    until(lambda: "waiting for its lease" in again.said(), f"the first waits:\n{again.tail()}", 240)
                    assert two.stop() == 0
                    until(lambda: first.state().lease.holder == holder, "the first has the lease again", wait_s)
                    assert again.stop() == 0
    same = _as_uninterrupted(second, work / "uninterrupted")
    audit = take_stock(world.log, all_words(world.log), work, second.ledger)
    return _of_words(audit, [f"the one with the lease was killed {when}; the other waited, then took over", same])


def _as_uninterrupted(trainer: Trainer, work: Path) -> str:
    """Compare with the run that nobody interrupted; AssertionError where the adapter differs."""
    found = trainer.published()
    expected = uninterrupted(trainer, work)
    assert found.digest == expected.digest, "another adapter came of the same events"
    assert trainer.state().canary == found.version
    if trainer.world.log.startswith("kafka:"):  # a snapshot names its offsets, and an embedded log has others
        return f"adapter as uninterrupted ({found.digest[:12]})"
    assert found.snapshot == expected.snapshot, "another snapshot was cut from the same log"
    return f"snapshot and adapter as uninterrupted ({found.digest[:12]})"


def _where(trainer: Trainer) -> str:
    """What the trainer is at, by the files it has written."""
    turn = trainer.turn
    if not trainer.ledger.exists():
        return "starting"
    if not (turn / "turn.json").exists():
        return "reading" if not (trainer.turn.parent / "last.json").exists() else WAITING
    if (turn / "judgement.json").exists():
        return "publishing"
    if (turn / "learned.json").exists():
        return "measuring"
    if (turn / "reward").exists():
        return "in PPO"
    return "in reward training"


def _tally(seen: list[str]) -> str:
    return ", ".join(f"{what} {seen.count(what)}" for what in dict.fromkeys(sorted(seen)))


def _of_words(audit: Audit, notes: list[str]) -> Outcome:
    """An outcome without a server: the words are those on the log."""
    audit.check()
    return Outcome(
        acknowledged=audit.acknowledged,
        found=audit.found,
        missing=len(audit.missing),
        doubled=len(audit.doubled),
        notes=tuple(notes),
    )
