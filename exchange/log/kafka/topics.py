"""The topics of a cluster: looked at, made and mended with kafka-python's admin client. What should be, and what may be
changed, is `exchange.log.layout`'s matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

from exchange.log.kafka.settings import KafkaSettings
from exchange.log.layout import REMEDY, Change, Laid, changes, copies, faults, steps, wanted
from exchange.log.port import LogMisconfigured
from schemas.topics import TOPICS

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_DENIED = (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError)


@dataclass(frozen=True)
class Plan:
    """The topics as they are and as they should be, by name, and what lies in between."""

    brokers: int
    found: Mapping[str, Laid]
    want: Mapping[str, Laid]
    changes: tuple[Change, ...]


def partitions_of(admin: Any, settings: KafkaSettings) -> dict[str, tuple[int, ...]]:
    """The partition numbers of each topic. Makes what is missing where the settings allow it.

    Raises:
        LogMisconfigured: topics are missing or laid out so that records would be lost or misread.
        KafkaError: a broker does not answer.
    """
    plan = plan_of(admin, settings)
    found = plan.found
    missing = [name for name in TOPICS if name not in found]
    if missing and settings.auto_create_topics:
        _make(admin, missing, plan, settings)
        found = _settled(admin, settings, lambda found: set(TOPICS) <= set(found))
    wrong = faults(found)
    if fatal := [fault.words for fault in wrong if fault.fatal]:
        seen = f"; {settings.username} sees only topics that it has permissions on" if settings.authenticated else ""
        raise LogMisconfigured(f"Kafka's topics cannot be used: {'; '.join(fatal)}{seen}", remedy=REMEDY)
    for fault in wrong:
        log.warning("%s. %s", fault.words, REMEDY)
    return {name: tuple(range(laid.partitions)) for name, laid in found.items()}


def plan_of(admin: Any, settings: KafkaSettings) -> Plan:
    """What the topics are and should be. Changes nothing. Raises KafkaError."""
    brokers = len(admin.describe_cluster()["brokers"])
    replication, min_insync = copies(brokers, settings.replication_factor, settings.min_insync_replicas)
    want = {
        name: wanted(
            topic, replication=replication, min_insync=min_insync, max_message_bytes=settings.max_message_bytes
        )
        for name, topic in TOPICS.items()
    }
    found = look(admin)
    return Plan(brokers, found, want, tuple(changes(found, want)))


def look(admin: Any) -> dict[str, Laid]:
    """Attune's topics as they are. Settings that this principal may not see are left out. Raises KafkaError."""
    listed = set(admin.list_topics())
    names = [name for name in TOPICS if name in listed]
    if not names:
        return {}
    asked = admin.describe_configs([ConfigResource("TOPIC", name) for name in names], config_filter="all")
    configs = asked.get("topic", {})
    return {
        topic["name"]: Laid(
            len(topic["partitions"]),
            min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
            {key: str(entry["value"]) for key, entry in configs.get(topic["name"], {}).items()},
        )
        for topic in admin.describe_topics(names)
        if topic["partitions"]  # none: it is being deleted
    }


def apply(admin: Any, plan: Plan, settings: KafkaSettings) -> Mapping[str, Laid]:
    """Make the changes of a plan that are not refused; the topics as they then are.

    Raises:
        LogMisconfigured: a change is denied.
        KafkaError: a broker does not answer, or refuses a change.
    """
    todo, wait_ms = steps(list(plan.changes)), round(settings.request_seconds * 1000)
    _make(admin, [change.topic for change in todo["create"]], plan, settings)
    if counts := {change.topic: int(change.after) for change in todo["partitions"]}:
        admin.create_partitions(counts, timeout_ms=wait_ms)
    values: dict[str, dict[str, str]] = {}
    for change in todo["config"]:
        values.setdefault(change.topic, {})[change.what] = change.after
    if values:
        answers = admin.alter_configs([ConfigResource("TOPIC", name, configs) for name, configs in values.items()])
        if failed := [f"{name}: {said}" for name, said in answers["topic"].items() if said != "OK"]:
            raise LogMisconfigured(f"Kafka refuses settings of topics: {'; '.join(failed)}")
    return _settled(admin, settings, lambda found: all(one.refused for one in changes(found, plan.want)))


def _settled(admin: Any, settings: KafkaSettings, done: Callable[[Mapping[str, Laid]], bool]) -> Mapping[str, Laid]:
    """The topics once `done` with them, or after a while: brokers hear of a change one after another."""
    until = time.monotonic() + settings.request_seconds
    while not done(found := look(admin)) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return found


def _make(admin: Any, names: list[str], plan: Plan, settings: KafkaSettings) -> None:
    """Make topics and wait until they can be used."""
    wait_ms = round(settings.request_seconds * 1000)
    for name in names:
        laid = plan.want[name]
        layout = {
            "num_partitions": laid.partitions,
            "replication_factor": laid.replication,
            "configs": dict(laid.configs),
        }
        try:
            admin.create_topics({name: layout}, timeout_ms=wait_ms)
        except kafka_errors.TopicAlreadyExistsError:
            continue  # another process was first
        except _DENIED as error:
            raise LogMisconfigured(
                f"the topic {name} is not there, and {settings.username or 'this process'} may not make it",
                remedy="Run `attune topics apply` with an operator's credentials.",
            ) from error
        log.info("made the topic %s: %d partitions, %d copies", name, laid.partitions, laid.replication)
    if names:
        admin.wait_for_topics(names, timeout_ms=wait_ms)
