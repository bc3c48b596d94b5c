"""POST /v1/consent: an app says what a person of its tenant allows to be done with their data.

Knows rules and one event; what a level allows is decided elsewhere (`server.request.consents`, the trainer).
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import StringConstraints, TypeAdapter

from schemas.answers import ConsentStored
from schemas.base import Body, PolicyName, new_id, now_ms
from schemas.completion import ConsentLevel
from schemas.errors import NotFound
from schemas.events import ConsentChanged
from server import pseudonyms
from server.auth import Scope
from server.openapi import described
from server.request.bodies import raw_body, valid_body
from server.request.durable import made_durable
from server.request.request_path import RequestPath

_SCOPES = (Scope.FEEDBACK, Scope.CHAT)


class ConsentBody(Body):
    """POST /v1/consent: a user of the key's tenant allows or withdraws the use of their data."""

    user: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    level: ConsentLevel
    policy: PolicyName | None = None


_CONSENT = TypeAdapter(ConsentBody)


def consent_router(deps: RequestPath) -> APIRouter:
    """The route POST /v1/consent."""
    router = APIRouter(tags=["feedback"])
    allowed = described(
        "Change what may be done with a person's data",
        {200: ConsentStored},
        body=ConsentBody,
        scopes=_SCOPES,
        refuses=(404, 503),
    )

    @router.post("/v1/consent", **allowed)
    async def consent(request: Request) -> dict[str, str]:
        return await _consent(deps, request)

    return router


async def _consent(deps: RequestPath, request: Request) -> dict[str, str]:
    key = deps.auth.authorize(request.headers.get("authorization"), *_SCOPES)
    body = valid_body(await raw_body(deps, request), _CONSENT)
    mine = [policy for policy in deps.policies if key.may_use(policy)]
    if body.policy is not None and body.policy not in mine:
        raise NotFound("no such policy for this API key", field="policy", remedy=f"Use one of: {', '.join(mine)}.")
    user = pseudonyms.end_user(deps.secrets.pseudonym_key, key.tenant, body.user)
    events = [
        ConsentChanged(
            id=new_id("cons"),
            at=now_ms(),
            policy=policy,
            tenant=key.tenant,
            end_user=user,
            level=body.level,
            actor=key.id,
        )
        for policy in ([body.policy] if body.policy else mine)
    ]
    kept = await asyncio.gather(*(made_durable(deps, event, remedy="Say it again.") for event in events))
    # Here from now on; the other replicas read it off the log.
    await asyncio.to_thread(deps.consents.note, events)
    return {"level": body.level.value, "status": "stored", "durable": "spool" if "spool" in kept else "log"}
