"""How the topics of a cluster should be laid out, how they are, what to change and what is wrong. Pure: asks nobody.

Changes only ever add: topics, partitions, time and copies that count. What would shrink or delete is refused with the
reason, and left to an operator's own hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.topics import TOPICS, Topic

DAY_MS = 24 * 3600 * 1000
FOR_EVER = -1
_ORDERED = "a topic that needs one order has one partition"
REMEDY = "`attune topics apply -c FILE` shows what it would change, and does it."


@dataclass(frozen=True)
class Laid:
    """A topic as it is, or as it should be. `configs` holds the settings that Attune minds, by Kafka's names."""

    partitions: int
    replication: int
    configs: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """One difference. `before` is None where the topic is not there; `refused` says why it is left as it is."""

    topic: str
    what: str
    before: str | None
    after: str
    refused: str | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with the topics, in words. `fatal` where going on would lose or misread records."""

    words: str
    fatal: bool


def wanted(topic: Topic, *, replication: int, min_insync: int, max_message_bytes: int) -> Laid:
    """How the table has it."""
    retention = FOR_EVER if topic.retention_days is None else topic.retention_days * DAY_MS
    configs = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(retention),
        "retention.bytes": str(FOR_EVER),
        "max.message.bytes": str(max_message_bytes),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(min_insync),
    }
    return Laid(topic.partitions, replication, configs)


def copies(brokers: int, replication: int | None, min_insync: int | None) -> tuple[int, int]:
    """Replication factor and min.insync.replicas: as set, else 3 and 2 on a cluster that can, else one copy."""
    factor = replication or (3 if brokers >= 3 else 1)
    return factor, min_insync or (2 if factor >= 3 else 1)


def changes(found: Mapping[str, Laid], want: Mapping[str, Laid]) -> list[Change]:
    """What lies between the topics as found and as wanted, in the order of `want`."""
    return [change for name, laid in want.items() for change in _changes(name, found.get(name), laid)]


def _changes(name: str, found: Laid | None, want: Laid) -> Iterator[Change]:
    if found is None:
        yield Change(name, "topic", None, f"{want.partitions} partitions, {want.replication} copies")
        for key, value in want.configs.items():
            yield Change(name, key, None, value)
        return
    if found.partitions != want.partitions:
        yield Change(name, "partitions", str(found.partitions), str(want.partitions), _no_partitions(found, want))
    if found.replication < want.replication:
        words = "copies of a topic that is there are made by kafka-reassign-partitions"
        yield Change(name, "copies", str(found.replication), str(want.replication), words)
    for key, value in want.configs.items():
        before = found.configs.get(key)
        if before is not None and before != value:
            yield Change(name, key, before, value, _no_config(key, before, value, found))


def _no_partitions(found: Laid, want: Laid) -> str | None:
    if found.partitions < want.partitions:
        return None
    return _ORDERED if want.partitions == 1 else "partitions cannot be taken away"


def _no_config(key: str, before: str, after: str, found: Laid) -> str | None:
    """Why this setting of a topic is not changed; None where it may be."""
    match key:
        case "retention.ms" | "retention.bytes":
            return "it would delete records" if _longer(int(before), int(after)) else None
        case "cleanup.policy":
            return None if after == "delete" and before != "delete" else "compaction would delete records"
        case "max.message.bytes":
            return "records that it takes now would be refused" if int(before) > int(after) else None
        case "min.insync.replicas":
            if int(before) > int(after):
                return "fewer copies would count as stored"
            return f"the topic has {found.replication} copies" if int(after) > found.replication else None
    return None


def _longer(one: int, other: int) -> bool:
    """Whether a limit of retention keeps more than another; -1 is no limit."""
    return other != FOR_EVER and (one == FOR_EVER or one > other)


def faults(found: Mapping[str, Laid]) -> list[Fault]:
    """What is wrong with topics as they are found, against the table."""
    return [fault for topic in TOPICS.values() for fault in _faults(topic, found.get(topic.name))]


def _faults(topic: Topic, found: Laid | None) -> Iterator[Fault]:
    if found is None:
        yield Fault(f"the topic {topic.name} is not there", fatal=True)
        return
    if topic.partitions == 1 and found.partitions > 1:
        words = f"{topic.name} has {found.partitions} partitions, and {_ORDERED}: make it anew under the same name"
        yield Fault(words, fatal=True)
    if found.partitions < topic.partitions:
        yield Fault(f"{topic.name} has {found.partitions} partitions instead of {topic.partitions}", fatal=False)
    policy = found.configs.get("cleanup.policy", "")
    if "compact" in policy and not topic.compacted:
        yield Fault(f"{topic.name} is compacted (cleanup.policy={policy}), which deletes records", fatal=True)
    if topic.compacted and policy and "compact" not in policy:
        yield Fault(f"{topic.name} is not compacted (cleanup.policy={policy}): it grows for ever", fatal=False)
    yield from _short(topic, found, policy)
    yield from _uncopied(topic, found)


def _short(topic: Topic, found: Laid, policy: str) -> Iterator[Fault]:
    """Where records are deleted before their time."""
    if "delete" not in policy or topic.compacted:
        return
    kept = int(found.configs.get("retention.ms", FOR_EVER))
    stated = FOR_EVER if topic.retention_days is None else topic.retention_days * DAY_MS
    if _longer(stated, kept):
        stating = "for ever" if stated == FOR_EVER else f"{topic.retention_days} days"
        words = f"{topic.name} keeps records {kept / DAY_MS:.3g} days (retention.ms={kept}) instead of {stating}"
        yield Fault(words, fatal=stated == FOR_EVER)
    if (limit := int(found.configs.get("retention.bytes", FOR_EVER))) != FOR_EVER:
        words = f"{topic.name} deletes what is beyond {limit} bytes (retention.bytes), however new"
        yield Fault(words, fatal=topic.retention_days is None)


def _uncopied(topic: Topic, found: Laid) -> Iterator[Fault]:
    """Where no write can succeed."""
    needed = int(found.configs.get("min.insync.replicas", "1"))
    if needed > found.replication:
        words = f"{topic.name} has {found.replication} copies and min.insync.replicas={needed}: nothing can be written"
        yield Fault(words, fatal=True)


Kind = Literal["create", "partitions", "config"]


def steps(differences: list[Change]) -> dict[Kind, list[Change]]:
    """The changes that are to be made, by kind; refused ones are left out."""
    made = [change for change in differences if change.refused is None]
    return {
        "create": [change for change in made if change.what == "topic"],
        "partitions": [change for change in made if change.what == "partitions"],
        "config": [change for change in made if change.before is not None and change.what != "partitions"],
    }
