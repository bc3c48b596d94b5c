"""What the request path is made of: one frozen container that the composition root fills.

Knows the parts and the few rules that hold for all routes alike; knows no route.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exchange.keys.port import KeyStore
from exchange.log.appender import Appender
from exchange.reading.completions import CompletionIndex
from schemas.errors import NotFound
from server.auth import ApiKey, KeyFile
from server.engine.port import Engine
from server.metrics import ServerMetrics
from server.request.consents import ConsentBook
from server.request.recorder import Recorder
from server.request.routing import RoutingTable
from server.secrets import Secrets

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class RequestPath:
    """Everything that the request path needs. The composition root makes it, and closes what it opened.

    `routing` gives the table of a policy as of now and raises NotFound for one that is not served here.
    """

    auth: KeyFile
    secrets: Secrets
    routing: Callable[[str], RoutingTable]
    policies: tuple[str, ...]
    engine: Engine
    recorder: Recorder
    consents: ConsentBook
    appender: Appender
    keys: KeyStore
    metrics: ServerMetrics
    completions: CompletionIndex
    source: str = "attune/server"
    exploration_share: float = 0.0
    handle_ms: int = 30 * DAY_MS
    max_body_bytes: int = 1_000_000
    allowed_origins: tuple[str, ...] = ()
    thumbs_metrics: tuple[str, ...] = ("thumbs_up",)

    def table(self, key: ApiKey, policy: str) -> RoutingTable:
        """The table of a policy that this key may use; other policies do not exist for it. Raises NotFound."""
        mine = [name for name in self.policies if key.may_use(name)]
        if policy not in mine:
            raise NotFound("no such model for this API key", field="model", remedy=f"Use one of: {', '.join(mine)}.")
        return self.routing(policy)
