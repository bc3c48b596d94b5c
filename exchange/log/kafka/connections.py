"""kafka-python's connections to a cluster, mended in two places.

It tries on when the first connection is refused and says in the end only that none came about. So the manager of
connections here keeps the last refusal. And where a broker hangs up right behind its answer, as it does to wrong
credentials, kafka-python drops the answer: so a connection that ends while it proves itself counts as refused.

Its producer takes the seconds that it is told to wait for a broker as milliseconds; and of a broker that owes as many
answers as it may it is told 0. So while a broker was away it looked without a pause, and its thread left little of the
interpreter to those who serve chats. Here it rests; an answer of the broker ends the rest at once.
"""

from __future__ import annotations

from typing import Any

from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from exchange.log.kafka.refusals import is_refusal

_REST_MS = 100.0


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


class _Connection(KafkaNetClient):  # type: ignore[misc]
    """Lets a producer rest while its broker is not ready."""

    def connection_delay(self, node_id: Any) -> float:
        """Milliseconds until it is worth another look."""
        return max(1000 * float(super().connection_delay(node_id)), _REST_MS)


def connection(**options: Any) -> Any:
    """A connection for kafka-python's clients: their option `kafka_client`."""
    net = NetworkSelector(**options)
    return _Connection(net=net, manager=_Manager(net, **options), **options)


def refusal(client: Any) -> BaseException | None:
    """Why the cluster refuses a connection made by `connection`; None where it is only away."""
    failure: BaseException | None = client._manager.failures.last
    return failure if is_refusal(failure) else None
