"""A trainer to be killed: a world with something to learn, its process, and the run that nobody interrupted.

The uninterrupted run learns from the same log, cut off where the interrupted one's snapshot ends, in a fresh folder:
what comes of it must be the same snapshot and the same adapter, byte for byte.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exchange.journal import PolicyJournal
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_log, open_registry
from exchange.settings import describe
from schemas.lifecycle import PolicyState
from schemas.manifests import AdapterManifest
from schemas.wire import LogRecord
from tests.faults.parents import Here, Nursery, Parent
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


class WorldOn(World):
    """A world on a log of its own choice."""

    def __init__(self, folder: Path, model: Path, log: str) -> None:
        super().__init__(folder, model)
        self._log = log

    @property
    def log(self) -> str:
        return self._log


def copied(world: World, folder: Path) -> World:
    """The world's log and keys in another folder, with nothing trained yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("log.db", "keys.db"):
        _copy_database(world.folder / name, folder / name)
    return World(folder, world.model)


def trainer_nursery() -> Nursery:
    """A parent for trainers, and for servers without a model beside them."""
    opened = ("exchange.log.sqlite", "exchange.keys.sqlite", "exchange.registry.files", "exchange.log.kafka")
    learning = (
        "trainer.main",
        "tests.faults.doomed_trainer",
        "transformers.models.llama.modeling_llama",
        "pyarrow.parquet",
    )
    return Nursery("deploy.cli", "tests.faults.memory_server", *learning, *opened)


@dataclass
class Trainer:
    """One trainer's configuration, and the process that it is now."""

    world: World
    name: str = "trainer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    parent: Parent = field(default_factory=Here)
    kills: int = field(default=0, init=False)

    def configured(self) -> TrainerSettings:
        return self.world.settings(**TURN, **{"state_dir": self.world.folder / self.name, **self.settings})

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
        return self._victim("deploy.cli", ["train", "-c", str(self.config), *more])

    def dies_at(self, place: str, when: str, count: int, patience_s: float = 240.0) -> None:
        """Run a turn that dies at an exact moment; AssertionError where the moment did not come."""
        arguments = [str(self.config), place, when, str(count)]
        with self._victim("tests.faults.doomed_trainer", arguments) as victim:
            code = victim.wait(patience_s)
            assert code == -9, f"{when} {place} never came; the trainer ended with {code}:\n{victim.tail()}"
            self.kills += 1

    def finishes(self, patience_s: float = 240.0) -> None:
        """Make the turn to its end; one that had ended already is none."""
        with self.start("--once") as victim:
            code = victim.wait(patience_s)
            assert code in (0, 3), f"the trainer ended with {code}:\n{victim.tail()}"

    def _victim(self, module: str, arguments: list[str]) -> Victim:
        output = self.world.folder / f"{self.name}.log"
        return Victim(self.name, module, arguments, output, {"OMP_NUM_THREADS": "1"}, self.parent)

    def state(self) -> PolicyState:
        """The policy by the journal."""
        with open_log(self.world.log) as log, closing(PolicyJournal(log)) as journal:
            journal.refresh()
            return journal.state("support")

    def published(self) -> AdapterManifest:
        """The one version made so far."""
        registry = open_registry(self.world.registry)
        versions = registry.versions("support")
        made = {number: (one.stage, one.reason) for number, one in self.state().versions.items()}
        assert len(versions) == 1, f"versions in the registry: {versions}, in the journal: {made}"
        manifest = registry.adapter("support", versions[0])
        registry.fetch_adapter("support", versions[0], self.world.folder / "fetched")  # every byte checked
        return manifest


def uninterrupted(trainer: Trainer, work: Path) -> AdapterManifest:
    """What comes of the same snapshot where nobody is killed: on an embedded log, whatever the log was."""
    snapshot = open_registry(trainer.world.registry).snapshot(trainer.published().snapshot)
    work.mkdir(parents=True)
    _copy_database(trainer.world.folder / "keys.db", work / "keys.db")
    again = Trainer(World(work, trainer.world.model), "uninterrupted", settings=trainer.settings)
    with open_log(trainer.world.log) as source, open_log(again.world.log) as target:
        copy_until(source, target, {name: read.end for name, read in snapshot.offsets.items()})
    assert run_trainer(again.configured(), once=True) == 0
    return again.published()


def copy_until(source: EventLog, target: EventLog, ends: Mapping[str, int]) -> None:
    """Give an empty log what another one has before some offsets (`topic/partition` -> offset)."""
    for name, end in ends.items():
        topic, _, partition = name.rpartition("/")
        place = TopicPartition(topic, int(partition))
        reader = source.reader({place: 0})
        try:
            while (read := reader.positions()[place]) < end:
                found = reader.poll(max_records=min(1000, end - read), timeout_s=2.0)
                target.append([LogRecord(topic, one.key, one.value, one.headers) for one in found])
        finally:
            reader.close()


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(target)) as copy:
        opened.backup(copy)
