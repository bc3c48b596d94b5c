"""The feedback API: what people say of answers, and that answers were shown.

A handle proves that its bearer was shown the answer, so a browser needs no API key. An answer here means that the
event is durable: on the log, or with the log away in this replica's spool, and `durable` says which. Knows rules and
events; knows nothing of how a word will be counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import StringConstraints, TypeAdapter

from exchange.log.line import Durable
from schemas.answers import MetricStored, Stored
from schemas.base import Body, new_id, now_ms
from schemas.completion import ConsentLevel
from schemas.errors import AttuneError, HandleRefused, InvalidInput, Unavailable
from schemas.event import Event
from schemas.events import AnswerDisplayed
from schemas.feedback import (
    AnswerTarget,
    CandidateRef,
    Comparison,
    ComparisonTarget,
    FeedbackBody,
    FeedbackContent,
    FeedbackReceived,
    FeedbackSource,
    Ranking,
    Signal,
    Target,
    content_of,
    signal_of,
)
from schemas.handles import HandleClaims, verify_handle
from schemas.sealed import Sealed, seal
from server import pseudonyms
from server.auth import ApiKey, Scope
from server.errors import Forbidden
from server.openapi import described
from server.request.bodies import raw_body, valid_body
from server.request.durable import made_durable
from server.request.idempotency import Remembered
from server.request.request_path import RequestPath
from server.request.tensorzero import MetricBody, is_metric, metric_word

KINDS = ("thumbs", "rating", "comparison", "ranking", "correction", "comment", "outcome", "retraction")
_SCOPES = (Scope.FEEDBACK, Scope.CHAT)
_OF_ANSWERS = frozenset({"thumbs", "rating", "correction"})
_OF_COMPARISONS = frozenset({"comparison", "ranking"})


class DisplayedBody(Body):
    """POST /v1/displayed: the answer, or the candidates, came before a person's eyes."""

    handle: Annotated[str, StringConstraints(min_length=1, max_length=8_192)]


_FEEDBACK: TypeAdapter[FeedbackBody] = TypeAdapter(FeedbackBody)
_DISPLAYED = TypeAdapter(DisplayedBody)


def feedback_router(deps: RequestPath) -> APIRouter:
    """The routes POST /v1/feedback and /v1/displayed."""
    router = APIRouter(tags=["feedback"])
    desk = _Desk(deps)
    said = described(
        "Say something of an answer or a comparison; with TensorZero's body, of a completion by its id",
        {200: Stored | MetricStored},
        body=FeedbackBody | MetricBody,
        scopes=_SCOPES,
        or_nothing=True,
        refuses=(404, 409, 503),
    )
    shown = described(
        "Say that the answer, or the candidates, came before a person's eyes",
        {200: Stored},
        body=DisplayedBody,
        scopes=_SCOPES,
        or_nothing=True,
        refuses=(503,),
    )

    @router.post("/v1/feedback", **said)
    async def feedback(request: Request) -> dict[str, str]:
        return await desk.feedback(request)

    @router.post("/v1/displayed", **shown)
    async def displayed(request: Request) -> dict[str, str]:
        return await desk.displayed(request)

    return router


def check_signal(signal: Signal, target: Target) -> None:
    """Whether a signal can speak of a target.

    Raises:
        InvalidInput: it speaks of answers and the handle is a comparison's, the other way round, or it names
            candidates that are not there.
    """
    if isinstance(target, AnswerTarget) and signal.kind in _OF_COMPARISONS:
        raise InvalidInput(
            f"{signal.kind} needs the handle of a comparison, and this is an answer's",
            field="kind",
            remedy="POST /v1/comparisons makes comparisons; an answer takes thumbs, rating or correction.",
        )
    if not isinstance(target, ComparisonTarget):
        return
    if signal.kind in _OF_ANSWERS:
        raise InvalidInput(
            f"{signal.kind} needs the handle of one answer, and this is a comparison's",
            field="kind",
            remedy="A comparison takes comparison or ranking.",
        )
    last = len(target.candidates) - 1
    if isinstance(signal, Comparison) and signal.winner is not None and signal.winner > last:
        raise InvalidInput(f"there is no candidate {signal.winner}: winner is 0 to {last}", field="winner")
    if isinstance(signal, Ranking) and sum(map(len, signal.order)) != last + 1:
        raise InvalidInput(f"order must name each of the candidates 0 to {last}", field="order")


