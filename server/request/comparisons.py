"""POST /v1/comparisons: several answers to one request, blinded and in random order, under one handle.

Knows how candidates are chosen and shown. Blinded means that nothing in the response depends on which version made
which candidate: no name, no id, no header, no order; and a handle is encrypted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from schemas.answers import ComparisonAnswer
from schemas.base import new_id, now_ms
from schemas.completion import COLLECTED
from schemas.errors import AttuneError, InvalidInput, Unavailable
from schemas.events import AnswerDisplayed
from schemas.feedback import MAX_CANDIDATES, CandidateRef, ComparisonTarget
from schemas.wire import encode_event
from server.asgi import Captured, ClientGone, Replay, never, read_body, until_gone
from server.auth import Scope
from server.errors import error_response, invalid_body
from server.openapi import described
from server.request.chat_request import ChatBody, GenerationRequest, parse_generation, parse_json
from server.request.context import RequestContext
from server.request.description import HEADERS
from server.request.gateway import CHAT_PATH, ask_engine
from server.request.prepare import Prepared, caller_of, handle_for, prepare
from server.request.request_path import RequestPath
from server.request.routing import Route, RoutingTable, named_route, route, split_model

log = logging.getLogger(__name__)


class Asked(BaseModel):
    """What a comparison asks for beyond a chat."""

    model_config = ConfigDict(extra="ignore")
    k: Annotated[int, Field(ge=2, le=MAX_CANDIDATES)] | None = Field(
        default=None, description="how many candidates; default 2"
    )
    versions: Annotated[list[str], Field(min_length=2, max_length=MAX_CANDIDATES)] | None = Field(
        default=None, description="which versions make them, e.g. support@v3; default: stable and canary in turn"
    )


class ComparisonRequest(Asked, ChatBody):
    """A chat to be answered by several candidates, as it is described; it is read in two parts."""


@dataclass(frozen=True)
class _Candidate:
    prepared: Prepared
    status: int
    body: bytes

    def shown(self, index: int) -> dict[str, Any]:
        message = json.loads(self.body)["choices"][0]["message"]
        tools = {"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {}
        return {"index": index, "content": message.get("content") or "", **tools}

    def ref(self) -> CandidateRef:
        made = self.prepared
        return CandidateRef(completion_id=made.completion_id, choice=0, version=made.route.version)


def choose_candidates(
    table: RoutingTable, pinned: int | None, versions: list[str] | None, k: int | None, *, subject: str, split_salt: str
) -> list[Route]:
    """Which versions make the candidates: those named, else stable and canary in turn while there is a canary, else
    `k` samples (default 2) of the version that serves `subject`.

    Raises:
        InvalidInput: `versions` does not fit `k`, or names another policy.
        NotFound: a version is not loaded here.
    """
    if versions is not None:
        if k not in (None, len(versions)):
            raise InvalidInput(
                f"k is {k} and versions names {len(versions)}", field="k", remedy="Leave k out, or name k versions."
            )
        return [named_route(table, _number(table, name)) for name in versions]
    count = k or 2
    canary = table.canary if table.canary in table.loaded else None
    if pinned is None and canary is not None and table.stable in table.loaded:
        both = (named_route(table, table.stable), named_route(table, canary))
        return [both[index % 2] for index in range(count)]
    return [route(table, pinned, subject=subject, split_salt=split_salt)] * count


def _number(table: RoutingTable, name: str) -> int:
    policy, number = split_model(name)
    if policy != table.policy or number is None:
        raise InvalidInput(
            f"versions must be versions of {table.policy}", field="versions", remedy=f"Write e.g. {table.policy}@v1."
        )
    return number


def comparisons_router(deps: RequestPath, order: random.Random | None = None) -> APIRouter:
    """The route POST /v1/comparisons. `order` shuffles the candidates; the default cannot be foreseen."""
    router = APIRouter(tags=["comparisons"])
    shuffler = order or random.SystemRandom()

    about = described(
        "Several answers to one chat, blinded and in random order, under one handle",
        {200: ComparisonAnswer},
        body=ComparisonRequest,
        scopes=(Scope.CHAT,),
        refuses=(404, 503),
        parameters=HEADERS,
    )

    @router.post("/v1/comparisons", **about)
    async def compare(request: Request) -> Response:
        return await _compare(deps, request, shuffler)

    return router


async def _compare(deps: RequestPath, request: Request, shuffler: random.Random) -> Response:
    key = deps.auth.authorize(request.headers.get("authorization"), Scope.CHAT)
    body = parse_json(await read_body(request.scope, request.receive, deps.max_body_bytes))
    try:
        asked = Asked.model_validate(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    chat = {name: value for name, value in body.items() if name not in ("k", "versions", "stream_options")}
    parsed = parse_generation("chat.completions", chat, request.headers)
    if chat.pop("stream", None):
        raise InvalidInput("a comparison cannot be streamed", field="stream", remedy="Leave stream out.")
    if parsed.choices != 1:
        raise InvalidInput("n must be 1; k says how many candidates there are", field="n")
    caller = caller_of(deps, parsed, key)
    policy, pinned = split_model(parsed.model)
    table = deps.table(key, policy)
    chosen = choose_candidates(
        table, pinned, asked.versions, asked.k, subject=caller.subject, split_salt=deps.secrets.split_salt
    )
    if parsed.body.get("temperature") == 0 and len({one.version for one in chosen}) == 1:
        raise InvalidInput(
            "at temperature 0 all candidates of one version are the same", field="temperature", remedy="Raise it."
        )
    shuffler.shuffle(chosen)
    comparison_id = new_id("cmp")
    conversation = caller.session or comparison_id
    with ExitStack() as held:
        for one in chosen:  # from now on, before any await: none of them may be unloaded
            held.enter_context(deps.engine.hold(one.name))
        made = [
            prepare(deps, _seeded(parsed, index), caller, one, comparison_id=comparison_id, conversation=conversation)
            for index, one in enumerate(chosen)
        ]
        candidates = await _answers(deps, request, made)
    for candidate in candidates:
        outcome = "ok" if candidate.status < 400 else "refused" if candidate.status < 500 else "error"
        deps.metrics.request(policy, "comparison", outcome)
    failed = next((candidate for candidate in candidates if candidate.status >= 400), None)
    return _shown(deps, comparison_id, candidates) if failed is None else _blinded_failure(failed)


def _seeded(parsed: GenerationRequest, index: int) -> GenerationRequest:
    """With a seed, each candidate gets its own: else all of one version would be the same."""
    seed = parsed.body.get("seed")
    return parsed if seed is None else replace(parsed, body={**parsed.body, "seed": (seed + index) % 2**63})


async def _answers(deps: RequestPath, request: Request, made: list[Prepared]) -> list[_Candidate]:
    """All candidates at once, in the given order. Raises ClientGone, and cancels them, if the client leaves."""

    async def answer(prepared: Prepared) -> _Candidate:
        captured = Captured()
        await ask_engine(deps, prepared, request.scope, CHAT_PATH, Replay(prepared.body, never), captured)
        return _Candidate(prepared, captured.status, bytes(captured.body))

    tasks = [asyncio.create_task(answer(prepared)) for prepared in made]
    together = asyncio.gather(*tasks)
    watch = asyncio.create_task(until_gone(request.receive))
    try:
        first: list[asyncio.Future[Any]] = [together, watch]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not together.done():
            deps.metrics.request(made[0].route.policy, "comparison", "aborted")
            raise ClientGone
        return together.result()
    finally:
        for task in (watch, *tasks):
            task.cancel()
        await asyncio.gather(watch, *tasks, return_exceptions=True)


def _shown(deps: RequestPath, comparison_id: str, candidates: list[_Candidate]) -> Response:
    """The blinded answer, and the event that it was shown. Where nothing may be recorded there is no handle."""
    expires_at = now_ms() + deps.handle_ms
    handle = None
    context = candidates[0].prepared.context
    if context is not None:
        target = ComparisonTarget(comparison_id=comparison_id, candidates=tuple(one.ref() for one in candidates))
        handle = handle_for(deps, context, target, expires_at)
        if context.domain != COLLECTED:  # what is collected comes before no one's eyes
            _tell_shown(deps, context, target)
    body = {
        "id": comparison_id,
        "object": "comparison",
        "handle": handle,
        "expires_at": expires_at if handle else None,
        "candidates": [candidate.shown(index) for index, candidate in enumerate(candidates)],
    }
    return JSONResponse(body, headers={"cache-control": "no-store"})


def _tell_shown(deps: RequestPath, context: RequestContext, target: ComparisonTarget) -> None:
    event = AnswerDisplayed(
        id=new_id("disp"),
        at=now_ms(),
        policy=context.policy,
        tenant=context.tenant,
        conversation=context.conversation,
        end_user=context.end_user,
        surface="comparison",
        comparison_id=target.comparison_id,
        candidates=target.candidates,
    )
    try:
        deps.appender.submit(encode_event(event, source=deps.source))
    except AttuneError as error:  # the person still gets the answers
        log.error("that comparison %s was shown is not recorded: %s", target.comparison_id, error)


def _blinded_failure(candidate: _Candidate) -> Response:
    """The engine's refusal without the version's name; what is its own fault is not said at all."""
    if candidate.status >= 500:
        raise Unavailable("the model could not answer", remedy="Try again in a moment.")
    try:
        error = json.loads(candidate.body)["error"]
        message, field = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, field = "the model refused the request", None
    route_used = candidate.prepared.route
    said = InvalidInput(message.replace(route_used.name, route_used.policy), field=field if field else None)
    return error_response(said)
