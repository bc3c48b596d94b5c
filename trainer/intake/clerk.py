"""Finishes erasures as the ledger meets them: no key outlives the rows it sealed, and the log is told what was done.

The server destroys the key when it is asked. Here falls what came late: a completion that another replica sealed under
a new key of the person, or a crash between the request and the destruction. Knows keys and the erasures topic.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog
from schemas.base import now_ms
from schemas.event import Event
from schemas.events import ErasureApplied, ErasureRequested
from schemas.wire import encode_event
from trainer.intake.batch import Buried

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ErasureClerk:
    """Called inside the ledger's transaction: what fails here is done again with the same batch.

    A crash between the telling and the commit tells twice, under the same id.
    """

    log: EventLog
    keys: KeyStore
    policy: str
    holder: str

    def __call__(self, events: Sequence[Event], buried: Mapping[str, Buried]) -> None:
        """Take note of a batch and of the tombstones it made, by subject.

        Raises:
            Unavailable: the key store or the log cannot be used.
        """
        for subject, found in buried.items():
            if any(self.keys.lookup(key_id) for key_id in found.key_ids):
                destroyed = self.keys.destroy(subject)
                log.warning("%d keys of an erased person had outlived the erasure and are destroyed", len(destroyed))
        requests = [event for event in events if isinstance(event, ErasureRequested)]
        if requests:
            told = [self._applied(request, buried.get(request.subject)) for request in requests]
            self.log.append([encode_event(event, source="attune/trainer") for event in told])

    def _applied(self, request: ErasureRequested, found: Buried | None) -> ErasureApplied:
        return ErasureApplied(
            id=f"{request.id}.{self.policy}",
            at=now_ms(),
            policy=self.policy,
            tenant=request.tenant,
            erasure_id=request.id,
            subject=request.subject,
            part="ledger",
            counts={"rows": 0 if found is None else found.rows},
            actor=self.holder,
        )
