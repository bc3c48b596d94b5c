"""The layout of topics: only ever added to, and faults named before they cost records."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest

from exchange.log.layout import DAY_MS, Laid, changes, copies, faults, steps, wanted
from exchange.log.memory import MemoryLog
from exchange.log.port import LogMisconfigured, require_configured
from schemas.access import ACCESS
from schemas.errors import Unavailable
from schemas.topics import TOPICS


def laid(replication: int = 3, min_insync: int = 2) -> dict[str, Laid]:
    return {
        name: wanted(topic, replication=replication, min_insync=min_insync, max_message_bytes=9_000_000)
        for name, topic in TOPICS.items()
    }


def changed(name: str, **values: object) -> dict[str, Laid]:
    """All topics as wanted, but for one: `partitions`, `replication` or settings with `_` for the dot."""
    found = laid()
    own = {key: values.pop(key) for key in ("partitions", "replication") if key in values}
    configs = {**found[name].configs, **{key.replace("_", "."): str(value) for key, value in values.items()}}
    return {**found, name: replace(found[name], configs=configs, **own)}


@pytest.mark.parametrize(
    ("brokers", "replication", "min_insync", "expected"),
    [
        (1, None, None, (1, 1)),
        (2, None, None, (1, 1)),
        (3, None, None, (3, 2)),
        (5, 5, None, (5, 2)),
        (3, 3, 1, (3, 1)),
    ],
)
def test_copies(brokers: int, replication: int | None, min_insync: int | None, expected: tuple[int, int]) -> None:
    assert copies(brokers, replication, min_insync) == expected


def test_nothing_is_to_do_on_topics_as_wanted() -> None:
    assert changes(laid(), laid()) == []
    assert faults(laid()) == []
    assert faults(laid(1, 1)) == []


def test_missing_topics_are_made_with_all_their_settings() -> None:
    found = laid()
    missing = found.pop("attune.policy")
    made = changes(found, laid())
    assert [(change.topic, change.before, change.refused) for change in made] == [("attune.policy", None, None)] * (
        1 + len(missing.configs)
    )
    assert {kind: len(found) for kind, found in steps(made).items()} == {"create": 1, "partitions": 0, "config": 0}
    (fault,) = faults(found)
    assert fault.fatal
    assert fault.words == "the topic attune.policy is not there"


@pytest.mark.parametrize(
    ("found", "kind", "after"),
    [
        (changed("attune.feedback", partitions=3), "partitions", "6"),
        (changed("attune.feedback", retention_ms=DAY_MS), "config", str(90 * DAY_MS)),
        (changed("attune.feedback", retention_bytes=1000), "config", "-1"),
        (changed("attune.policy", retention_ms=DAY_MS), "config", "-1"),
        (changed("attune.feedback", cleanup_policy="compact"), "config", "delete"),
        (changed("attune.feedback", max_message_bytes=1000), "config", "9000000"),
        (changed("attune.feedback", min_insync_replicas=1), "config", "2"),
    ],
)
def test_what_adds_is_done(found: dict[str, Laid], kind: str, after: str) -> None:
    (change,) = changes(found, laid())
    assert change.refused is None
    assert change.after == after
    assert {name: len(made) for name, made in steps([change]).items() if made} == {kind: 1}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (changed("attune.feedback", partitions=12), "cannot be taken away"),
        (changed("attune.policy", partitions=2), "one order"),
        (changed("attune.feedback", replication=2), "kafka-reassign-partitions"),
        (changed("attune.feedback", retention_ms=-1), "would delete records"),
        (changed("attune.feedback", retention_ms=91 * DAY_MS), "would delete records"),
        (changed("attune.replicas", cleanup_policy="delete"), "would delete records"),
        (changed("attune.feedback", max_message_bytes=10_000_000), "would be refused"),
        (changed("attune.feedback", min_insync_replicas=3), "fewer copies"),
    ],
)
def test_what_shrinks_or_deletes_is_refused_with_the_reason(found: dict[str, Laid], why: str) -> None:
    (change,) = changes(found, laid())
    assert change.refused is not None
    assert why in change.refused
    assert not any(steps([change]).values())


@pytest.mark.parametrize(
    ("found", "words", "fatal"),
    [
        (
            changed("attune.policy", partitions=2),
            "attune.policy has 2 partitions, and a topic that needs one order",
            True,
        ),
        (changed("attune.feedback", partitions=3), "attune.feedback has 3 partitions instead of 6", False),
        (changed("attune.erasures", cleanup_policy="compact,delete"), "attune.erasures is compacted", True),
        (changed("attune.replicas", cleanup_policy="delete"), "attune.replicas is not compacted", False),
        (changed("attune.feedback", retention_ms=DAY_MS), "keeps records 1 days .* instead of 90 days", False),
        (changed("attune.policy", retention_ms=DAY_MS), "keeps records 1 days .* instead of for ever", True),
        (changed("attune.erasures", retention_bytes=1000), "deletes what is beyond 1000 bytes", True),
        (changed("attune.feedback", replication=1), "nothing can be written", True),
    ],
)
def test_faults_are_named(found: dict[str, Laid], words: str, fatal: bool) -> None:
    (fault,) = faults(found)
    assert fault.fatal is fatal
    assert re.search(words, fault.words)


def test_every_topic_has_its_permissions_for_every_role() -> None:
    assert {role: set(topics) for role, topics in ACCESS.items()} == {"server": set(TOPICS), "trainer": set(TOPICS)}


def test_settings_that_could_not_be_read_are_no_fault() -> None:
    assert faults({name: replace(one, configs={}) for name, one in laid().items()}) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (LogMisconfigured("the topic attune.policy is not there"), LogMisconfigured),
        (Unavailable("away"), None),
        (None, None),
    ],
)
def test_a_process_starts_without_its_log_and_not_with_a_wrong_one(
    answer: Exception | None, expected: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog()
    if answer is not None:
        monkeypatch.setattr(log, "partitions", Mock(side_effect=answer))
    with nullcontext() if expected is None else pytest.raises(expected, match="not there"):
        require_configured(log)
