"""What brokers say to those whom they refuse, in words that name the setting."""

from __future__ import annotations

import ssl

import pytest
from kafka import errors

from exchange.log.kafka.refusals import is_tls_fault, misconfigured
from exchange.log.kafka.settings import KafkaSettings

SETTINGS = KafkaSettings(
    security_protocol="SASL_SSL", sasl_mechanism="PLAIN", username="attune-server", password="hunter2"
)


def handshake(cause: ssl.SSLError) -> Exception:
    """As kafka-python raises it while it handles the library's own."""
    try:
        try:
            raise cause
        except ssl.SSLError as error:
            raise errors.KafkaConnectionError(f"Handshake failed: {error}")  # noqa: B904 as kafka-python does
    except errors.KafkaConnectionError as error:
        return error


@pytest.mark.parametrize(
    ("error", "field", "words"),
    [
        (errors.SaslAuthenticationFailedError("Invalid"), "kafka.password", "credentials of 'attune-server' (PLAIN)"),
        (errors.UnsupportedSaslMechanismError("none"), "kafka.sasl_mechanism", "does not take PLAIN"),
        (
            errors.TopicAuthorizationFailedError("t"),
            "kafka.username",
            "does not let attune-server (kafka.username) do that",
        ),
        (handshake(ssl.SSLCertVerificationError(1, "no")), "kafka.ca_file", "not trusted"),
        (handshake(ssl.SSLError(1, "wrong version")), "kafka.security_protocol", "does not speak TLS"),
        (errors.KafkaConnectionError(ssl.SSLError(1, "required")), "kafka.security_protocol", "kafka.cert_file"),
    ],
)
def test_refusals_name_the_setting_and_not_the_secret(error: Exception, field: str, words: str) -> None:
    found = misconfigured("Kafka at HOST:9092", SETTINGS, error)
    assert found.field == field
    assert field in str(found)
    assert words in str(found)
    assert "hunter2" not in str(found)


def test_a_broker_that_is_away_refuses_nobody() -> None:
    assert not is_tls_fault(errors.KafkaConnectionError("socket disconnected"))
    assert not is_tls_fault(None)
