"""GET /v1/guidance/...: what those are told who judge a policy's answers, and the curated prompts it is asked.

What is in force is for whoever may give feedback: an API key, or the bearer of a handle on an answer of the policy, so
that a page for raters can show it. Every published version, prompt sets too, is for keys with the scope read or admin.
Knows the registry, which is read in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from exchange.guidance import find_guidance, newest_guidance, read_guidance
from exchange.registry.port import Registry
from schemas.base import now_ms, parse_version_name, version_name
from schemas.errors import InvalidInput, NotFound
from schemas.guidance import GuidanceNow, GuidanceShown, parse_constitution
from schemas.handles import Keyring, verify_handle
from schemas.manifests import GuidanceKind, GuidanceManifest
from server.auth import KeyFile, Scope
from server.errors import Unauthorized
from server.openapi import described

NEWEST = "newest"
_HANDLE_HEADER = "attune-handle"
_MAX_HANDLE = 8_192
_RATERS = (Scope.FEEDBACK, Scope.CHAT, Scope.READ, Scope.ADMIN)
_OPERATORS = (Scope.READ, Scope.ADMIN)
PolicyPath = Annotated[str, Path(examples=["support"])]
KindPath = Annotated[str, Path(examples=[kind.value for kind in GuidanceKind])]
VersionPath = Annotated[str, Path(examples=[NEWEST, "v2"])]


@dataclass(frozen=True)
class GuidanceDesk:
    """What the routes ask."""

    keys: KeyFile
    keyring: Keyring
    registry: Registry
    policies: Collection[str]

    def checked(self, policy: str, request: Request, *scopes: Scope, handle: bool) -> str:
        """The policy's name, if the asker may ask.

        Raises:
            Unauthorized, Forbidden, HandleRefused: the asker may not ask at all.
            NotFound: there is no such policy for this asker.
        """
        authorization, shown = request.headers.get("authorization"), request.headers.get(_HANDLE_HEADER)
        mine = set(self.policies)
        if handle and shown is not None:  # beside a key too: a proof that proves nothing is never passed over
            mine &= {verify_handle(shown[:_MAX_HANDLE], self.keyring, now=now_ms()).policy}
        elif handle and authorization is None:
            raise Unauthorized("neither an API key nor, as `attune-handle`, the handle of an answer was sent")
        if authorization is not None or not handle:
            key = self.keys.authorize(authorization, *scopes)
            mine = {name for name in mine if key.may_use(name)}
        if policy not in mine:
            raise NotFound("there is no such policy for this asker", field="policy")
        return policy

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


def guidance_router(desk: GuidanceDesk) -> APIRouter:
    """The routes GET /v1/guidance/{policy} and /v1/guidance/{policy}/{kind}/{version}."""
    router = APIRouter(prefix="/v1/guidance", tags=["guidance"])
    now = described(
        "Guidelines and constitution in force for those who judge a policy's answers",
        {200: GuidanceNow},
        scopes=_RATERS,
        or_handle=True,
        refuses=(400, 404, 503),
    )
    one = described(
        "One published version: guidelines, constitution or prompts; `newest` is the one in force",
        {200: GuidanceShown},
        scopes=_OPERATORS,
        refuses=(400, 404, 503),
    )

    @router.get("/{policy}", **now)
    async def in_force(policy: PolicyPath, request: Request) -> dict[str, Any]:
        of = desk.checked(policy, request, *_RATERS, handle=True)
        return (await asyncio.to_thread(desk.in_force, of)).model_dump(mode="json")

    @router.get("/{policy}/{kind}/{version}", **one)
    async def published(policy: PolicyPath, kind: KindPath, version: VersionPath, request: Request) -> dict[str, Any]:
        of = desk.checked(policy, request, *_OPERATORS, handle=False)
        return (await asyncio.to_thread(desk.one, of, kind, version)).model_dump(mode="json")

    return router
