"""Holds the demo's own account against the event log: is every acknowledged piece of feedback really there?"""

from collections.abc import Collection

from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.feedback import FeedbackReceived
from schemas.wire import decode_event

POLL_S = 2.0


def count_found(log_url: str, feedback_ids: Collection[str]) -> int:
    """How many of these feedback ids lie in the log, each counted once.

    Raises:
        Unavailable: the log cannot be read.
    """
    wanted, found = set(feedback_ids), set[str]()
    with open_log(log_url) as log:
        strands = [TopicPartition(FeedbackReceived.TOPIC, number) for number in log.partitions(FeedbackReceived.TOPIC)]
        ends = {strand: log.end_offset(strand) for strand in strands}
        reader = log.reader(dict.fromkeys(strands, 0))
        try:
            while any(reader.positions().get(strand, 0) < end for strand, end in ends.items()):
                records = reader.poll(timeout_s=POLL_S)
                if not records:
                    break
                for record in records:
                    event = decode_event(record.value, record.headers)
                    if isinstance(event, FeedbackReceived):
                        found.add(event.id)
        finally:
            reader.close()
    return len(wanted & found)
