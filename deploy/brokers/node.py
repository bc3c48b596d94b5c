"""The configuration of a broker in KRaft mode, as text. Pure: starts nothing.

Every node is broker and controller in one. Listens on loopback only; never production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLUSTER_ID = "YXR0dW5lLWxvY2FsLWtmaw"  # base64url of 16 bytes, as Kafka wants it; any will do
LOGGING = """<Configuration status="error"><Appenders><Console name="out" target="SYSTEM_OUT">
<PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


@dataclass(frozen=True)
class Node:
    """One broker's place: its id in the cluster, its two ports on loopback and the folder of its data."""

    id: int
    port: int
    controller_port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Access:
    """How clients reach brokers: the listener's name (PLAINTEXT, SASL_SSL), all further properties that it needs, and
    further arguments for the formatting of the storage. `ports` are further listeners by name.
    """

    protocol: str = "PLAINTEXT"
    properties: Mapping[str, str] | None = None
    format_arguments: tuple[str, ...] = ()
    ports: Mapping[str, int] | None = None


def properties(node: Node, nodes: Sequence[Node], access: Access) -> str:
    """`server.properties` of `node` in a cluster of `nodes`.

    With three nodes or more every topic lies on three, and a write is acknowledged once two have it.
    """
    copies = min(3, len(nodes))
    in_sync = 2 if copies == 3 else 1
    listeners = {access.protocol: node.port, **(access.ports or {})}
    addresses = [f"{name}://127.0.0.1:{port}" for name, port in listeners.items()]
    values = {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(f"{one.id}@127.0.0.1:{one.controller_port}" for one in nodes),
        "listeners": ",".join([*addresses, f"CONTROLLER://127.0.0.1:{node.controller_port}"]),
        "advertised.listeners": ",".join(addresses),
        "inter.broker.listener.name": access.protocol,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": ",".join(["CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in listeners)]),
        "log.dirs": (node.folder / "data").absolute(),
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": 4,  # 50 by default: each is a log that every start of a test broker makes
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 4,
        "auto.create.topics.enable": "false",
        "broker.session.timeout.ms": 6000,  # until a paused broker's part is given to others
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 2**25,
        **(access.properties or {}),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())
