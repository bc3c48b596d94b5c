"""Where records wait on disk while the log is away or slow: what `append` took survives `kill -9` and a power loss.

Segments of CRC-framed records, read in the order they were written and deleted once the log has them. What a crash
tore off at the end is cut when the spool is opened; what is damaged in the middle is set aside in a file of its own,
counted, and passed over. How far the log has it is kept in `cursor`, written after the log's answer: a crash in between
sends those records again, and readers count an event id once. Knows records; knows nothing of the log.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from exchange.closeable import Closeable
from exchange.log.frames import Damage, Frame, encode_frame, scan, written_at
from exchange.log.segments import (
    Segment,
    begin_segment,
    found_segments,
    hold_folder,
    read_cursor,
    write_cursor,
)
from schemas.base import now_ms
from schemas.errors import ConfigError, Unavailable
from schemas.topics import COMPLETIONS
from schemas.wire import LogRecord

log = logging.getLogger(__name__)

COMPLETIONS_SHARE = 0.9
"""Part of the cap that completions may fill: the rest is for what people say, which is small and was promised."""
_FREE_BYTES = 2**20
"""Free space on the disk from which on a spool that found it full counts as having room again."""


class SpoolFull(Unavailable):
    """The spool does not take a record. `reason` is `spool_full` (its cap) or `disk` (the disk refuses)."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class Spool(Closeable):
    """A spool in a folder of its own. Thread-safe; for one process at a time.

    Args:
        max_bytes: of all segments. When it is reached the oldest are kept and the newest refused, since the oldest
            were acknowledged. Completions are refused at `COMPLETIONS_SHARE` of it.
        segment_bytes: a segment that has as many is ended and a new one begun.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 2**30, segment_bytes: int = 8 * 2**20) -> None:
        """Open the spool, made if it is not there.

        Raises:
            ConfigError: another process uses it, or the folder cannot be used.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._next: deque[Frame] = deque()  # read from the first segment, and not delivered yet
        self._refused = False
        self._damaged = 0
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = hold_folder(folder)
            self._segments = deque(found_segments(folder))
            self._newest, self._offset = self._take_up_cursor()
            if self._segments:
                self._newest = max(self._newest, self._segments[-1].number)
                self._cut_tail(self._segments[-1])
            self._oldest = self._look_at_oldest()
        except OSError as error:
            raise ConfigError(
                f"the spool {folder} cannot be used: {error}", field="server.data_dir", remedy="Make it writable."
            ) from error

    @property
    def size_bytes(self) -> int:
        """Of all segments on disk."""
        return sum(segment.size for segment in tuple(self._segments))

    @property
    def max_bytes(self) -> int:
        """The cap."""
        return self._max_bytes

    @property
    def empty(self) -> bool:
        """Whether the log has everything."""
        return not self._segments

    @property
    def oldest_at(self) -> int | None:
        """When the oldest record that the log does not have was written, ms since the epoch."""
        return self._oldest

    @property
    def damaged(self) -> int:
        """Stretches of damaged bytes that were passed over since the spool was opened."""
        return self._damaged

    def has_room(self) -> bool:
        """Whether it would take records of every topic now, as far as can be told without writing one."""
        if self.size_bytes >= self._max_bytes * COMPLETIONS_SHARE:
            return False
        try:
            return not self._refused or shutil.disk_usage(self._folder).free >= _FREE_BYTES
        except OSError:
            return False

    def append(self, records: Sequence[LogRecord]) -> list[SpoolFull | None]:
        """Write records with one fsync; for each None once it is on disk, or why it was refused. Blocks."""
        at = now_ms()
        frames = [encode_frame(record, at) for record in records]
        with self._lock:
            fits = self._within_cap(records, frames)
            if not any(fits):
                return [self._cap_reached() for _ in records]
            try:
                self._write(b"".join(frame for frame, fitting in zip(frames, fits, strict=True) if fitting))
            except OSError as error:
                self._refused = True
                log.error("the spool %s cannot be written: %s", self._folder, error)
                return [self._disk_refuses(error) for _ in records]
            self._refused = False
            if self._oldest is None:
                self._oldest = at
        return [None if fitting else self._cap_reached() for fitting in fits]

    def peek(self, max_records: int, max_bytes: int) -> list[LogRecord]:
        """The oldest records that the log does not have: at least one, where there is any. Blocks.

        Raises:
            Unavailable: the disk cannot be read.
        """
        with self._lock:
            self._load()
            batch: list[LogRecord] = []
            size = 0
            for frame in islice(self._next, max_records):
                size += len(frame.record.value)
                if batch and size > max_bytes:
                    break
                batch.append(frame.record)
            return batch

    def delivered(self, number: int) -> None:
        """The log has the oldest `number` records: forget them. Blocks. Raises Unavailable as `peek`."""
        with self._lock:
            if self._closed:
                return  # whoever opens it next sends them again, which is harmless
            damaged = self._damaged
            for _ in range(number):
                self._load()
                if not self._next or self._damaged > damaged:
                    break  # one of them is passed over already, so the count would reach into what was never sent
                self._offset = self._next.popleft().end
            if not self._next and self._segments and self._offset >= self._segments[0].size:
                self._drop_first()
            else:
                self._note_cursor()
            self._oldest = self._look_at_oldest()

    def close(self) -> None:
        """Stop using it. What the log does not have stays for whoever opens it next."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for segment in self._segments:
                    segment.end()
                os.close(self._held)

    # Writing

    def _within_cap(self, records: Sequence[LogRecord], frames: Sequence[bytes]) -> list[bool]:
        used, fits = self.size_bytes, []
        for record, frame in zip(records, frames, strict=True):
            share = COMPLETIONS_SHARE if record.topic == COMPLETIONS.name else 1.0
            fits.append(used + len(frame) <= self._max_bytes * share)
            used += len(frame) if fits[-1] else 0
        return fits

    def _write(self, data: bytes) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the spool is closed")
        last = self._segments[-1] if self._segments else None
        if last is not None and last.torn:
            last.cut()
        if last is None or not last.writable or last.size >= self._segment_bytes:
            if last is not None:
                last.end()
            last = begin_segment(self._folder, self._newest + 1)
            self._newest = last.number
            self._segments.append(last)
        last.append(data)

    def _cap_reached(self) -> SpoolFull:
        return SpoolFull(
            "spool_full",
            f"the event log is away and the spool that waits for it is full ({self._max_bytes} bytes)",
            "Bring the event log back, or raise spool.max_bytes.",
        )

    def _disk_refuses(self, error: OSError) -> SpoolFull:
        return SpoolFull(
            "disk",
            f"the event log is away and the spool that waits for it cannot be written: {os.strerror(error.errno or 0)}",
            "Bring the event log back, or make room on the disk of server.data_dir.",
        )

    # Reading

    def _load(self) -> None:
        """Have the oldest records at hand, where there are any."""
        while not self._next and self._segments:
            segment = self._segments[0]
            if self._offset < segment.size:
                try:
                    data = segment.read(self._offset)
                except OSError as error:
                    raise Unavailable(f"the spool {segment.path} cannot be read: {error}") from error
                self._take(segment, data)
            if not self._next:
                self._drop_first()

    def _take(self, segment: Segment, data: bytes) -> None:
        for found in scan(data):
            if isinstance(found, Frame):
                self._next.append(Frame(found.record, found.at, self._offset + found.end))
            else:
                self._damaged += 1
                self._set_aside(segment, self._offset + found.start, data[found.start : found.end])

    def _drop_first(self) -> None:
        """The log has all of the first segment: delete it."""
        self._offset = self._segments[0].size
        self._note_cursor()
        first, self._offset = self._segments.popleft(), 0
        try:
            first.delete()
        except OSError as error:  # a disk that has become read-only: a restart would send it again
            log.error("%s was delivered and cannot be removed: %s", first.path, error)

    def _note_cursor(self) -> None:
        try:
            write_cursor(self._folder, self._segments[0].number, self._offset)
        except OSError as error:  # a full disk: a restart would send these again
            log.warning("how far the log has the spool could not be noted: %s", error)

    def _set_aside(self, segment: Segment, offset: int, data: bytes) -> None:
        """Keep bytes that are no whole record for whoever can make something of them."""
        aside = self._folder / "damaged" / f"{segment.number:012d}-{offset}"
        log.error("%d bytes of %s are no whole record: they are kept in %s", len(data), segment.path, aside)
        try:
            aside.parent.mkdir(exist_ok=True)
            aside.write_bytes(data)
        except OSError as error:
            log.error("they could not be kept: %s", error)

    def _look_at_oldest(self) -> int | None:
        if self._next:
            return self._next[0].at
        offset = self._offset
        for segment in self._segments:
            if offset < segment.size:
                try:
                    return written_at(segment.path, offset)
                except OSError:
                    return None
            offset = 0
        return None

    # Opening

    def _take_up_cursor(self) -> tuple[int, int]:
        """Delete what is delivered by the cursor; its segment, and how far the first that is left is delivered."""
        number, offset = read_cursor(self._folder)
        while self._segments and self._segments[0].number < number:
            self._segments.popleft().delete()
        return number, offset if self._segments and self._segments[0].number == number else 0

    def _cut_tail(self, segment: Segment) -> None:
        """Cut the last segment behind its last whole record."""
        data, whole = segment.read(0), 0
        for found in scan(data):
            whole = found.start if isinstance(found, Damage) else found.end
        if whole < len(data):
            self._set_aside(segment, whole, data[whole:])
            segment.size = whole
            segment.cut()
