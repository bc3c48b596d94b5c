"""A real Apache Kafka broker on this machine without Docker: for tests, the demo and trying things out.

Knows Maven, Java and KRaft; knows nothing of Attune's topics. One node, plaintext, loopback only: never production.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.needs import require
from schemas.errors import Unavailable

log = logging.getLogger(__name__)

KAFKA = "org.apache.kafka:kafka_2.13:4.1.0"
_START_S = 60.0
_STOP_S = 20.0
_CLUSTER_ID = "YXR0dW5lLWxvY2FsLWtmaw"  # base64url of 16 bytes, as Kafka wants it; any will do
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>attune</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
  </dependency></dependencies>
</project>
"""
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
default.replication.factor=1
min.insync.replicas=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=33554432
"""
_LOGGING = """<Configuration status="error"><Appenders><Console name="out" target="SYSTEM_OUT">
<PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


@dataclass
class Broker:
    """A running broker. `bootstrap` is HOST:PORT; use it as a context manager, or call `stop`."""

    bootstrap: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Stop the broker in order, or kill it where that takes too long. Harmless when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                log.warning("the Kafka broker did not stop within %.0f s and is killed", _STOP_S)
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_broker(data_dir: Path, port: int = 0) -> Broker:
    """Start a broker that keeps its data in `data_dir`, and wait until it answers; port 0 takes a free one.

    A folder that was used before is taken up again. The first start ever downloads Kafka (43 MB) with Maven.

    Raises:
        ConfigError: Java 17 or Maven is missing; the message says what to install.
        Unavailable: Kafka could not be downloaded or did not come up; the message ends with its last words.
    """
    require("java", "maven")
    classpath = f"{kafka_jars()}/*"
    data_dir.mkdir(parents=True, exist_ok=True)
    with _free_port(port) as chosen, _free_port(0) as controller:
        listens = {"port": chosen, "controller": controller}
    properties = data_dir / "server.properties"
    properties.write_text(_PROPERTIES.format(data=(data_dir / "data").absolute(), **listens))
    logging_config = data_dir / "log4j2.xml"
    logging_config.write_text(_LOGGING)
    # The light collector and compiler: half the processor time until it is up, and no one-node broker needs more.
    java = [str(shutil.which("java")), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath]
    java.append(f"-Dlog4j2.configurationFile={logging_config.absolute()}")
    if not (data_dir / "data" / "meta.properties").exists():
        format_it = [*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
        _run(format_it, "Kafka's storage could not be formatted")
    output = data_dir / "broker.log"
    with output.open("wb") as sink:
        # A session of its own: an interrupt at the terminal is for the owner, who stops the broker in order.
        process = subprocess.Popen(  # noqa: S603
            [*java, "kafka.Kafka", str(properties)], stdout=sink, stderr=sink, start_new_session=True
        )
    broker = Broker(f"127.0.0.1:{chosen}", process)
    try:
        _wait_until_up(broker, chosen, output)
    except BaseException:
        broker.stop()
        raise
    return broker


def kafka_jars() -> Path:
    """The folder with Kafka's jars: `$ATTUNE_CACHE/kafka/VERSION` or `~/.cache/attune/kafka/VERSION`, filled by Maven
    the first time. Raises Unavailable where Maven cannot get them.
    """
    group, artifact, version = KAFKA.split(":")
    cache = Path(os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune") / "kafka"
    jars = cache / version
    if jars.is_dir():
        return jars
    staging = cache / f".staging-{os.getpid()}"
    staging.mkdir(parents=True, exist_ok=True)
    try:
        pom = staging / "pom.xml"
        pom.write_text(_POM.format(group=group, artifact=artifact, version=version))
        target = f"-DoutputDirectory={(staging / 'jars').absolute()}"
        _run(
            [str(shutil.which("mvn")), "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", target],
            f"{KAFKA} could not be downloaded with Maven",
        )
        try:
            (staging / "jars").rename(jars)
        except OSError:
            # Another process was first: its folder is as complete as ours, since only whole ones are renamed there.
            if not jars.is_dir():
                raise
    finally:
        shutil.rmtree(staging)
    return jars


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise Unavailable(f"{failure}: {_last_words(done.stdout)}")


@contextmanager
def _free_port(port: int) -> Iterator[int]:
    """A port that nothing listens on, held until the end of the block so that the next one is another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Unavailable(f"port {port} is taken: {error}") from error
        yield int(probe.getsockname()[1])


def _wait_until_up(broker: Broker, port: int, output: Path) -> None:
    """Wait until the broker accepts connections, which it does only after its controller let it in."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if broker.process.poll() is not None:
            raise Unavailable(f"the Kafka broker ended at once: {_last_words(output.read_text(errors='replace'))}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        except OSError:
            time.sleep(0.1)
    raise Unavailable(f"the Kafka broker was not up after {_START_S:.0f} s; see {output}")


def _last_words(text: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return " | ".join(lines[-5:]) or "it said nothing"
