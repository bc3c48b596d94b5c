"""Tells the log what this replica really serves, which may lag behind what the journal says it should.

Knows one event; where it goes is the sink's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schemas.base import new_id, now_ms
from schemas.events import ReplicaReported
from schemas.lifecycle import PolicyState
from server.request.routing import RoutingTable


class ReplicaReports:
    """Reports of one replica. `sink` takes each and must not block.

    The topic is compacted by replica id, and an event speaks of one policy: so the id is `REPLICA/POLICY`.
    """

    def __init__(self, replica_id: str, sink: Callable[[ReplicaReported], None]) -> None:
        self._replica_id = replica_id
        self._sink = sink
        self._last: dict[str, dict[str, Any]] = {}

    def tell(self, state: PolicyState, table: RoutingTable, refused: Mapping[int, str]) -> None:
        """Report what is served of one policy, unless the last report said the same."""
        report = ReplicaReported(
            id=new_id("rep"),
            at=now_ms(),
            policy=state.policy,
            tenant="operator",
            replica_id=f"{self._replica_id}/{state.policy}",
            generation=state.generation,
            stable=table.stable,
            canary=table.canary,
            loaded=dict(table.loaded),
            refused=dict(refused),
        )
        said = report.model_dump(exclude={"id", "at"})
        if self._last.get(state.policy) != said:
            self._last[state.policy] = said
            self._sink(report)

    def forget(self) -> None:
        """Report again even if nothing changed: a replica that says nothing may be dead."""
        self._last.clear()
