"""What a cluster that refuses a process means, by the setting that is at fault. Never shows a secret.

kafka-python tries on when the first connection is refused and says in the end only that none came about. So the
manager of connections here keeps the last refusal. And where a broker hangs up right behind its answer, as it does to
wrong credentials, kafka-python drops the answer: so a connection that ends while it proves itself counts as refused.
"""

from __future__ import annotations

import ssl
from typing import Any

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import LogMisconfigured

REFUSALS = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.AuthorizationError,
)


class Failures:
    """Why connections fail: the last refusal, until one is let in, else the last failure."""

    last: BaseException | None = None

    def note(self, error: BaseException | None, *, proving: bool) -> None:
        """A connection ended its start with `error`, or none; `proving` if it was showing its credentials then."""
        if proving and isinstance(error, kafka_errors.KafkaConnectionError):
            error = kafka_errors.SaslAuthenticationFailedError("the broker hung up")
        # The try after a refusal may run out of time: that tells less, and must not hide it.
        if error is None or is_refusal(error) or not is_refusal(self.last):
            self.last = error


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Tells `failures` of each connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.failures = Failures()
        super().__init__(*args, **options)

    async def _connect(self, node: Any, conn: Any, *args: Any, **options: Any) -> None:
        prove, proving = conn._sasl_authenticate, False

        async def noted(*proof: Any, **more: Any) -> None:
            nonlocal proving
            proving = True
            await prove(*proof, **more)
            proving = False

        conn._sasl_authenticate = noted
        conn.init_future.add_both(lambda _: self.failures.note(conn.init_future.exception, proving=proving))
        await super()._connect(node, conn, *args, **options)


def connection(**options: Any) -> Any:
    """A kafka-python connection that remembers its failures: its clients' option `kafka_client`."""
    net = NetworkSelector(**options)
    return KafkaNetClient(net=net, manager=_Manager(net, **options), **options)


def refusal(client: Any) -> BaseException | None:
    """Why the cluster refuses a connection made by `connection`; None where it is only away."""
    failure: BaseException | None = client._manager.failures.last
    return failure if is_refusal(failure) else None


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
