"""The erasure API: a person's key is destroyed, and whoever asked learns what that reaches and what it does not.

The request is durable before anything is destroyed, so a crash in between is healed at the next start, and trainers
read it from the log. An erasure is named by its id, never by the person: users appear in no URL and in no log line.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field, StringConstraints, model_validator

from exchange.log.port import EventLog
from exchange.privacy.backups import destroy_in_backups
from exchange.privacy.erasures import Erasure, read_erasures
from exchange.reading.influence import Influence, influence
from exchange.registry.port import Registry
from schemas.base import Body, Id, new_id, now_ms, version_name
from schemas.errors import NotFound
from schemas.events import ErasureApplied, ErasureRequested
from schemas.operating import ErasureDone, ErasureList, ErasureStatus
from server import pseudonyms
from server.auth import ApiKey, Scope, require
from server.control.admin import Administration
from server.openapi import described
from server.request.durable import made_durable_now
from server.request.request_path import RequestPath
from server.request.strict import StrictRoute

log = logging.getLogger(__name__)

FLUSH_S = 10.0
HONESTLY = (
    "What lay in files can no longer be read. Adapters that learnt from it were not changed by that: destroying data "
    "does not untrain a model. Take the versions named here out of service with `rebuild`, and what follows is trained "
    "without this person."
)
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ErasureBody(Body):
    """POST /v1/admin/erasures: whom to erase, said in exactly one way."""

    user: Name | None = Field(default=None, description="as the app of this key's tenant calls the person")
    session: Name | None = Field(default=None, description="as that app calls a conversation without a user")
    subject: Id | None = Field(default=None, description="a pseudonym, or the id of a conversation")
    rebuild: bool = Field(
        default=False, strict=True, description="also take the versions that learnt from the person back"
    )

    @model_validator(mode="after")
    def _one(self) -> ErasureBody:
        if sum(name is not None for name in (self.user, self.session, self.subject)) != 1:
            raise ValueError("name exactly one of user, session and subject")
        return self


@dataclass(frozen=True)
class Erasures:
    """Erases people, and tells what became of it.

    `backups` is the folder whose backups are in reach; `work` a folder for temporary copies of snapshots.
    """

    path: RequestPath
    log: EventLog
    registry: Registry
    administration: Administration
    work: Path
    backups: Path | None = None

    async def erase(self, key: ApiKey, body: ErasureBody) -> dict[str, Any]:
        """Erase, and answer as `status` does.

        Raises:
            Unavailable: log, key store or registry cannot be used. Asking again is harmless.
        """
        request = ErasureRequested(
            id=new_id("er"),
            at=now_ms(),
            policy=self.path.policies[0],
            tenant=key.tenant,
            subject=self._subject(key, body),
            actor=f"key:{key.id}",
        )
        await made_durable_now(self.path, request, what="an erasure")
        # What was answered before must be sealed under the key that goes, not under the next one.
        if not await asyncio.to_thread(self.path.recorder.flush, FLUSH_S):
            log.warning("erasure %s did not wait for all completions; trainers destroy what comes late", request.id)
        destroyed = await asyncio.to_thread(self._destroy, request)
        applied = ErasureApplied(
            id=f"{request.id}.keys",
            at=now_ms(),
            policy=request.policy,
            tenant=request.tenant,
            erasure_id=request.id,
            subject=request.subject,
            part="keys",
            counts=destroyed,
            actor=self.path.source,
        )
        await made_durable_now(self.path, applied, what="an erasure")
        log.info("erasure %s by %s: %s", request.id, request.actor, destroyed)
        found = await self._influenced(key, request.subject)
        rebuilt = await self._rebuild(key, request.id, found) if body.rebuild else []
        return {**await self._status(key, request.id, found), "rebuilt": rebuilt}

    async def status(self, key: ApiKey, erasure_id: str) -> dict[str, Any]:
        """What has been done so far, and which versions the person had a part in.

        Raises:
            NotFound: no such erasure of this key's tenant.
            Unavailable: log or registry cannot be reached.
        """
        erasure = await self._find(key, erasure_id)
        return await self._status(key, erasure_id, await self._influenced(key, erasure.request.subject))

    async def listed(self, key: ApiKey) -> dict[str, Any]:
        """All erasures of the key's tenant, oldest first: the audit trail. Raises Unavailable."""
        found = await asyncio.to_thread(read_erasures, self.log)
        return {"erasures": [_told(erasure) for erasure in found if erasure.request.tenant == key.tenant]}

    def _subject(self, key: ApiKey, body: ErasureBody) -> str:
        secret = self.path.secrets.pseudonym_key
        if body.user is not None:
            return pseudonyms.end_user(secret, key.tenant, body.user)
        if body.session is not None:
            return pseudonyms.conversation(secret, key.tenant, body.session)
        assert body.subject is not None, "the body names one"  # noqa: S101
        return body.subject

    def _destroy(self, request: ErasureRequested) -> dict[str, int]:
        counts = {"keys": len(self.path.keys.destroy(request.subject))}
        if self.backups is not None:
            counts["backup_keys"] = destroy_in_backups(self.backups, request.subject, now_ms())
        return counts

    async def _find(self, key: ApiKey, erasure_id: str) -> Erasure:
        for erasure in await asyncio.to_thread(read_erasures, self.log):
            if erasure.request.id == erasure_id and erasure.request.tenant == key.tenant:
                return erasure
        raise NotFound("no such erasure of this API key's tenant", field="erasure")

    async def _influenced(self, key: ApiKey, subject: str) -> list[Influence]:
        mine = [policy for policy in self.path.policies if key.may_use(policy)]
        return [await asyncio.to_thread(influence, self.registry, policy, subject, self.work) for policy in mine]

    async def _status(self, key: ApiKey, erasure_id: str, found: list[Influence]) -> dict[str, Any]:
        erasure = await self._find(key, erasure_id)
        done = {event.policy for event in erasure.applied if event.part == "ledger"}
        return {
            **_told(erasure),
            "waiting_for": [f"trainer of {policy}" for policy in self.path.policies if policy not in done],
            "influenced": [_named(one) for one in found if one.all],
            "note": HONESTLY,
        }

    async def _rebuild(self, key: ApiKey, erasure_id: str, found: list[Influence]) -> list[dict[str, Any]]:
        reason = f"rebuild after erasure {erasure_id}"
        changed: list[dict[str, Any]] = []
        for one in found:
            changed += await self.administration.take_out(one.policy, key, one.all, reason)
        return changed


