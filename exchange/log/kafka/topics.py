"""The topics of a cluster as the log needs them: made where they are missing, and how many partitions each has."""

from __future__ import annotations

from typing import Any

from kafka import errors as kafka_errors

from exchange.log.kafka.settings import KafkaSettings
from schemas.topics import TOPICS, Topic

_FOR_EVER = "-1"


def partitions_of(admin: Any, settings: KafkaSettings) -> dict[str, tuple[int, ...]]:
    """Make the topics that are missing; the partition numbers of each. Raises kafka-python's errors."""
    wait_ms = round(settings.request_seconds * 1000)
    present = set(admin.list_topics())
    for topic in TOPICS.values():
        if topic.name in present:
            continue
        layout = {"num_partitions": topic.partitions, "configs": topic_settings(topic, settings)}
        try:
            admin.create_topics({topic.name: layout}, timeout_ms=wait_ms)
        except kafka_errors.TopicAlreadyExistsError:
            continue  # another process was first
    admin.wait_for_topics(list(TOPICS), timeout_ms=wait_ms)
    return {
        topic["name"]: tuple(sorted(partition["partition_index"] for partition in topic["partitions"]))
        for topic in admin.describe_topics(list(TOPICS))
    }


def topic_settings(topic: Topic, settings: KafkaSettings) -> dict[str, str]:
    """The configuration of a topic that Attune makes."""
    retention = _FOR_EVER if topic.retention_days is None else str(topic.retention_days * 24 * 3600 * 1000)
    return {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": retention,
        "retention.bytes": _FOR_EVER,
        "max.message.bytes": str(settings.max_message_bytes),
        "message.timestamp.type": "LogAppendTime",
    }
