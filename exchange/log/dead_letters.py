"""What becomes of a record that the log refuses for good: kept with its reason, so that those behind it go on.

First choice is the topic for dead letters; where that refuses it too, or is away, a file beside the spool in the same
frames. Knows no reader of either.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Literal

from exchange.log.frames import encode_frame
from exchange.log.port import EventLog, StoredRecord
from schemas.base import now_ms
from schemas.errors import AttuneError, InvalidInput
from schemas.topics import DEAD_LETTER
from schemas.wire import ORIGIN_HEADER, REASON_HEADER, LogRecord, header

log = logging.getLogger(__name__)

FILE_BYTES = 64 * 2**20
"""The most that the file may hold; beyond it a letter is lost, with an error in the process's own log."""
Where = Literal["topic", "file", "lost"]


class DeadLetters:
    """Buries records. `file` None keeps no file."""

    def __init__(self, event_log: EventLog, file: Path | None = None, *, file_bytes: int = FILE_BYTES) -> None:
        self._log = event_log
        self._file = file
        self._file_bytes = file_bytes
        self._writing = threading.Lock()

    def bury(self, record: LogRecord, error: InvalidInput, origin: str) -> Where:
        """Keep a record that the log refused by `error`; where it now lies. `origin`: `queue` or `spool`. Blocks."""
        letter = dead_letter(record, str(error), f"{record.topic} by way of the {origin}")
        name = header(record.headers, "ce_id") or "without an id"
        try:
            self._log.append([letter])
        except AttuneError as refusal:
            where = self._to_file(letter)
            log.error("the log refuses %s for good (%s), and its dead letter too: %s", name, error, refusal)
        else:
            where = "topic"
            log.error("the log refuses %s for good: %s", name, error)
        if where == "lost":
            log.critical("the dead letter of %s could not be kept: it is lost", name)
        return where

    def _to_file(self, letter: LogRecord) -> Where:
        if self._file is None:
            return "lost"
        frame = encode_frame(letter, now_ms())
        try:
            with self._writing, self._file.open("ab") as file:
                if file.tell() + len(frame) > self._file_bytes:
                    return "lost"
                file.write(frame)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)
            return "lost"
        return "file"


def dead_letter(record: LogRecord | StoredRecord, reason: str, origin: str) -> LogRecord:
    """The record as a dead letter: the same bytes, with where it was found and why it lies here."""
    notes = (
        (ORIGIN_HEADER, origin.encode()),
        (REASON_HEADER, reason.encode()),
    )
    return LogRecord(DEAD_LETTER.name, record.key, record.value, (*record.headers, *notes))
