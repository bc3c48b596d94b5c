"""The models that clients may name: the policies their API key may use, never versions' files or paths."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from schemas.answers import ModelCard, ModelList
from schemas.errors import NotFound
from server.auth import ApiKey, KeyFile, Scope, require
from server.openapi import described

_SCOPES = (Scope.CHAT, Scope.READ, Scope.ADMIN)


def models_router(keys: KeyFile, policies: tuple[str, ...], created_s: int) -> APIRouter:
    """GET /v1/models and /v1/models/{model}. `created_s`: seconds since the epoch, as OpenAI's clients expect one."""
    router = APIRouter(prefix="/v1/models", tags=["models"])
    caller = Depends(require(keys, *_SCOPES))

    def card(policy: str) -> dict[str, Any]:
        return {"id": policy, "object": "model", "created": created_s, "owned_by": "attune"}

    @router.get("", **described("The policies that this key may use", {200: ModelList}, scopes=_SCOPES))
    async def models(key: ApiKey = caller) -> dict[str, Any]:
        return {"object": "list", "data": [card(policy) for policy in policies if key.may_use(policy)]}

    @router.get("/{model}", **described("One of them", {200: ModelCard}, scopes=_SCOPES, refuses=(404,)))
    async def model(model: str, key: ApiKey = caller) -> dict[str, Any]:
        if model not in policies or not key.may_use(model):
            mine = ", ".join(policy for policy in policies if key.may_use(policy))
            raise NotFound("no such model for this API key", field="model", remedy=f"Use one of: {mine}.")
        return card(model)

    return router