def erasures_router(erasures: Erasures) -> APIRouter:
    """The routes under /v1/admin/erasures; all take the scope admin."""
    router = APIRouter(prefix="/v1/admin/erasures", tags=["admin"], route_class=StrictRoute)
    operator = Depends(require(erasures.path.auth, Scope.ADMIN))
    scopes = (Scope.ADMIN,)
    making = described(
        "Erase a person, or a conversation without one",
        {200: ErasureDone},
        scopes=scopes,
        refuses=(400, 408, 413, 415, 503),
    )
    listing = described("Every erasure of the key's tenant", {200: ErasureList}, scopes=scopes, refuses=(503,))
    telling = described("What became of one erasure", {200: ErasureStatus}, scopes=scopes, refuses=(404, 503))

    @router.post("", **making)
    async def erase(body: ErasureBody, key: ApiKey = operator) -> dict[str, Any]:
        return await erasures.erase(key, body)

    @router.get("", **listing)
    async def every(key: ApiKey = operator) -> dict[str, Any]:
        return await erasures.listed(key)

    @router.get("/{erasure_id}", **telling)
    async def status(erasure_id: str, key: ApiKey = operator) -> dict[str, Any]:
        return await erasures.status(key, erasure_id)

    return router


def _told(erasure: Erasure) -> dict[str, Any]:
    request = erasure.request
    return {
        "id": request.id,
        "subject": request.subject,
        "requested_at": request.at,
        "by": request.actor,
        "applied": [
            {"part": done.part, "policy": done.policy, "at": done.at, "by": done.actor, "counts": dict(done.counts)}
            for done in erasure.applied
        ],
    }


def _named(one: Influence) -> dict[str, Any]:
    groups = {"direct": one.direct, "inherited": one.inherited, "unknown": one.unknown}
    return {"policy": one.policy} | {
        group: [version_name(one.policy, version) for version in versions] for group, versions in groups.items()
    }
