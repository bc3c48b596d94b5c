"""GET /v1/guidance/...: what those are told who judge a policy's answers, and the curated prompts it is asked.

What is in force is for every API key of the policy, so that an app can show it to its raters; every published version,
prompt sets too, is for keys with the scope read or admin. Knows the registry, which is read in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from exchange.guidance import find_guidance, newest_guidance, read_guidance
from exchange.registry.port import Registry
from schemas.base import parse_version_name, version_name
from schemas.errors import InvalidInput, NotFound
from schemas.guidance import GuidanceNow, GuidanceShown, parse_constitution
from schemas.manifests import GuidanceKind, GuidanceManifest
from server.auth import ApiKey, KeyFile, Scope, require
from server.openapi import described

NEWEST = "newest"
_RATERS = (Scope.FEEDBACK, Scope.CHAT, Scope.READ, Scope.ADMIN)
_OPERATORS = (Scope.READ, Scope.ADMIN)
PolicyPath = Annotated[str, Path(examples=["support"])]
KindPath = Annotated[str, Path(examples=[kind.value for kind in GuidanceKind])]
VersionPath = Annotated[str, Path(examples=[NEWEST, "v2"])]


@dataclass(frozen=True)
class GuidanceDesk:
    """What the routes ask."""

    registry: Registry
    policies: Collection[str]

    def in_force(self, policy: str) -> GuidanceNow:
        """Blocks. Raises IntegrityError, Unavailable."""
        guidelines, constitution, prompts = (newest_guidance(self.registry, kind, policy) for kind in GuidanceKind)
        return GuidanceNow(
            policy=policy,
            guidelines=None if guidelines is None else self._shown(guidelines),
            constitution=None if constitution is None else self._shown(constitution),
            prompts=None if prompts is None else version_name(policy, prompts.version),
        )

    def one(self, policy: str, kind: str, version: str) -> GuidanceShown:
        """Blocks. Raises InvalidInput, NotFound, IntegrityError, Unavailable."""
        try:
            of = GuidanceKind(kind)
        except ValueError as error:
            raise NotFound(
                "there is no such kind of guidance", field="kind", remedy=f"Kinds are: {', '.join(GuidanceKind)}."
            ) from error
        return self._shown(find_guidance(self.registry, of, policy, _number(policy, version)))

    def _shown(self, manifest: GuidanceManifest) -> GuidanceShown:
        text = read_guidance(self.registry, manifest)
        principles = parse_constitution(text).principles if manifest.kind is GuidanceKind.CONSTITUTION else None
        return GuidanceShown(
            kind=manifest.kind,
            version=version_name(manifest.policy, manifest.version),
            digest=manifest.digest,
            created_at=manifest.created_at,
            note=manifest.note,
            text=text,
            principles=None if principles is None else list(principles),
        )


def _number(policy: str, version: str) -> int | None:
    """The number in `v2` or `POLICY@v2`; None for the newest. Raises InvalidInput."""
    if version == NEWEST:
        return None
    of, number = parse_version_name(version if "@" in version else f"{policy}@{version}")
    if of != policy:
        raise InvalidInput("this is not a version of the policy", field="version", remedy=f"Write {policy}@vN.")
    return number


def guidance_router(desk: GuidanceDesk, keys: KeyFile) -> APIRouter:
    """The routes GET /v1/guidance/{policy} and /v1/guidance/{policy}/{kind}/{version}."""
    router = APIRouter(prefix="/v1/guidance", tags=["guidance"])
    rater, operator = Depends(require(keys, *_RATERS)), Depends(require(keys, *_OPERATORS))
    now = described(
        "Guidelines and constitution in force for those who judge a policy's answers",
        {200: GuidanceNow},
        scopes=_RATERS,
        refuses=(404, 503),
    )
    one = described(
        "One published version: guidelines, constitution or prompts; `newest` is the one in force",
        {200: GuidanceShown},
        scopes=_OPERATORS,
        refuses=(400, 404, 503),
    )

    @router.get("/{policy}", **now)
    async def in_force(policy: PolicyPath, key: ApiKey = rater) -> dict[str, Any]:
        of = key.checked(policy, desk.policies)
        return (await asyncio.to_thread(desk.in_force, of)).model_dump(mode="json")

    @router.get("/{policy}/{kind}/{version}", **one)
    async def published(
        policy: PolicyPath, kind: KindPath, version: VersionPath, key: ApiKey = operator
    ) -> dict[str, Any]:
        of = key.checked(policy, desk.policies)
        return (await asyncio.to_thread(desk.one, of, kind, version)).model_dump(mode="json")

    return router
