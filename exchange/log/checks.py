"""What every log refuses alike, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import InvalidInput
from schemas.topics import TOPICS, Topic
from schemas.wire import LogRecord

MAX_RECORD_BYTES = 32 * 2**20
"""What no log takes. Kafka's own limit is lower; what is between them goes by claim (`exchange.log.claims`)."""


def topic_named(name: str) -> Topic:
    """The topic of that name. Raises InvalidInput where there is none."""
    topic = TOPICS.get(name)
    if topic is None:
        raise InvalidInput(f"there is no topic {name!r}", field="topic", remedy=f"Topics are: {', '.join(TOPICS)}.")
    return topic


def record_bytes(record: LogRecord) -> int:
    """The size of a record: key, value and headers, without the log's own framing."""
    headers = sum(len(name.encode()) + len(value) for name, value in record.headers)
    return len(record.key) + len(record.value) + headers


def check_records(records: Iterable[LogRecord]) -> None:
    """Raises InvalidInput where a record names an unknown topic or is larger than `MAX_RECORD_BYTES`."""
    for record in records:
        topic_named(record.topic)
        if (size := record_bytes(record)) > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"a record of {size} bytes is too large for {record.topic}",
                field="value",
                remedy=f"The limit is {MAX_RECORD_BYTES} bytes.",
            )
