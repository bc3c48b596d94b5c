"""Records too large for a log, by claim: the value goes into a blob store, and a small record that names it by digest
goes onto the log in its place. Readers get the original.

    registry/claims/TOPIC/DIGEST        a value, stored before its claim is sent, never changed

Works over every log. A blob that is missing or altered never stops reading: its claim is given on as it lies on the
log, `decode_event` refuses it with that reason, and the trainer buries it. A store that is away does stop reading,
until it is back. What a claim that was never sent leaves behind, and what retention let go, `Blobs.sweep` removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from exchange.closeable import Closeable
from exchange.durable import sync_folder
from exchange.log.checks import MAX_RECORD_BYTES, check_records
from exchange.log.port import EventLog, LogReader, Position, StoredRecord, TopicPartition
from exchange.registry.artifacts import translated
from schemas.errors import IntegrityError, NotFound, Unavailable
from schemas.topics import TOPICS
from schemas.wire import CLAIM_HEADER, ORIGIN_HEADER, LogRecord, header

_DAY_MS = 24 * 3600 * 1000
_RESOLVED_BYTES = 64 * 2**20
_CLAIM = re.compile(r"sha256:([0-9a-f]{64}):([1-9][0-9]{0,9})")


class Blobs:
    """Values under `root/claims` of an fsspec file system, by topic and digest. Thread-safe, shared by processes."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)
        self._what = f"the store of large records in {root}"

    def put(self, topic: str, digest: str, value: bytes) -> None:
        """Store a value whole, or not at all; durable when it returns. Raises Unavailable."""
        path = self._path(topic, digest)
        with translated(self._what):
            if not self._local:
                self._fs.pipe_file(path, value)
                return
            final = Path(path)
            final.parent.mkdir(parents=True, exist_ok=True)
            staging = final.with_name(f".{uuid.uuid4().hex}.tmp")
            try:
                with staging.open("xb") as sink:
                    sink.write(value)
                    sink.flush()
                    os.fsync(sink.fileno())
                staging.replace(final)
            finally:
                staging.unlink(missing_ok=True)
            sync_folder(final.parent)

    def get(self, topic: str, digest: str, size: int) -> bytes:
        """The value of that digest.

        Raises:
            NotFound: it is not there.
            IntegrityError: what is there is not it.
            Unavailable: the store cannot be used.
        """
        with translated(self._what):
            try:
                value = bytes(self._fs.cat_file(self._path(topic, digest), end=size + 1))
            except FileNotFoundError as error:
                if not self._fs.exists(self._root):
                    raise  # nothing at all is there: a disk that is not mounted, say
                raise NotFound(f"the content {digest} is not in {self._what}") from error
        if len(value) != size or hashlib.sha256(value).hexdigest() != digest:
            raise IntegrityError(f"the content {digest} in {self._what} was altered")
        return value

    def sweep(self, topic: str, before_ms: int) -> int:
        """Remove the values of a topic stored before a moment (ms since the epoch); how many. Raises Unavailable."""
        folder = f"{self._root}/claims/{topic}"
        removed = 0
        with translated(self._what):
            if not self._fs.exists(folder):
                return 0
            for path in self._fs.find(folder):
                if self._fs.modified(path).timestamp() * 1000 < before_ms:
                    self._fs.rm_file(path)
                    removed += 1
        return removed

    def _path(self, topic: str, digest: str) -> str:
        return f"{self._root}/claims/{topic}/{digest}"


class ClaimingLog(Closeable):
    """An `EventLog` over another one, whose limit of size it lifts to `MAX_RECORD_BYTES`. Closes it.

    Args:
        fits: whether the log below takes a record as it is.
    """

    def __init__(self, log: EventLog, blobs: Blobs, fits: Callable[[LogRecord], bool]) -> None:
        self._log = log
        self._blobs = blobs
        self._fits = fits
        self.partitions = log.partitions
        self.identity = log.identity
        self.start_offset = log.start_offset
        self.end_offset = log.end_offset
        self.note_offsets = log.note_offsets

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        return self._log.append([record if self._fits(record) else self._claim(record) for record in records])

    def reader(self, offsets: Mapping[TopicPartition, int]) -> ClaimReader:
        return ClaimReader(self._log.reader(offsets), self._blobs)

    def sweep(self, now: int) -> int:
        """Remove what lies in the store for longer than its topic keeps records, and a day. `now` is ms since the
        epoch. Returns how many values. Raises Unavailable.
        """
        kept = {topic.name: topic.retention_days for topic in TOPICS.values() if topic.retention_days is not None}
        return sum(self._blobs.sweep(topic, now - (days + 1) * _DAY_MS) for topic, days in kept.items())

    def close(self) -> None:
        self._log.close()

    def _claim(self, record: LogRecord) -> LogRecord:
        digest = hashlib.sha256(record.value).hexdigest()
        self._blobs.put(record.topic, digest, record.value)
        claim = f"sha256:{digest}:{len(record.value)}"
        return LogRecord(
            topic=record.topic,
            key=record.key,
            value=json.dumps({"claim": claim}).encode(),
            headers=(*record.headers, (CLAIM_HEADER, claim.encode())),
        )


class ClaimReader:
    """A `LogReader` that resolves the claims of another one. Closes it."""

    def __init__(self, reader: LogReader, blobs: Blobs) -> None:
        self._reader = reader
        self._blobs = blobs
        self._held: list[StoredRecord] = []
        self.close = reader.close

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        """As `LogReader.poll`. It gives fewer records where they are large, and Unavailable also means the store."""
        if not self._held:
            self._held = self._reader.poll(max_records=max_records, timeout_s=timeout_s)
        found: list[StoredRecord] = []
        size = 0
        # What cannot be resolved now stays held: the reader below has passed it, and positions say where it lies.
        while self._held and len(found) < max_records and size < _RESOLVED_BYTES:
            try:
                record = self._resolved(self._held[0])
            except Unavailable:
                if not found:
                    raise
                break
            size += len(record.value)
            found.append(record)
            del self._held[0]
        return found

    def positions(self) -> Mapping[TopicPartition, int]:
        read = dict(self._reader.positions())
        for record in reversed(self._held):
            read[TopicPartition(record.position.topic, record.position.partition)] = record.position.offset
        return read

    def _resolved(self, record: StoredRecord) -> StoredRecord:
        claim = header(record.headers, CLAIM_HEADER)
        match = _CLAIM.fullmatch(claim) if claim is not None else None
        if match is None or int(match[2]) > MAX_RECORD_BYTES:
            return record
        for topic in _stored_under(record):
            try:
                value = self._blobs.get(topic, match[1], int(match[2]))
            except (NotFound, IntegrityError):
                continue
            headers = tuple(pair for pair in record.headers if pair[0] != CLAIM_HEADER)
            return StoredRecord(record.position, record.timestamp_ms, record.key, value, headers)
        return record


def _stored_under(record: StoredRecord) -> tuple[str, ...]:
    """The topics under which a claimed value can lie: a dead letter keeps the claim of the topic it came from."""
    origin = (header(record.headers, ORIGIN_HEADER) or "").partition("/")[0]
    return (record.position.topic, *([origin] if origin in TOPICS else []))
