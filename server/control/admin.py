"""The operators' API: what versions there are, what became of every change, promote, roll back.

Knows HTTP, the journal and the swapper. A change is on the journal before it is answered, and the answer says whether
this replica routes by it already. What the journal refuses is 409 with its reason; with the log away it is 503.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from exchange.journal import JournalLine, PolicyJournal
from schemas.base import Body, new_id, now_ms, parse_version_name, version_name
from schemas.errors import InvalidInput, Refused, Unavailable
from schemas.journal import Reason, VersionPromoted, VersionRejected, VersionRolledBack
from schemas.lifecycle import PolicyState
from schemas.operating import PolicyChanged, PolicyHistory, PolicyList, PolicyView
from server.auth import ApiKey, KeyFile, Scope, require
from server.control.rebuild import plan_rebuild
from server.control.swap import Swapper
from server.openapi import described
from server.request.strict import StrictRoute

log = logging.getLogger(__name__)

PolicyPath = Annotated[str, Path(examples=["support"])]
Generation = Annotated[
    int | None,
    Field(ge=0, strict=True, description="refuse unless the policy is still at this generation; default: no matter"),
]


class Promotion(Body):
    """A version is to become stable."""

    version: str = Field(examples=["support@v3"])
    reason: Reason = Field(default="", description="kept in the journal for ever; no personal data")
    expected_generation: Generation = None


class Rollback(Body):
    """A version is to be taken back."""

    version: str | None = Field(default=None, description="default: the stable one")
    to: str | None = Field(default=None, description="which one serves then; default: the stable one before")
    reason: Reason = Field(default="", description="kept in the journal for ever; no personal data")
    expected_generation: Generation = None


class Administration:
    """Reads and changes the policies that this replica serves."""

    def __init__(self, journal: PolicyJournal, swapper: Swapper, policies: tuple[str, ...], *, wait_s: float) -> None:
        self._journal = journal
        self._swapper = swapper
        self._policies = policies
        self._wait_s = wait_s

    def visible(self, key: ApiKey) -> list[dict[str, Any]]:
        """The state of every policy that the key may use."""
        return [self.state(policy) for policy in self._policies if key.may_use(policy)]

    def checked(self, policy: str, key: ApiKey) -> str:
        """The policy's name. Raises NotFound, as `ApiKey.checked`."""
        return key.checked(policy, self._policies)

    def state(self, policy: str) -> dict[str, Any]:
        """What the journal says of a policy, and what this replica makes of it."""
        state, table = self._journal.state(policy), self._swapper.table(policy)
        return {
            "policy": policy,
            "generation": state.generation,
            "stable": version_name(policy, state.stable),
            "canary": _name(policy, state.canary),
            "canary_share": state.canary_share,
            "lease": state.lease.model_dump(mode="json"),
            "versions": _versions(state),
            "serving": [version_name(policy, number) for number in sorted(table.loaded)],
            "routed": {"stable": version_name(policy, table.stable), "canary": _name(policy, table.canary)},
            "refused": {version_name(policy, number): why for number, why in self._swapper.refused(policy).items()},
        }

    def history(self, policy: str) -> list[dict[str, Any]]:
        """Every entry of the journal and what became of it, oldest first."""
        return [_line(line) for line in self._journal.history(policy)]

    async def promote(self, policy: str, key: ApiKey, body: Promotion) -> dict[str, Any]:
        """Make a version stable. Raises Refused, Unavailable, InvalidInput."""
        entry = VersionPromoted(
            id=new_id("je"),
            at=now_ms(),
            policy=policy,
            actor=_actor(key),
            reason=body.reason,
            expected_generation=body.expected_generation,
            version=_number(policy, body.version, "version"),
        )
        return await self._change(entry)

    async def roll_back(self, policy: str, key: ApiKey, body: Rollback) -> dict[str, Any]:
        """Take a version back. Raises Refused, Unavailable, InvalidInput."""
        expected = body.expected_generation
        if body.version is None:
            state = self._journal.state(policy)
            # What "the stable one" means was decided by this state: whoever was faster must not be rolled back too.
            version, expected = state.stable, state.generation if expected is None else expected
        else:
            version = _number(policy, body.version, "version")
        entry = VersionRolledBack(
            id=new_id("je"),
            at=now_ms(),
            policy=policy,
            actor=_actor(key),
            reason=body.reason,
            expected_generation=expected,
            version=version,
            to=None if body.to is None else _number(policy, body.to, "to"),
        )
        return await self._change(entry)

    async def take_out(self, policy: str, key: ApiKey, versions: Collection[int], reason: str) -> list[dict[str, Any]]:
        """Take versions out of service as `plan_rebuild` says; returns each change and what became of it.

        Raises:
            Unavailable: the journal cannot be reached; changes before that stand.
        """
        await asyncio.to_thread(self._journal.refresh)
        done: list[dict[str, Any]] = []
        for change in plan_rebuild(self._journal.state(policy), versions):
            facts = {"id": new_id("je"), "at": now_ms(), "policy": policy, "actor": _actor(key), "reason": reason}
            entry = (
                VersionRejected.model_validate({**facts, "version": change.version})
                if change.kind == "reject"
                else VersionRolledBack.model_validate({**facts, "version": change.version, "to": change.to})
            )
            told = {"version": version_name(policy, change.version), "change": entry.entry, "to": None, "refused": None}
            try:
                await self._change(entry)
            except Refused as refused:  # someone was faster; the next look sees it
                told["refused"] = refused.message
            done.append(told | {"to": _name(policy, change.to)})
        return done

    async def _change(self, entry: VersionPromoted | VersionRejected | VersionRolledBack) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            await asyncio.to_thread(self._journal.propose, entry)
        except Unavailable as error:
            raise Unavailable(
                f"the event log is away, and a change of versions is never queued for later: {error.message}",
                remedy="Look at the history when the log is back, and ask again if it is not there. Until then a "
                f"request can name a version itself, e.g. {entry.policy}@v0.",
            ) from error
        self._swapper.changed()
        in_effect = await self._swapper.wait_until_followed(entry.policy, self._wait_s)
        seconds = time.perf_counter() - began
        name = version_name(entry.policy, entry.version)
        log.info("%s of %s by %s, in effect: %s after %.3f s", entry.entry, name, entry.actor, in_effect, seconds)
        return {**self.state(entry.policy), "in_effect": in_effect, "seconds": round(seconds, 4)}


