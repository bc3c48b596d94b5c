"""Every event of a small topic that is kept for ever, read from its start to where it ends now.

Knows places and offsets; what the events mean is for whoever asked. What cannot be read is passed over, with a warning.
"""

from __future__ import annotations

import logging
import time

from exchange.log.port import EventLog, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.event import Event
from schemas.wire import decode_event

log = logging.getLogger(__name__)


def read_whole(event_log: EventLog, topic: str, *, timeout_s: float = 10.0) -> list[Event]:
    """All events of a topic, in the order of each partition.

    Raises:
        Unavailable: the log cannot be reached, or its end was not reached in time.
    """
    places = {TopicPartition(topic, number): 0 for number in event_log.partitions(topic)}
    ends = {place: event_log.end_offset(place) for place in places}
    found: list[Event] = []
    reader = event_log.reader(places)
    try:
        deadline = time.monotonic() + timeout_s
        while any(reader.positions()[place] < end for place, end in ends.items()):
            if time.monotonic() > deadline:
                raise Unavailable(f"the topic {topic} could not be read to its end in time")
            for record in reader.poll(timeout_s=0.1):
                try:
                    found.append(decode_event(record.value, record.headers))
                except InvalidInput as error:
                    log.warning("record %d of %s cannot be read: %s", record.position.offset, topic, error)
    finally:
        reader.close()
    return found
