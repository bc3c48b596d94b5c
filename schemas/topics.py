"""The topics of the event log, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Topic:
    """How a topic is laid out. `retention_days` None keeps records for ever."""

    name: str
    partitions: int
    retention_days: int | None
    compacted: bool = False


COMPLETIONS = Topic("attune.completions", partitions=6, retention_days=30)
FEEDBACK = Topic("attune.feedback", partitions=6, retention_days=90)
POLICY = Topic("attune.policy", partitions=1, retention_days=None)
REPLICAS = Topic("attune.replicas", partitions=1, retention_days=None, compacted=True)
CONSENTS = Topic("attune.consents", partitions=1, retention_days=None)
ERASURES = Topic("attune.erasures", partitions=1, retention_days=None)
RATERS = Topic("attune.raters", partitions=1, retention_days=None)
DEAD_LETTER = Topic("attune.dead-letter", partitions=1, retention_days=90)

TOPICS: MappingProxyType[str, Topic] = MappingProxyType(
    {topic.name: topic for topic in (COMPLETIONS, FEEDBACK, POLICY, REPLICAS, CONSENTS, ERASURES, RATERS, DEAD_LETTER)}
)
