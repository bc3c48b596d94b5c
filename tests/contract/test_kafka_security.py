"""Against a broker that demands TLS and credentials: who gets in, what others are told, and what each may do."""

from __future__ import annotations

import argparse
import gc
import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from deploy.brokers.secure import ADMIN, SecureBroker
from deploy.docs import FOLDER as DOCS
from deploy.topic_tables import PRINCIPALS
from exchange.log.port import EventLog, LogMisconfigured, TopicPartition, require_configured
from exchange.open import open_log
from schemas.access import ACCESS, TRAINER_GROUPS, Role
from schemas.errors import Unavailable
from schemas.topics import COMPLETIONS, DEAD_LETTER, FEEDBACK, POLICY, TOPICS
from schemas.wire import LogRecord

pytestmark = [
    pytest.mark.kafka,
    # kafka-python leaves the sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test leaves to the garbage collector is collected under its own filter of warnings."""
    yield
    gc.collect()


def settings(broker: SecureBroker, user: str, *, mechanism: str = "SCRAM-SHA-512", **more: Any) -> Any:
    from exchange.log.kafka.settings import KafkaSettings

    values = {
        "security_protocol": "SASL_SSL",
        "ca_file": broker.certificates.ca,
        "sasl_mechanism": mechanism,
        "username": user,
        "password": broker.passwords.get(user, "unknown"),
        "auto_create_topics": False,
        "request_seconds": 5.0,
        "delivery_seconds": 10.0,
    }
    return KafkaSettings(**{**values, **more})


def opened(broker: SecureBroker, user: str, **more: Any) -> EventLog:
    return open_log(f"kafka://{broker.bootstrap}", kafka=settings(broker, user, **more))


@contextmanager
def asking(broker: SecureBroker, user: str) -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """What a principal gets from the admin API."""
    from exchange.log.kafka.clients import Clients

    with closing(Clients([broker.bootstrap], settings(broker, user))) as clients:
        yield clients.ask


def rules() -> list[Any]:
    """What the commands in docs/kafka.md give, as rules of the admin API."""
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

    reader = argparse.ArgumentParser()
    for name in ("--operation", "--topic", "--group"):
        reader.add_argument(name, action="append", default=[])
    reader.add_argument("--allow-principal", required=True)
    reader.add_argument("--resource-pattern-type", default="literal")
    found = []
    for command in re.findall(r"^kafka-acls\.sh .*?[^\\]$", (DOCS / "kafka.md").read_text(), re.DOTALL | re.MULTILINE):
        given, _ = reader.parse_known_args(shlex.split(command))
        pattern = ACLResourcePatternType[given.resource_pattern_type.upper()]
        things = [(ResourceType.TOPIC, name) for name in given.topic]
        things += [(ResourceType.GROUP, name) for name in given.group]
        for operation in given.operation:
            kind = ACLOperation[re.sub("(?<!^)([A-Z])", r"_\1", operation).upper()]
            for thing in things:
                what = ResourcePattern(*thing, pattern)
                found.append(ACL(given.allow_principal, "*", kind, ACLPermissionType.ALLOW, what))
    return found


@pytest.fixture(scope="module")
def prepared(kafka_secure: SecureBroker) -> SecureBroker:
    """The broker with topics and the permissions that the docs give."""
    allowed = rules()
    assert len(allowed) == sum(len(one) for topics in ACCESS.values() for one in topics.values()) + 1
    with opened(kafka_secure, ADMIN, auto_create_topics=True) as log:
        assert len(log.partitions(POLICY.name)) == 1
    with asking(kafka_secure, ADMIN) as ask:
        answer = ask(lambda admin: admin.create_acls(allowed))
        assert (len(answer["succeeded"]), answer["failed"]) == (len(allowed), [])
    return kafka_secure


@pytest.mark.parametrize("producer", ["kafka-python", "confluent"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_the_right_password_gets_in(
    prepared: SecureBroker, mechanism: str, producer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(prepared, "attune-server", mechanism=mechanism, producer=producer) as log:
        require_configured(log)
        (place,) = log.append([LogRecord(POLICY.name, b"k", mechanism.encode())])
        with closing(log.reader({TopicPartition(POLICY.name, 0): place.offset})) as reader:
            assert [stored.value for stored in reader.poll(timeout_s=10.0)] == [mechanism.encode()]
    assert prepared.passwords["attune-server"] not in caplog.text


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_named_and_not_shown(
    prepared: SecureBroker, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "not-the-password"
    with (
        opened(prepared, "attune-server", mechanism=mechanism, password=wrong) as log,
        pytest.raises(LogMisconfigured, match=r"kafka\.password") as refused,
    ):
        require_configured(log)
    assert refused.value.field == "kafka.password"
    shown = f"{refused.value} {refused.value.__cause__!r} {caplog.text}"
    assert "'attune-server'" in shown
    assert wrong not in shown


def test_a_broker_of_another_authority_is_refused(prepared: SecureBroker, tmp_path: Any) -> None:
    from deploy.brokers.certificates import make_certificates

    other = make_certificates(tmp_path, "other")
    with (
        opened(prepared, "attune-server", ca_file=other.ca) as log,
        pytest.raises(LogMisconfigured, match=r"kafka\.ca_file"),
    ):
        require_configured(log)


@pytest.mark.parametrize("made", ["wrong password", "other authority"])
def test_the_other_client_is_refused_too_and_says_why(prepared: SecureBroker, made: str, tmp_path: Any) -> None:
    from deploy.brokers.certificates import make_certificates
    from exchange.log.kafka.clients import Clients
    from exchange.log.kafka.confluent_producer import maker

    wrong = "not-the-password"
    change = {"password": wrong} if made == "wrong password" else {"ca_file": make_certificates(tmp_path, "other").ca}
    with closing(Clients([prepared.bootstrap], settings(prepared, "attune-server", **change))) as clients:
        with pytest.raises(Unavailable, match=r"(?i)authentication|certificate") as refused:
            maker(clients)()
        assert wrong not in str(refused.value)


def test_a_certificate_gets_in_and_none_does_not(prepared: SecureBroker) -> None:
    from exchange.log.kafka.settings import KafkaSettings

    url, own = f"kafka://{prepared.certificate_bootstrap}", prepared.client
    common = {"security_protocol": "SSL", "ca_file": own.ca, "auto_create_topics": False}
    shown = KafkaSettings(**common, cert_file=own.cert, key_file=own.key)
    # Nobody gave its principal anything, so it sees no topic: but it was let in.
    with open_log(url, kafka=shown) as log, pytest.raises(LogMisconfigured, match=r"attune\.policy is not there"):
        require_configured(log)
    with (
        open_log(url, kafka=KafkaSettings(**common)) as log,
        pytest.raises(LogMisconfigured, match=r"kafka\.cert_file"),
    ):
        require_configured(log)


ANSWERS = ("done", "denied")


def outcome(action: Callable[[], Any]) -> str:
    """`done`, or `denied` where the broker says that this principal may not."""
    try:
        action()
    except Unavailable as error:
        return "denied" if "AuthorizationFailedError" in str(error) else str(error)
    return "done"


@pytest.mark.parametrize("role", list(ACCESS))
def test_a_role_may_do_what_the_table_says_and_nothing_more(prepared: SecureBroker, role: Role) -> None:
    user = PRINCIPALS[role]
    with opened(prepared, user) as log, asking(prepared, user) as ask:
        require_configured(log)  # sees all topics and their settings
        for name in TOPICS:
            allowed = ACCESS[role][name]
            place = TopicPartition(name, 0)
            assert log.end_offset(place) >= 0
            assert outcome(lambda name=name: log.append([LogRecord(name, b"k", b"v")])) == (
                "done" if "Write" in allowed else "denied"
            ), name
            assert outcome(lambda place=place: _read(log, place)) == ("done" if "Read" in allowed else "denied"), name
        offsets = {TopicPartition(COMPLETIONS.name, 0): 0}
        until = time.monotonic() + 30
        # The broker makes its topic of groups when it is first asked for one, and has to read it.
        while (noted := outcome(lambda: log.note_offsets(f"{TRAINER_GROUPS}support", offsets))) not in ANSWERS:
            assert time.monotonic() < until, noted
        assert noted == ("done" if role == "trainer" else "denied")
        assert outcome(lambda: ask(lambda admin: admin.delete_topics([FEEDBACK.name]))) == "denied"
        assert outcome(lambda: ask(lambda admin: admin.create_topics({"attune.more": {}}))) == "denied"
        assert outcome(lambda: ask(lambda admin: admin.create_partitions({FEEDBACK.name: 12}))) == "denied"
    with opened(prepared, ADMIN) as log:
        assert len(log.partitions(FEEDBACK.name)) == FEEDBACK.partitions
        assert log.end_offset(TopicPartition(DEAD_LETTER.name, 0)) > 0


def _read(log: EventLog, place: TopicPartition) -> None:
    with closing(log.reader({place: 0})) as reader:
        reader.poll(timeout_s=0.5)
