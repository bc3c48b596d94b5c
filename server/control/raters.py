"""The operators' say on raters: who is quarantined and why, and quarantining or releasing somebody by hand.

A word of theirs is an event on the log, so every trainer heeds it from its next snapshot on and the trail stays. With
the log away it is refused, never queued. Raters are pseudonyms here; what was said is not in reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, StringConstraints, model_validator

from exchange.log.port import EventLog
from exchange.reading.whole import read_whole
from schemas.base import Body, Id, new_id, now_ms
from schemas.operating import RaterList, RaterView
from schemas.raters import RaterJudged, Standing, Why, standings
from schemas.topics import RATERS
from server import pseudonyms
from server.auth import ApiKey, Scope, require
from server.control.admin import Administration, PolicyPath
from server.openapi import described
from server.request.durable import made_durable_now
from server.request.request_path import RequestPath
from server.request.strict import StrictRoute

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class RaterBody(Body):
    """POST /v1/admin/policies/{policy}/raters: whom it is about, said in exactly one way, and what is decided."""

    rater: Id | None = Field(default=None, description="a pseudonym, or the id of a conversation")
    user: Name | None = Field(default=None, description="as the app of this key's tenant calls the person")
    verdict: Literal["quarantined", "released"]
    why: Why = Field(description="kept on the log for ever; no personal data")

    @model_validator(mode="after")
    def _one(self) -> RaterBody:
        if (self.rater is None) == (self.user is None):
            raise ValueError("name exactly one of rater and user")
        return self


@dataclass(frozen=True)
class Raters:
    """Tells and changes where raters of the key's tenant stand."""

    path: RequestPath
    log: EventLog
    administration: Administration

    async def listed(self, key: ApiKey, policy: str) -> dict[str, Any]:
        """Everybody of the key's tenant of whom anything was said, the quarantined first. Raises Unavailable."""
        events = await self._events(key, policy)
        standing = sorted(
            standings(events).values(), key=lambda one: (not one.quarantined, -one.decisive.at, one.rater)
        )
        return {"raters": [_told(one, events) for one in standing]}

    async def judge(self, key: ApiKey, policy: str, body: RaterBody) -> dict[str, Any]:
        """Quarantine or release somebody, durable before it is answered.

        Raises:
            Unavailable: the log is away; nothing was changed.
        """
        rater = body.rater
        if body.user is not None:
            rater = pseudonyms.end_user(self.path.secrets.pseudonym_key, key.tenant, body.user)
        assert rater is not None, "the body names one"  # noqa: S101
        event = RaterJudged(
            id=new_id("rj"),
            at=now_ms(),
            policy=policy,
            tenant=key.tenant,
            rater=rater,
            verdict=body.verdict,
            why=body.why,
            actor=f"key:{key.id}",
        )
        await made_durable_now(self.path, event, what="this")
        events = await self._events(key, policy)
        return _told(standings(events)[event.of], events)

    async def _events(self, key: ApiKey, policy: str) -> list[RaterJudged]:
        found = await asyncio.to_thread(read_whole, self.log, RATERS.name)
        mine = {
            event.id: event
            for event in found
            if isinstance(event, RaterJudged) and event.tenant == key.tenant and event.policy == policy
        }
        return list(mine.values())


def raters_router(raters: Raters) -> APIRouter:
    """The routes under /v1/admin/policies/{policy}/raters; both take the scope admin."""
    router = APIRouter(prefix="/v1/admin/policies/{policy}/raters", tags=["admin"], route_class=StrictRoute)
    operator = Depends(require(raters.path.auth, Scope.ADMIN))
    scopes, administration = (Scope.ADMIN,), raters.administration
    listing = described("Who is or was quarantined, and why", {200: RaterList}, scopes=scopes, refuses=(404, 503))
    judging = described(
        "Quarantine or release a rater",
        {200: RaterView},
        scopes=scopes,
        refuses=(400, 404, 408, 413, 415, 503),
    )

    @router.get("", **listing)
    async def every(policy: PolicyPath, key: ApiKey = operator) -> dict[str, Any]:
        return await raters.listed(key, administration.checked(policy, key))

    @router.post("", **judging)
    async def judge(policy: PolicyPath, body: RaterBody, key: ApiKey = operator) -> dict[str, Any]:
        return await raters.judge(key, administration.checked(policy, key), body)

    return router


def _told(standing: Standing, events: Sequence[RaterJudged]) -> dict[str, Any]:
    """Where a rater stands, and all that was said of them, oldest first."""
    of = (standing.tenant, standing.rater)
    said = sorted((event for event in events if event.of == of), key=lambda event: (event.at, event.id))
    return {
        "rater": standing.rater,
        "quarantined": standing.quarantined,
        "since": standing.decisive.at,
        "history": [
            {
                "at": event.at,
                "verdict": event.verdict,
                "why": event.why,
                "by": event.actor,
                "evidence": None if event.evidence is None else event.evidence.model_dump(mode="json"),
            }
            for event in said
        ],
    }
