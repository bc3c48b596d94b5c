"""The newest records of a topic, read by whoever asks: no thread of its own, and nothing is read where nobody asks.

Knows places and offsets; what a record means is for whoever is shown it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from exchange.log.port import EventLog, LogReader, LogReplaced, RecordsLost, TopicPartition
from schemas.errors import Unavailable

Ends = Mapping[TopicPartition, int]
ReadThrough = Callable[[LogReader, Ends], None]


class Newest:
    """Follows a topic from its newest records on. For one thread at a time; does not close the log.

    Args:
        limit: the newest records that are read at the first call, and after a time in which nobody asked.
    """

    def __init__(self, log: EventLog, topic: str, limit: int) -> None:
        self._log = log
        self._topic = topic
        self._limit = limit
        self._reader: LogReader | None = None

    @cached_property
    def places(self) -> list[TopicPartition]:
        """Asked for when they are needed, since the log may be away before."""
        return [TopicPartition(self._topic, number) for number in self._log.partitions(self._topic)]

    def ends(self) -> dict[TopicPartition, int]:
        """Where each partition ends now. Raises Unavailable."""
        return {place: self._log.end_offset(place) for place in self.places}

    def catch_up(self, read: ReadThrough) -> None:
        """Let `read` have the reader and where the log ends now; it reads up to there.

        Where it runs out of time the reader stays where it stands: the next call goes on from there.

        Raises:
            Unavailable: the log cannot be reached, or is not what it was: the next call begins anew. And what `read`
                raises.
        """
        ends = self.ends()
        if self._reader is not None:
            positions = self._reader.positions()
            if sum(max(0, end - positions[place]) for place, end in ends.items()) > self._limit:
                self.close()  # nobody asked for long: the newest are what matters
        if self._reader is None:
            share = max(1, self._limit // len(self.places))
            self._reader = self._log.reader(
                {place: max(self._log.start_offset(place), end - share) for place, end in ends.items()}
            )
        try:
            read(self._reader, ends)
        except (RecordsLost, LogReplaced) as error:  # nobody asked for so long that retention went past the reader
            self.close()
            raise Unavailable(error.message, remedy="Try again.") from error

    def close(self) -> None:
        """Stop reading; the next call begins anew."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
