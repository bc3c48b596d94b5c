"""A server that is killed and started again in the same folder and on the same port, with vLLM or without a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from deploy.init import Home, write_home
from tests.e2e.running import ENVIRONMENT, free_port
from tests.faults.parents import Here, Nursery, Parent
from tests.faults.victims import Victim, until

START_S = 400.0
WORD_S = 0.005
"""Pace of the engine without a model, in seconds a word."""


def server_nursery() -> Nursery:
    """A parent for servers without a model."""
    opened = ("exchange.log.sqlite", "exchange.keys.sqlite", "exchange.registry.files", "exchange.log.kafka")
    return Nursery("tests.faults.memory_server", *opened)


@dataclass
class Server:
    """One replica's folder, address and keys, and the process that serves there now, if any.

    Args:
        model: a model folder to serve with vLLM; None: the engine without a model.
        settings: environment that overrides the configuration.
        parent: whoever starts the process; a server on vLLM needs `Here`.
    """

    folder: Path
    log: str = "sqlite:///log.db"
    model: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    parent: Parent = field(default_factory=Here)
    home: Home = field(init=False)
    port: int = field(init=False)
    lives: int = field(default=0, init=False)
    peak_mb: float = field(default=0.0, init=False)
    _process: Victim | None = field(default=None, init=False)
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.home = write_home(self.folder, model=str(self.model or "none"), policy="support", log=self.log)
        self.port = free_port()
        self._http = httpx.Client(base_url=self.url, timeout=20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_url(self) -> str:
        return f"sqlite:///{self.folder / 'log.db'}" if self.log == "sqlite:///log.db" else self.log

    @property
    def registry_url(self) -> str:
        return f"file://{self.folder / 'registry'}"

    @property
    def process(self) -> Victim:
        assert self._process is not None, "not started"
        return self._process

    def app(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.app_key}"}

    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.admin_key}"}

    def start(self) -> None:
        """Start it, and do not wait."""
        words = ["tests.faults.memory_server", str(self.home.server), str(WORD_S)]
        if self.model is not None:
            words = ["deploy.cli", "serve", "-c", str(self.home.server)]
        environment = {**ENVIRONMENT, "ATTUNE_SERVER__PORT": str(self.port), **self.settings}
        self._process = Victim("server", words[0], words[1:], self.folder / "server.log", environment, self.parent)
        self.lives += 1

    def until_ready(self) -> None:
        """Wait until it may take traffic; AssertionError with its last words where it ends instead."""

        def ready() -> bool:
            assert not self.process.ended, f"the server ended by itself:\n{self.process.tail()}"
            return self.unready() is None

        until(ready, f"the server is ready:\n{self.process.tail()}", START_S)

    def unready(self) -> str | None:
        """Why readyz says no, or that nobody answers."""
        try:
            answer = self._http.get("/readyz")
        except httpx.TransportError as error:
            return type(error).__name__
        return None if answer.status_code == 200 else str(answer.json().get("status"))

    def kill(self, leave_s: float = 0.0) -> int:
        """`kill -9`. Returns how many processes it left that did not end by themselves within `leave_s` seconds."""
        left = self.process.kill(leave_s)
        self.peak_mb = max(self.peak_mb, self.process.peak_mb())
        return left

    def stop(self) -> None:
        """In order; what waits in memory reaches the log."""
        if self._process is not None:
            code = self.process.stop()
            self.peak_mb = max(self.peak_mb, self.process.peak_mb())
            assert code == 0, f"the server ended with {code}:\n{self.process.tail()}"

    def policy(self) -> dict[str, Any]:
        """What the admin API says of the policy."""
        found: dict[str, Any] = self._http.get("/v1/admin/policies/support", headers=self.admin()).json()
        return found

    def metrics(self) -> str:
        """The text of /metrics; empty where nobody answers."""
        with suppress(httpx.TransportError):
            return self._http.get("/metrics").text
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        if self._process is not None:
            with self._process:
                pass
