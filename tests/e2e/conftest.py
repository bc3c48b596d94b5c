"""One real server process, as `attune serve` starts it, on a tiny random model and a real Kafka broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy.init import Home, write_home
from deploy.kafka import Broker
from tests.fixtures_kafka import kafka_broker

__all__ = ["kafka_broker"]
START_S = 240.0


@dataclass(frozen=True)
class RunningServer:
    """A server, its configuration and its keys."""

    url: str
    home: Home
    folder: Path
    log_url: str
    process: subprocess.Popen[bytes]

    def app(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.app_key}"}

    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.admin_key}"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def attune(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def attune_server(
    tiny_model: Path, kafka_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("home")
    log_url = f"kafka://{kafka_broker.bootstrap}"
    home = write_home(folder, model=str(tiny_model), policy="support", log=log_url)
    port = free_port()
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "serve", "-c", str(home.server)],
        env=os.environ | {"ATTUNE_SERVER__PORT": str(port), "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, folder / "server.log")
        yield RunningServer(url, home, folder, log_url, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
    assert process.returncode == 0, (folder / "server.log").read_text()[-3000:]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"the server did not become ready:\n{log.read_text()[-5000:]}")
