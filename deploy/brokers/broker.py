"""One broker process: started, stopped in order, killed, paused, and started again in the same place.

Knows signals and processes; what is configured is `deploy.brokers.node`'s matter.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deploy.brokers.jars import java, kafka_jars, last_words, run
from deploy.brokers.node import CLUSTER_ID, LOGGING, Access, Node, properties
from deploy.brokers.ports import free_ports, require_free
from exchange.closeable import Closeable
from schemas.errors import Unavailable

log = logging.getLogger(__name__)

_START_S = 120.0
_STOP_S = 20.0


class Broker(Closeable):
    """A broker that may be running, paused or down; its port and data stay the same. Stops at the end of a `with`."""

    def __init__(self, node: Node, nodes: Sequence[Node] = (), access: Access = Access(), heap_mb: int = 512) -> None:  # noqa: B008 frozen
        """Nothing is started yet.

        Args:
            nodes: all nodes of the cluster, this one included; default: this one alone.
            heap_mb: MiB, largest heap of the process.
        """
        self.node = node
        self._nodes = tuple(nodes) or (node,)
        self._access = access
        self._heap_mb = heap_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def bootstrap(self) -> str:
        """HOST:PORT, for clients."""
        return self.node.address

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> Path:
        """The file with what the broker printed, over all its starts."""
        return self.node.folder / "broker.log"

    def start(self) -> None:
        """Start, and wait until it takes connections. A folder that was used before is taken up again.

        Raises:
            ConfigError: Java 17 or Maven is missing; the message says what to install.
            Unavailable: Kafka could not be downloaded or did not come up; the message ends with its last words.
        """
        self.launch()
        try:
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start without waiting: a node of a cluster comes up only once most of the others are there."""
        if self.running:
            raise Unavailable(f"the broker at {self.bootstrap} is running already")
        command = java(kafka_jars(), self._heap_mb)
        folder = self.node.folder
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "server.properties"
        configuration.touch(mode=0o600)  # a secure broker's holds passwords
        configuration.write_text(properties(self.node, self._nodes, self._access))
        (folder / "log4j2.xml").write_text(LOGGING)
        command.append(f"-Dlog4j2.configurationFile={(folder / 'log4j2.xml').absolute()}")
        if not (folder / "data" / "meta.properties").exists():
            format_it = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(configuration)]
            run([*command, *format_it, *self._access.format_arguments], "Kafka's storage could not be formatted")
        with self.output.open("ab") as sink:
            # A session of its own: an interrupt at the terminal is for the owner, who stops the broker in order.
            self._process = subprocess.Popen(  # noqa: S603
                [*command, "kafka.Kafka", str(configuration)], stdout=sink, stderr=sink, start_new_session=True
            )
        self._paused = False

    def wait_until_up(self) -> None:
        """Wait until it takes connections, which it does only after the controllers let it in. Raises Unavailable."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if not self.running:
                said = last_words(self.output.read_text(errors="replace"))
                raise Unavailable(f"the Kafka broker ended at once: {said}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.node.port), timeout=1.0):
                return
            time.sleep(0.1)
        raise Unavailable(f"the Kafka broker was not up after {_START_S:.0f} s; see {self.output}")

    def stop(self, within_s: float = _STOP_S) -> None:
        """Stop in order, or kill it where that takes longer than `within_s`. Harmless where it is down."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                log.info("the Kafka broker at %s did not stop within %.0f s and is killed", self.bootstrap, within_s)
                self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL). Harmless where it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stay open and nothing answers. Raises Unavailable where it is down."""
        if self._process is None or not self.running:
            raise Unavailable(f"the broker at {self.bootstrap} is down")
        self._process.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused broker go on. Harmless where it is not paused."""
        if self._process is not None and self._paused:
            self._process.send_signal(signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """Start it again on the same port and data, stopped in order first where it is running. Raises as `start`."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()


def start_broker(data_dir: Path, port: int = 0) -> Broker:
    """Start one broker that keeps its data in `data_dir`, and wait until it answers; port 0 takes a free one.

    A folder that was used before is taken up again. The first start ever downloads Kafka (43 MB) with Maven.

    Raises:
        ConfigError: Java 17 or Maven is missing; the message says what to install.
        Unavailable: Kafka could not be downloaded or did not come up, or the port is taken.
    """
    chosen, controller = (require_free(port), *free_ports(1)) if port else free_ports(2)
    broker = Broker(Node(1, chosen, controller, data_dir))
    broker.start()
    return broker
