"""Event log, registry and key store in memory: for tests and for trying things out. They end with their process.

A compacted topic keeps all its records here: compaction is a saving of space, never a promise to readers.
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from exchange.artifacts import cached_copy, check_files, copy_checked, source_file, translated
from exchange.checks import check_records, topic_named
from exchange.keys import SubjectKey
from exchange.log import Position, StoredRecord, TopicPartition, partition_for
from exchange.manifest_checks import Named, check_manifest, check_place
from schemas.base import minted_by, new_id, now_ms, version_name
from schemas.errors import IntegrityError, InvalidInput, NotFound, Unavailable
from schemas.manifests import AdapterManifest, FileDigest, SnapshotManifest
from schemas.sealed import KEY_BYTES
from schemas.topics import TOPICS
from schemas.wire import LogRecord

Name = TypeVar("Name", tuple[str, int], str)


class MemoryLog:
    """An `EventLog` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._strands: dict[TopicPartition, list[StoredRecord]] = {
            TopicPartition(topic.name, number): [] for topic in TOPICS.values() for number in range(topic.partitions)
        }

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        now = now_ms()
        positions: list[Position] = []
        with self._changed:
            self._require_open()
            for record in records:
                partition = partition_for(record.key, TOPICS[record.topic].partitions)
                strand = self._strands[TopicPartition(record.topic, partition)]
                position = Position(record.topic, partition, len(strand))
                strand.append(StoredRecord(position, now, record.key, record.value, record.headers))
                positions.append(position)
            self._changed.notify_all()
        return positions

    def partitions(self, topic: str) -> tuple[int, ...]:
        return tuple(range(topic_named(topic).partitions))

    def end_offset(self, partition: TopicPartition) -> int:
        with self._changed:
            self._require_open()
            return len(self._strand(partition))

    def reader(self, offsets: Mapping[TopicPartition, int]) -> MemoryReader:
        for partition in offsets:
            self._strand(partition)
        return MemoryReader(self, offsets)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, offsets: Mapping[TopicPartition, int], limit: int, timeout_s: float) -> list[StoredRecord]:
        """Up to `limit` records from these offsets on, waiting up to `timeout_s` for the first."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._require_open()
                found: list[StoredRecord] = []
                for partition, offset in offsets.items():
                    found += self._strands[partition][offset : offset + limit - len(found)]
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(left)

    def _strand(self, partition: TopicPartition) -> list[StoredRecord]:
        strand = self._strands.get(partition)
        if strand is None:
            raise InvalidInput(f"there is no partition {partition}", field="partition")
        return strand

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the event log is closed")


class MemoryReader:
    """A `LogReader` of a `MemoryLog`."""

    def __init__(self, log: MemoryLog, offsets: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._offsets = dict(offsets)
        self._closed = False

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        if self._closed:
            raise Unavailable("this reader of the event log is closed")
        found = self._log.read(self._offsets, max_records, timeout_s)
        advance(self._offsets, found)
        return found

    def positions(self) -> Mapping[TopicPartition, int]:
        return dict(self._offsets)

    def close(self) -> None:
        self._closed = True


def advance(offsets: dict[TopicPartition, int], records: Sequence[StoredRecord]) -> None:
    """Move `offsets` past `records`, and the partitions just read behind the others, so that none starves."""
    for record in records:
        place = TopicPartition(record.position.topic, record.position.partition)
        offsets.pop(place)
        offsets[place] = record.position.offset + 1


class MemoryRegistry:
    """A `Registry` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._artifacts: dict[tuple[str, str], tuple[dict[str, FileDigest], dict[str, bytes]]] = {}
        self._adapters: dict[tuple[str, int], AdapterManifest] = {}
        self._snapshots: dict[str, SnapshotManifest] = {}

    def publish_adapter(self, folder: Path, manifest: AdapterManifest) -> None:
        self._publish_named("adapters", folder, manifest, self._adapters, (manifest.policy, manifest.version))

    def adapter(self, policy: str, version: int) -> AdapterManifest:
        check_place(policy=policy, version=version)
        with self._lock:
            manifest = self._adapters.get((policy, version))
        if manifest is None:
            raise NotFound(f"{version_name(policy, version)} is not in the registry")
        return manifest

    def versions(self, policy: str) -> tuple[int, ...]:
        check_place(policy=policy)
        with self._lock:
            return tuple(sorted(version for name, version in self._adapters if name == policy))

    def fetch_adapter(self, policy: str, version: int, cache: Path) -> Path:
        return self.fetch_artifact("adapters", self.adapter(policy, version).digest, cache)

    def publish_artifact(self, kind: str, folder: Path, files: Mapping[str, FileDigest]) -> str:
        digest = check_files(files)
        check_place(kind=kind)
        stored: dict[str, bytes] = {}
        for name, expected in files.items():
            sink = io.BytesIO()
            with translated("the folder to publish"), source_file(folder, name) as source:
                copy_checked(source, sink, name, expected)
            stored[name] = sink.getvalue()
        with self._lock:
            self._artifacts.setdefault((kind, digest), (dict(files), stored))
        return digest

    def fetch_artifact(self, kind: str, digest: str, cache: Path) -> Path:
        check_place(kind=kind, digest=digest)
        with self._lock:
            found = self._artifacts.get((kind, digest))
        if found is None:
            raise NotFound(f"{kind}/{digest} is not in the registry")
        files, stored = found

        def fill(staging: Path) -> None:
            for name, data in stored.items():
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

        return cached_copy(cache, files, fill, digest=digest)

    def publish_snapshot(self, folder: Path, manifest: SnapshotManifest) -> None:
        self._publish_named("snapshots", folder, manifest, self._snapshots, manifest.digest)

    def snapshot(self, digest: str) -> SnapshotManifest:
        check_place(digest=digest)
        with self._lock:
            manifest = self._snapshots.get(digest)
        if manifest is None:
            raise NotFound(f"snapshot {digest} is not in the registry")
        return manifest

    def read_artifact_file(self, kind: str, digest: str, name: str) -> bytes:
        check_place(kind=kind, digest=digest)
        with self._lock:
            _, stored = self._artifacts.get((kind, digest), ({}, {}))
        if name not in stored:
            raise NotFound(f"{name} of {kind}/{digest} is not in the registry")
        return stored[name]

    def snapshots(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._snapshots))

    def _publish_named(self, kind: str, folder: Path, manifest: Named, shelf: dict[Name, Named], name: Name) -> None:
        check_manifest(manifest)
        with self._lock:
            before = shelf.get(name)
        if before is None:
            self.publish_artifact(kind, folder, manifest.files)
            with self._lock:
                before = shelf.setdefault(name, manifest)
        if before != manifest:
            raise IntegrityError(f"{name} exists with another content, and what is published never changes")


class MemoryKeys:
    """A `KeyStore` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._by_subject: dict[str, SubjectKey] = {}
        self._by_id: dict[str, SubjectKey] = {}

    def key_for(self, subject: str) -> SubjectKey:
        with self._lock:
            self._require_open()
            key = self._by_subject.get(subject)
            if key is None:
                key = SubjectKey(new_id("key"), secrets.token_bytes(KEY_BYTES))
                self._by_subject[subject] = self._by_id[key.key_id] = key
            return key

    def lookup(self, key_id: str) -> SubjectKey | None:
        with self._lock:
            self._require_open()
            return self._by_id.get(key_id)

    def destroy(self, subject: str, *, until_ms: int | None = None) -> tuple[str, ...]:
        with self._lock:
            self._require_open()
            key = self._by_subject.get(subject)
            if key is None or (until_ms is not None and key.key_id >= minted_by("key", until_ms)):
                return ()
            del self._by_subject[subject], self._by_id[key.key_id]
            return (key.key_id,)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the key store is closed")