class _Desk:
    """The rules behind the routes."""

    def __init__(self, deps: RequestPath) -> None:
        self._deps = deps
        self._remembered = Remembered()

    async def feedback(self, request: Request) -> dict[str, str]:
        policy, kind, outcome = "-", "-", "refused"
        try:
            key = self._key(request)
            raw = await raw_body(self._deps, request)
            if is_metric(raw):
                word = await metric_word(self._deps, raw, key)
                policy, kind = word.claims.policy, word.body.kind
                self._check_consent(word.claims)
                item_id, digest = self._id_of(word.claims, word.body)
                told = {"feedback_id": item_id, "id": item_id}
                if word.dry:
                    outcome = "dry_run"
                    return told | {"status": outcome}
                durable = await self._keep(word.claims, word.body, key, item_id, digest, word.tags)
                outcome = "stored"
                return told | {"status": outcome, "durable": durable}
            body = valid_body(raw, _FEEDBACK, tags=KINDS)
            kind = body.kind
            claims = self._claims(body.handle, key)
            policy = claims.policy
            self._check_consent(claims)
            check_signal(signal_of(body), claims.target)
            self._check_source(body.source, key)
            item_id, digest = self._id_of(claims, body)
            before = self._remembered.begin(item_id, digest)
            durable = before or await self._keep(claims, body, key, item_id, digest)
            outcome = "repeated" if before else "stored"
            return {"id": item_id, "status": "stored", "durable": durable}
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            self._deps.metrics.feedback(policy, kind, outcome)

    async def displayed(self, request: Request) -> dict[str, str]:
        key = self._key(request)
        body = valid_body(await raw_body(self._deps, request), _DISPLAYED)
        claims = self._claims(body.handle, key)
        target = claims.target
        refs = target.candidates if isinstance(target, ComparisonTarget) else (target,)
        shown = tuple(CandidateRef(completion_id=r.completion_id, choice=r.choice, version=r.version) for r in refs)
        comparison = target.comparison_id if isinstance(target, ComparisonTarget) else None
        self._check_consent(claims)
        of = comparison or f"{shown[0].completion_id}/{shown[0].choice}"
        event = AnswerDisplayed(
            id=pseudonyms.derived_id(self._deps.secrets.pseudonym_key, "disp", claims.tenant, of),
            at=now_ms(),
            policy=claims.policy,
            tenant=claims.tenant,
            conversation=claims.conversation,
            end_user=claims.end_user,
            surface="comparison" if comparison else "chat",
            comparison_id=comparison,
            candidates=shown,
        )
        return {"id": event.id, "status": "stored", "durable": await self._append(event)}

    def _key(self, request: Request) -> ApiKey | None:
        """The caller's key, where one was sent. Without one, the handle is the only proof."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        return self._deps.auth.authorize(authorization, *_SCOPES)

    def _claims(self, handle: str, key: ApiKey | None) -> HandleClaims:
        claims = verify_handle(handle, self._deps.secrets.keyring, now=now_ms())
        if key is not None and key.tenant != claims.tenant:
            raise HandleRefused("foreign", "this handle belongs to another tenant than the API key")
        if key is not None and not key.may_use(claims.policy):
            raise HandleRefused("foreign", "this handle speaks of a policy that the API key may not use")
        return claims

    def _check_consent(self, claims: HandleClaims) -> None:
        """Handles outlive a change of mind, so the person's last word is asked for here too."""
        if self._deps.consents.said_by(claims.end_user) is ConsentLevel.NONE:
            raise Forbidden(
                "this person lets nothing of theirs be kept",
                field="handle",
                remedy="If they allow it again, say so first with POST /v1/consent.",
            )

    def _check_source(self, source: FeedbackSource, key: ApiKey | None) -> None:
        if source is FeedbackSource.USER:
            return
        if key is None or not key.may_claim_sources or Scope.FEEDBACK not in key.scopes:
            raise Forbidden(
                f"only an API key that may claim sources can send feedback as {source.value}",
                field="source",
                remedy="Leave source out, or ask an operator for such a key.",
            )

    def _id_of(self, claims: HandleClaims, body: FeedbackBody) -> tuple[str, str]:
        """The id of this piece of feedback, and a digest of what it says and of what."""
        said = body.model_dump(mode="json", exclude={"handle"})
        said["target"] = claims.target.model_dump(mode="json")
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        if body.idempotency_key is None:
            return new_id("fb"), digest
        secret = self._deps.secrets.pseudonym_key
        return (
            pseudonyms.derived_id(secret, "fb", claims.tenant, claims.conversation, body.idempotency_key),
            digest,
        )

    def _idempotency(self, claims: HandleClaims, chosen: str | None) -> str | None:
        """A client's key as it rests on the log: apps make them of mail addresses too, so only a keyed hash does."""
        if chosen is None:
            return None
        return pseudonyms.derived_id(self._deps.secrets.pseudonym_key, "idem", claims.tenant, chosen)

    async def _keep(
        self,
        claims: HandleClaims,
        body: FeedbackBody,
        key: ApiKey | None,
        item_id: str,
        digest: str,
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> Durable:
        try:
            event = FeedbackReceived(
                id=item_id,
                at=now_ms(),
                policy=claims.policy,
                tenant=claims.tenant,
                conversation=claims.conversation,
                end_user=claims.end_user,
                api_key_id=key.id if key else None,
                target=claims.target,
                signal=signal_of(body),
                aspects=body.aspects,
                reasons=body.reasons,
                source=body.source,
                labeller=body.labeller,
                idempotency_key=self._idempotency(claims, body.idempotency_key),
                supersedes=body.supersedes,
                content=await self._sealed(claims, body, item_id, tags),
            )
            durable = await self._append(event)
        except AttuneError:
            self._remembered.failed(item_id)
            raise
        if body.idempotency_key is not None:
            self._remembered.stored(item_id, digest, durable)
        else:
            self._remembered.failed(item_id)  # nobody can name it again
        return durable

    async def _sealed(
        self, claims: HandleClaims, body: FeedbackBody, item_id: str, tags: Mapping[str, str]
    ) -> Sealed | None:
        content = content_of(body)
        if tags:
            content = (content or FeedbackContent()).model_copy(update={"tags": dict(tags)})
        if content is None:
            return None
        subject = claims.end_user or claims.conversation
        key = await asyncio.to_thread(self._deps.keys.key_for, subject)
        return seal(
            content.model_dump_json().encode(), key=key.secret, key_id=key.key_id, subject=subject, event_id=item_id
        )

    async def _append(self, event: Event) -> Durable:
        return await made_durable(self._deps, event, remedy="Send it again with the same idempotency_key.")
