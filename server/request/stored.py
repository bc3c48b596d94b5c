"""GET /v1/chat/completions: the completions that their clients asked to store, in OpenAI's shape.

For keys with the scope `read`, of the key's own tenant and policies. The content is unsealed for the answer alone; of
an erased person there is nothing left to unseal, so it is not there. Log and key store are read in threads, few at a
time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from exchange.reading.completions import StoredCompletion
from schemas.answers import StoredCompletion as StoredBody
from schemas.answers import StoredCompletions
from schemas.base import Body, Slug
from schemas.completion import CompletionContent, CompletionRecorded
from schemas.errors import InvalidInput, NotFound, SealBroken, Unavailable
from schemas.sealed import unseal
from server.auth import ApiKey, Scope
from server.errors import invalid_body
from server.openapi import described, parameter
from server.request.request_path import RequestPath
from server.request.routing import split_model

AT_ONCE = 2
WAITING = 32
"""Askers beyond those that are answered right now; more are turned away."""
MAX_PAGE = 100
_METADATA = re.compile(r"metadata\[([^\[\]]{1,64})\]")
_ID = re.compile(r"(?:chatcmpl-|cmpl_)([A-Za-z0-9._-]{1,120})")


class ListQuery(Body):
    """What a list is asked for by."""

    model: str | None = Field(default=None, max_length=128)
    after: str | None = Field(default=None, max_length=160)
    limit: int = Field(default=20, ge=1, le=MAX_PAGE)
    order: Literal["asc", "desc"] = "asc"
    metadata: dict[Slug, str] = Field(default_factory=dict, max_length=16)


_PATH = "/v1/chat/completions"
_PARAMETERS: tuple[tuple[str, Any, str, dict[str, Any]], ...] = (
    ("limit", Annotated[int, Field(ge=1, le=MAX_PAGE)], "how many; default 20", {}),
    ("order", Literal["asc", "desc"], "by time; default asc", {}),
    ("after", Annotated[str, Field(max_length=160)], "id of the last one of the page before", {}),
    ("model", Annotated[str, Field(max_length=128)], "a policy, or one version of it", {}),
    (
        "metadata",
        dict[Slug, str],
        "metadata[KEY]=VALUE: of the request; several must all match",
        {"style": "deepObject", "explode": True},
    ),
)


def completion_id_in(name: str) -> str:
    """Our id of a completion, named by it or by the id that its answer had. Raises NotFound where it is neither."""
    match = _ID.fullmatch(name)
    if match is None:
        raise _unknown()
    return f"cmpl_{match[1]}"


def stored_router(deps: RequestPath) -> APIRouter:
    """The routes GET /v1/chat/completions and /v1/chat/completions/{completion_id}."""
    router = APIRouter(tags=["completions"])
    asked: dict[str, Any] = {"scopes": (Scope.READ,)}
    shelf = _Shelf(deps, asyncio.Semaphore(AT_ONCE))

    query = [parameter("query", name, kind, about, **more) for name, kind, about, more in _PARAMETERS]
    page = described("Stored completions", {200: StoredCompletions}, **asked, refuses=(400, 503), parameters=query)

    @router.get(_PATH, **page)
    async def stored(request: Request) -> Response:
        key = deps.auth.authorize(request.headers.get("authorization"), Scope.READ)
        query = _query(request.query_params)
        return await shelf.answer(lambda: shelf.page(key, query))

    @router.get(
        f"{_PATH}/{{completion_id}}", **described("One of them", {200: StoredBody}, **asked, refuses=(404, 503))
    )
    async def one(completion_id: str, request: Request) -> Response:
        key = deps.auth.authorize(request.headers.get("authorization"), Scope.READ)
        return await shelf.answer(lambda: shelf.one(key, completion_id))

    return router


@dataclass
class _Shelf:
    """The rules behind the routes. Its `page` and `one` block."""

    deps: RequestPath
    turn: asyncio.Semaphore
    asking: int = 0

    async def answer(self, made: Callable[[], dict[str, Any]]) -> Response:
        if self.asking >= AT_ONCE + WAITING:
            raise Unavailable("too many ask for stored completions", remedy="Try again in a moment.")
        self.asking += 1
        try:
            async with self.turn:
                body = await asyncio.to_thread(made)
        finally:
            self.asking -= 1
        return JSONResponse(body, headers={"cache-control": "no-store"})

    def page(self, key: ApiKey, query: ListQuery) -> dict[str, Any]:
        mine = self._mine(key)
        if query.order == "desc":
            mine.reverse()
        if query.after is not None:
            mine = mine[_place(mine, query.after) + 1 :]
        matching = (event for one in mine if (event := one.event()) is not None and _matches(event, query))
        found = list(islice(self._opened(matching), query.limit + 1))
        data = found[: query.limit]
        return {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(found) > query.limit,
        }

    def one(self, key: ApiKey, name: str) -> dict[str, Any]:
        wanted = completion_id_in(name)
        events = (one.event() for one in self._mine(key) if one.completion_id == wanted)
        found = next(self._opened(event for event in events if event is not None), None)
        if found is None:
            raise _unknown()
        return found

    def _mine(self, key: ApiKey) -> list[StoredCompletion]:
        return [one for one in self.deps.completions.stored(key.tenant) if key.may_use(one.policy)]

    def _opened(self, events: Iterator[CompletionRecorded]) -> Iterator[dict[str, Any]]:
        for event in events:
            key = self.deps.keys.lookup(event.content.key_id)
            if key is None:
                continue  # erased
            try:
                plain = unseal(event.content, key=key.secret, event_id=event.id)
                yield _shown(event, CompletionContent.model_validate_json(plain))
            except (SealBroken, ValidationError):
                continue


def _place(of: list[StoredCompletion], name: str) -> int:
    try:
        wanted = completion_id_in(name)
        return next(place for place, one in enumerate(of) if one.completion_id == wanted)
    except (NotFound, StopIteration) as error:
        raise InvalidInput("after names no stored completion", field="after", remedy="Begin without it.") from error


def _unknown() -> NotFound:
    return NotFound(
        "there is no such stored completion",
        field="completion_id",
        remedy="Only the newest that were asked for with `store: true` are kept here.",
    )


def _query(parameters: QueryParams) -> ListQuery:
    named: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, value in parameters.multi_items():
        if match := _METADATA.fullmatch(name):
            metadata[match[1]] = value
        elif name in named:
            raise InvalidInput(f"{name[:64]} is given twice", field=name[:64])
        else:
            named[name[:64]] = value
    try:
        return ListQuery.model_validate({**named, **({"metadata": metadata} if metadata else {})})
    except ValidationError as error:
        raise invalid_body(error) from error


def _matches(event: CompletionRecorded, query: ListQuery) -> bool:
    if query.model is not None:
        policy, version = split_model(query.model)
        if event.policy != policy or (version is not None and event.version != version):
            return False
    tags = _tags(event)
    return all(tags.get(name) == value for name, value in query.metadata.items())


def _tags(event: CompletionRecorded) -> Mapping[str, str]:
    """The client's metadata, as far as it was kept: never what named a person or a session."""
    own = {"language": event.language, "domain": event.domain}
    return {**event.metadata, **{name: value for name, value in own.items() if value is not None}}


def _shown(event: CompletionRecorded, content: CompletionContent) -> dict[str, Any]:
    texts = {choice.index: choice.text for choice in content.choices}
    sampled = sum(choice.token_count for choice in event.choices)
    name = f"{event.policy}@v{event.version}"
    return {
        "id": f"chatcmpl-{event.completion_id.removeprefix('cmpl_')}",
        "object": "chat.completion",
        "created": event.started_at // 1000,
        "model": name,
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": texts.get(choice.index, ""), "refusal": None},
                "finish_reason": "length" if choice.finish_reason == "length" else "stop",
                "logprobs": None,
            }
            for choice in event.choices
        ],
        "usage": {
            "prompt_tokens": event.prompt_token_count,
            "completion_tokens": sampled,
            "total_tokens": event.prompt_token_count + sampled,
        },
        "metadata": dict(_tags(event)),
        "attune": {"policy": event.policy, "version": name, "completion_id": event.completion_id},
    }
