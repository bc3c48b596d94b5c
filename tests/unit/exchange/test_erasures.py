"""Erasures on the log, keys that came back, and whose snapshots name whom."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exchange.keys.memory import MemoryKeys
from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from exchange.privacy.erasures import read_erasures, replay_erasures
from exchange.reading.influence import influence
from exchange.registry.artifacts import describe_folder
from exchange.registry.memory import MemoryRegistry
from schemas.base import now_ms
from schemas.events import ErasureApplied
from schemas.manifests import AdapterManifest, files_digest
from schemas.topics import ERASURES
from schemas.wire import LogRecord, encode_event
from tests.factories import START, Maker
from tests.golden.samples import SAMPLES


def applied(erasure_id: str, part: str = "keys") -> ErasureApplied:
    return ErasureApplied.model_validate(
        {
            "id": f"{erasure_id}.{part}",
            "at": START,
            "policy": "support",
            "tenant": "acme",
            "erasure_id": erasure_id,
            "subject": "ann",
            "part": part,
            "actor": "test",
        }
    )


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_requests_come_with_what_was_done_once(kind: str, tmp_path: Path) -> None:
    log: EventLog = MemoryLog() if kind == "memory" else SqliteLog(tmp_path / "log.db")
    make = Maker()
    first, second = make.erasure("ann", at=1), make.erasure("bob", at=2)
    junk = LogRecord(topic=ERASURES.name, key=b"x", value=b"{", headers=(("ce_type", b"nonsense"),))
    told = [second, first, applied(first.id), applied(first.id), applied(first.id, "ledger")]
    log.append([junk, *(encode_event(event) for event in told)])
    found = read_erasures(log)
    assert [erasure.request.id for erasure in found] == [first.id, second.id]
    assert [event.part for event in found[0].applied] == ["keys", "ledger"]
    assert found[1].applied == ()
    log.close()


def test_a_key_that_came_back_is_destroyed_again_and_a_later_one_is_spared() -> None:
    log, keys, make = MemoryLog(), MemoryKeys(), Maker()
    old = keys.key_for("ann")
    now = now_ms() - START
    log.append([encode_event(make.erasure("ann", at=now)), encode_event(make.erasure("ann", at=now - 10_000))])
    assert replay_erasures(read_erasures(log), keys) == 1
    assert keys.lookup(old.key_id) is None
    kept = keys.key_for("bob")
    log.append([encode_event(make.erasure("bob", at=now - 60_000))])
    assert replay_erasures(read_erasures(log), keys) == 0
    assert keys.lookup(kept.key_id) == kept, "bob came back after his erasure"


def published(registry: MemoryRegistry, folder: Path, version: int, people: list[str], parent: int = 0) -> None:
    """A version trained on a snapshot whose answers are these people's."""
    files = folder / f"snapshot-{version}"
    files.mkdir()
    pq.write_table(pa.table({"group": people, "version": [version] * len(people)}), files / "answers.parquet")
    snapshot = registry.publish_artifact("snapshots", files, describe_folder(files))
    adapter(registry, folder, version, snapshot, parent)


def adapter(registry: MemoryRegistry, folder: Path, version: int, snapshot: str, parent: int) -> None:
    weights = folder / f"weights-{version}"
    weights.mkdir()
    (weights / "adapter_config.json").write_text(json.dumps(version))
    described = describe_folder(weights)
    sample = SAMPLES["adapter_manifest"]
    assert isinstance(sample, AdapterManifest)
    update = {"version": version, "parent": parent, "snapshot": snapshot, "files": described}
    manifest = sample.model_copy(update={**update, "digest": files_digest(described)})
    registry.publish_adapter(weights, manifest)


def test_versions_that_learnt_from_a_person_and_those_that_go_on_from_them(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    published(registry, tmp_path, 1, ["bob"])
    published(registry, tmp_path, 2, ["bob", "ann"], parent=1)
    published(registry, tmp_path, 3, ["bob"], parent=2)
    published(registry, tmp_path, 4, ["bob"], parent=1)
    adapter(registry, tmp_path, 5, "0" * 64, parent=1)
    adapter(registry, tmp_path, 6, "0" * 64, parent=3)
    found = influence(registry, "support", "ann", tmp_path / "work")
    assert (found.direct, found.inherited, found.unknown) == ((2,), (3, 6), (5,))
    assert found.all == {2, 3, 5, 6}
    assert list((tmp_path / "work").iterdir()) == []
    assert influence(registry, "support", "carl", tmp_path / "work").all == {5, 6}
    assert influence(registry, "sales", "ann", tmp_path / "work").all == frozenset()