def admin_router(administration: Administration, keys: KeyFile) -> APIRouter:
    """The routes under /v1/admin: reading takes the scope read or admin, changing takes admin."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=StrictRoute)
    reader, operator = Depends(require(keys, Scope.READ, Scope.ADMIN)), Depends(require(keys, Scope.ADMIN))
    reads: dict[str, Any] = {"scopes": (Scope.READ, Scope.ADMIN), "refuses": (404,)}
    changes: dict[str, Any] = {
        "answers": {200: PolicyChanged, 202: PolicyChanged},
        "scopes": (Scope.ADMIN,),
        "refuses": (400, 404, 408, 409, 413, 415, 503),
    }

    @router.get(
        "/policies", **described("Every policy: stable, canary, versions", {200: PolicyList}, scopes=reads["scopes"])
    )
    async def policies(key: ApiKey = reader) -> dict[str, Any]:
        return {"policies": administration.visible(key)}

    @router.get("/policies/{policy}", **described("One policy", {200: PolicyView}, **reads))
    async def state(policy: PolicyPath, key: ApiKey = reader) -> dict[str, Any]:
        return administration.state(administration.checked(policy, key))

    @router.get("/policies/{policy}/history", **described("Every journal entry", {200: PolicyHistory}, **reads))
    async def history(policy: PolicyPath, key: ApiKey = reader) -> dict[str, Any]:
        return {"entries": administration.history(administration.checked(policy, key))}

    @router.post("/policies/{policy}/promote", **described("Make a version stable", **changes))
    async def promote(
        policy: PolicyPath, body: Promotion, response: Response, key: ApiKey = operator
    ) -> dict[str, Any]:
        return _status(response, await administration.promote(administration.checked(policy, key), key, body))

    @router.post("/policies/{policy}/rollback", **described("Take a version back", **changes))
    async def rollback(
        policy: PolicyPath, body: Rollback, response: Response, key: ApiKey = operator
    ) -> dict[str, Any]:
        return _status(response, await administration.roll_back(administration.checked(policy, key), key, body))

    return router


def _status(response: Response, answer: dict[str, Any]) -> dict[str, Any]:
    """202 where the journal took the change and this replica does not route by it yet."""
    response.status_code = 200 if answer["in_effect"] else 202
    return answer


def _actor(key: ApiKey) -> str:
    return f"key:{key.id}"


def _name(policy: str, number: int | None) -> str | None:
    return None if number is None else version_name(policy, number)


def _number(policy: str, name: str, field: str) -> int:
    try:
        of, number = parse_version_name(name)
    except InvalidInput as error:
        raise InvalidInput(error.message, field=field, remedy=f"Write {policy}@vN.") from error
    if of != policy:
        raise InvalidInput(f"{name} is not a version of {policy}", field=field, remedy=f"Write {policy}@vN.")
    return number


def _versions(state: PolicyState) -> list[dict[str, Any]]:
    return [
        {
            "version": version_name(state.policy, version.version),
            "number": version.version,
            "stage": version.stage.value,
            "since": version.since,
            "digest": version.digest,
            "parent": _name(state.policy, version.parent),
            "kl_nats_per_sequence": version.kl_nats_per_sequence,
            "reason": version.reason,
        }
        for _, version in sorted(state.versions.items())
    ]


def _line(line: JournalLine) -> dict[str, Any]:
    """One entry, its version numbers as names, with `applied` and the reason of a refusal in `refused`."""
    entry = line.entry.model_dump(mode="json", exclude={"tenant", "policy"})
    for field in ("version", "parent", "to"):
        if entry.get(field) is not None:
            entry[field] = version_name(line.entry.policy, entry[field])
    outcome = line.outcome
    return {
        **entry,
        "offset": line.position.offset,
        "applied": outcome.applied,
        "refused": outcome.reason or None,
        "generation": outcome.generation,
    }
