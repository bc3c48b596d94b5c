"""How large a record becomes as a message of Kafka's, before it is sent."""

from __future__ import annotations

from kafka.codec import gzip_encode, zstd_encode

from exchange.log.checks import record_bytes
from exchange.log.kafka.settings import KafkaSettings
from schemas.wire import LogRecord

_FRAMING = 1024  # of a batch with one record: 61 bytes, lengths, and some for each header
_ENCODE = {"zstd": zstd_encode, "gzip": gzip_encode}


def fits(record: LogRecord, settings: KafkaSettings) -> bool:
    """Whether the record, compressed if that is needed and set, is within the topics' limit."""
    limit = settings.max_message_bytes
    size = record_bytes(record) + _FRAMING
    if size <= limit:
        return True
    encode = _ENCODE.get(settings.compression)
    return encode is not None and size - len(record.value) + len(encode(record.value)) <= limit
