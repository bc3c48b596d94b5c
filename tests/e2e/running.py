"""A real server process for tests and benchmarks, as `attune serve` starts it, and the command line beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.init import Home, write_home

START_S = 600.0
# vLLM would take a float32 model for a bfloat16 one; the trainer's logprobs are float32.
VLLM_ARGS = {"dtype": "float32", "enforce-eager": True, "max-model-len": 512}
ENVIRONMENT = {"ATTUNE_ENGINE__VLLM_ARGS": json.dumps(VLLM_ARGS), "OMP_NUM_THREADS": "1"}


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


@contextmanager
def run_server(
    folder: Path, model: Path, *, log: str, vllm_args: dict[str, Any] = VLLM_ARGS
) -> Iterator[RunningServer]:
    """A server in `folder` until the context ends, when it must end well. `log` is an event log's URL."""
    environment = ENVIRONMENT | {"ATTUNE_ENGINE__VLLM_ARGS": json.dumps(vllm_args)}
    home = write_home(folder, model=str(model), policy="support", log=log)
    port, output = free_port(), folder / "server.log"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "serve", "-c", str(home.server)],
            env=os.environ | environment | {"ATTUNE_SERVER__PORT": str(port)},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    log_url = f"sqlite:///{folder}/log.db" if log == "sqlite:///log.db" else log
    try:
        _wait_until_ready(url, process, output)
        yield RunningServer(url, home, folder, log_url, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise AssertionError(f"the server ended with {process.returncode}:\n{output.read_text()[-3000:]}")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"the server did not become ready:\n{output.read_text()[-5000:]}")
