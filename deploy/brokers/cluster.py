"""A cluster of brokers on this machine, each a process that can be killed, paused and started again alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.brokers.broker import Broker
from deploy.brokers.node import Node
from deploy.brokers.ports import free_ports
from exchange.closeable import Closeable

HEAP_MB = 256
_STOP_S = 5.0


class Cluster(Closeable):
    """Brokers that are controllers as well: of three, any one may be away. Stops them all at the end of a `with`."""

    def __init__(self, brokers: tuple[Broker, ...]) -> None:
        self.brokers = brokers

    @property
    def bootstrap(self) -> str:
        """HOST:PORT,HOST:PORT,... for clients."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def stop(self) -> None:
        """Stop all at once. The last one would wait for a majority that is gone, and is killed: nothing is lost."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(lambda broker: broker.stop(_STOP_S), self.brokers))

    def close(self) -> None:
        self.stop()


def start_cluster(folder: Path, size: int = 3) -> Cluster:
    """Start `size` brokers with their data in folders of `folder`, and wait until all answer.

    Topics are kept three times by default, and acks=all is given once two brokers have a record.

    Raises:
        ConfigError: Java 17 or Maven is missing; the message says what to install.
        Unavailable: Kafka could not be downloaded or did not come up.
    """
    ports = free_ports(2 * size)
    nodes = [Node(number + 1, ports[number], ports[size + number], folder / str(number + 1)) for number in range(size)]
    cluster = Cluster(tuple(Broker(node, nodes, heap_mb=HEAP_MB) for node in nodes))
    try:
        with ThreadPoolExecutor(size) as pool:
            list(pool.map(Broker.launch, cluster.brokers))
        for broker in cluster.brokers:
            broker.wait_until_up()
    except BaseException:
        cluster.stop()
        raise
    return cluster
