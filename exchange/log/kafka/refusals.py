"""What a cluster that refuses a process means, by the setting that is at fault. Never shows a secret."""

from __future__ import annotations

import ssl

from kafka import errors as kafka_errors

from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import LogMisconfigured

REFUSALS = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.AuthorizationError,
)


def is_refusal(error: BaseException | None) -> bool:
    """Whether the cluster answered, and does not want this process as it is."""
    return isinstance(error, REFUSALS) or is_tls_fault(error)


def is_tls_fault(error: BaseException | None) -> bool:
    """Whether encryption did not come about."""
    return _tls_fault(error) is not None


def misconfigured(where: str, settings: KafkaSettings, error: BaseException) -> LogMisconfigured:
    """A refusal in words."""
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return LogMisconfigured(
            f"{where} refuses the credentials of {settings.username!r} ({settings.sasl_mechanism})",
            field="kafka.password",
            remedy="Check kafka.username and kafka.password (or password_file), and that the brokers know them.",
        )
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return LogMisconfigured(
            f"{where} does not take {settings.sasl_mechanism}",
            field="kafka.sasl_mechanism",
            remedy="Set kafka.sasl_mechanism to one that the brokers' listener offers.",
        )
    fault = _tls_fault(error)
    if isinstance(fault, ssl.SSLCertVerificationError):
        return LogMisconfigured(
            f"{where} shows a certificate that is not trusted: {fault}",
            field="kafka.ca_file",
            remedy="Set kafka.ca_file to the authority that signed it, and name the brokers as their certificates do.",
        )
    if fault is not None:
        return LogMisconfigured(
            f"{where} does not speak TLS as the settings have it: {fault}",
            field="kafka.security_protocol",
            remedy="Check kafka.security_protocol, and kafka.cert_file where the brokers demand a certificate.",
        )
    return LogMisconfigured(
        f"{where} does not let {settings.username or 'this process'} (kafka.username) do that: {type(error).__name__}",
        field="kafka.username",
        remedy="docs/kafka.md has the permissions that server and trainer need.",
    )


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """The error of the TLS library behind one of kafka-python's."""
    causes = [] if error is None else [error.__context__, *error.args]
    return next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
