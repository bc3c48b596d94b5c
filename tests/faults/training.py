"""A trainer to be killed: a world with something to learn, its process, and the run that nobody interrupted.

The uninterrupted run learns from the same log, cut off where the interrupted one's snapshot ends, in a fresh folder:
what comes of it must be the same snapshot and the same adapter, byte for byte.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exchange.journal import PolicyJournal
from exchange.open import open_log, open_registry
from exchange.settings import describe
from schemas.lifecycle import PolicyState
from schemas.manifests import AdapterManifest, OffsetRange
from tests.faults.victims import Victim
from tests.tiny_models import make_tiny_model
from tests.unit.trainer.control.world import World
from trainer.main import run_trainer
from trainer.settings import TrainerSettings

TURN = {"ppo": {"epochs": 2}, "poll_s": 0.2}
"""Four steps or so of PPO, with a checkpoint after each."""


def seeded_world(folder: Path, comparisons: int = 48) -> World:
    """A tiny model and a log of people who really were shown its answers."""
    world = World(folder / "world", make_tiny_model(folder / "model"))
    world.talk(start_ms=0, comparisons=comparisons, seed=1, prefix="a")
    return world


def copied(world: World, folder: Path, *names: str) -> World:
    """The world's log and keys in another folder, with nothing trained yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("log.db", "keys.db"):
        with (
            closing(sqlite3.connect(world.folder / name)) as source,
            closing(sqlite3.connect(folder / name)) as target,
        ):
            source.backup(target)
    return World(folder, world.model)


@dataclass
class Trainer:
    """One trainer's configuration, and the process that it is now."""

    world: World
    name: str = "trainer"
    log: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    kills: int = field(default=0, init=False)

    def configured(self) -> TrainerSettings:
        log = {} if self.log is None else {"log": self.log}
        return self.world.settings(**TURN, **log, **{"state_dir": self.world.folder / self.name, **self.settings})

    @property
    def config(self) -> Path:
        path = self.world.folder / f"{self.name}.toml"
        path.write_text(describe(self.configured()), encoding="utf-8")
        return path

    @property
    def ledger(self) -> Path:
        return self.world.folder / self.name / "ledger.db"

    @property
    def turn(self) -> Path:
        """Folder of the turn in progress."""
        return self.world.folder / self.name / "turn"

    def start(self, *more: str) -> Victim:
        """`attune train`."""
        return self._victim(["-m", "deploy.cli", "train", "-c", str(self.config), *more])

    def dies_at(self, place: str, when: str, count: int, patience_s: float = 240.0) -> None:
        """Run a turn that dies at an exact moment; AssertionError where the moment did not come."""
        arguments = ["-m", "tests.faults.doomed_trainer", str(self.config), place, when, str(count)]
        with self._victim(arguments) as victim:
            code = victim.wait(patience_s)
            assert code == -9, f"{when} {place} never came; the trainer ended with {code}:\n{victim.tail()}"
            self.kills += 1

    def finishes(self, patience_s: float = 240.0) -> None:
        """Make the turn to its end; one that had ended already is none."""
        with self.start("--once") as victim:
            code = victim.wait(patience_s)
            assert code in (0, 3), f"the trainer ended with {code}:\n{victim.tail()}"

    def _victim(self, arguments: list[str]) -> Victim:
        return Victim(self.name, arguments, self.world.folder / f"{self.name}.log", {"OMP_NUM_THREADS": "1"})

    def state(self) -> PolicyState:
        """The policy by the journal."""
        with open_log(self.configured().log) as log, closing(PolicyJournal(log)) as journal:
            journal.refresh()
            return journal.state("support")

    def published(self) -> AdapterManifest:
        """The one version made so far."""
        registry = open_registry(self.world.registry)
        versions = registry.versions("support")
        assert len(versions) == 1, f"versions in the registry: {versions}"
        manifest = registry.adapter("support", versions[0])
        registry.fetch_adapter("support", versions[0], self.world.folder / "fetched")  # every byte checked
        return manifest


def uninterrupted(trainer: Trainer, work: Path) -> AdapterManifest:
    """What comes of the same snapshot where nobody is killed, for a trainer on an embedded log."""
    snapshot = open_registry(trainer.world.registry).snapshot(trainer.published().snapshot)
    twin = copied(trainer.world, work)
    cut_off(work / "log.db", snapshot.offsets)
    again = Trainer(twin, "uninterrupted", settings=trainer.settings)
    assert run_trainer(again.configured(), once=True) == 0
    return again.published()


def cut_off(log: Path, offsets: Mapping[str, OffsetRange]) -> None:
    """Let a copy of an embedded log end where a snapshot does, and forget its journal."""
    with closing(sqlite3.connect(log)) as connection, connection:
        ends = connection.execute("SELECT topic, partition FROM ends").fetchall()
        for topic, partition in ends:
            read = offsets.get(f"{topic}/{partition}")
            end = 0 if read is None else read.end
            where = (topic, partition, end)
            connection.execute('DELETE FROM records WHERE topic = ? AND partition = ? AND "offset" >= ?', where)
            connection.execute("UPDATE ends SET next_offset = ? WHERE topic = ? AND partition = ?", (end, *where[:2]))


def forget(folder: Path) -> None:
    """Remove what a scene needs no more."""
    shutil.rmtree(folder, ignore_errors=True)
