"""GET /v1/admin/policies/{policy}/versions/{version}[/card]: where a version came from, in one answer.

Joins what the registry holds of a version with what the journal says of it. Knows HTTP; the registry is read in a
thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from exchange.journal import PolicyJournal
from exchange.reading.explain import card_facts, explain_version
from exchange.registry.port import Registry
from schemas.base import parse_version_name, version_name
from schemas.errors import InvalidInput, NotFound
from schemas.lifecycle import VersionState
from schemas.operating import VersionCard, VersionOrigin
from server.auth import ApiKey, KeyFile, Scope, require
from server.control.admin import Administration, PolicyPath
from server.openapi import described

VersionPath = Annotated[str, Path(examples=["v3", "support@v3"])]


def explanations_router(
    administration: Administration, journal: PolicyJournal, registry: Registry, keys: KeyFile
) -> APIRouter:
    """The route, for keys with the scope read or admin."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])
    scopes = (Scope.READ, Scope.ADMIN)
    reader = Depends(require(keys, *scopes))
    about = described(
        "Where a version came from and what it changed",
        {200: VersionOrigin},
        scopes=scopes,
        refuses=(400, 404, 503),
    )

    @router.get("/policies/{policy}/versions/{version}", **about)
    async def explain(policy: PolicyPath, version: VersionPath, key: ApiKey = reader) -> dict[str, Any]:
        return await explained(journal, registry, administration.checked(policy, key), version)

    card = described(
        "What a version's model card is written from",
        {200: VersionCard},
        scopes=scopes,
        refuses=(400, 404, 503),
    )

    @router.get("/policies/{policy}/versions/{version}/card", **card)
    async def facts(policy: PolicyPath, version: VersionPath, key: ApiKey = reader) -> dict[str, Any]:
        """404 where nothing was published: the base, and what a gate rejected, have no card."""
        checked = administration.checked(policy, key)
        number, known = _known(journal, checked, version)
        found = await asyncio.to_thread(card_facts, registry, checked, number)
        return {**_standing(checked, number, known), "facts": found.model_dump(mode="json")}

    return router


async def explained(journal: PolicyJournal, registry: Registry, policy: str, version: str) -> dict[str, Any]:
    """What journal and registry say of a version (`v3` or `POLICY@v3`); `made` is None where nothing was published.

    Raises:
        InvalidInput: `version` is of no such form, or another policy's.
        NotFound: the journal knows no such version.
        Unavailable: the registry cannot be reached.
    """
    number, known = _known(journal, policy, version)
    try:
        made = (await asyncio.to_thread(explain_version, registry, policy, number)).model_dump(mode="json")
    except NotFound:
        made = None
    return {**_standing(policy, number, known), "made": made}


def _known(journal: PolicyJournal, policy: str, version: str) -> tuple[int, VersionState]:
    """The number of a version and what the journal says of it. Raises as `explained` does."""
    of, number = parse_version_name(version if "@" in version else f"{policy}@{version}")
    if of != policy:
        raise InvalidInput("this is not a version of the policy", field="version", remedy=f"Write {policy}@vN.")
    state = journal.state(policy)
    known = state.versions.get(number)
    if known is None:
        last = version_name(policy, max(state.versions))
        raise NotFound("there is no such version", field="version", remedy=f"The newest is {last}.")
    return number, known


def _standing(policy: str, number: int, known: VersionState) -> dict[str, Any]:
    return {
        "version": version_name(policy, number),
        "stage": known.stage.value,
        "since": known.since,
        "reason": known.reason,
    }
