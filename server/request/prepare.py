"""From a parsed request, its caller and its route to what the engine, the recorder and the client get to know of it.

Knows pseudonyms, consent, exploration and handles; knows no HTTP and calls no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.base import new_id, now_ms
from schemas.completion import Arm, Consent, ConsentLevel, Shown
from schemas.feedback import AnswerTarget, CandidateRef, Target
from schemas.handles import HandleClaims, issue_handle
from server import pseudonyms
from server.auth import ApiKey
from server.request.chat_request import GenerationRequest, can_explore, engine_body
from server.request.consents import narrowed
from server.request.context import RequestContext
from server.request.recorder import completion_id_of
from server.request.request_path import RequestPath
from server.request.routing import Route, explore


@dataclass(frozen=True)
class Prepared:
    """One request, ready for the engine."""

    route: Route
    completion_id: str
    body: bytes
    context: RequestContext | None  # None where nothing may be recorded
    handles: tuple[str, ...]

    @property
    def request_id(self) -> str:
        """The part of the completion id that the engine's answer id is made from."""
        return self.completion_id.removeprefix("cmpl_")

    def headers(self, *, answered: bool) -> dict[str, str]:
        """What the response says of it in its headers; an error has no handle."""
        said = {
            "attune-policy": self.route.policy,
            "attune-version": self.route.name,
            "attune-completion-id": self.completion_id,
        }
        return {**said, "attune-handle": self.handles[0]} if answered and self.handles else said

    def attune(self) -> dict[str, object]:
        """What the answer's body says of it."""
        return {
            "policy": self.route.policy,
            "version": self.route.name,
            "completion_id": self.completion_id,
            "handles": list(self.handles),
        }


@dataclass(frozen=True)
class Caller:
    """Who asks, under names that say nothing about them."""

    key: ApiKey
    end_user: str | None
    session: str | None  # the conversation's id, where the request named one
    consent: Consent

    @property
    def subject(self) -> str:
        """Whom the traffic split sticks to."""
        return self.end_user or self.session or self.key.id


def caller_of(deps: RequestPath, request: GenerationRequest, key: ApiKey) -> Caller:
    """The pseudonyms and the consent that go with a request."""
    secret = deps.secrets.pseudonym_key
    said = request.consent
    asked = Consent(level=said, source="request") if said else Consent(level=key.default_consent, source="key")
    end_user = pseudonyms.end_user(secret, key.tenant, request.user) if request.user else None
    return Caller(
        key=key,
        end_user=end_user,
        session=pseudonyms.conversation(secret, key.tenant, request.session) if request.session else None,
        consent=narrowed(asked, deps.consents.said_by(end_user)),
    )


def prepare(
    deps: RequestPath,
    request: GenerationRequest,
    caller: Caller,
    chosen: Route,
    *,
    comparison_id: str | None = None,
    conversation: str | None = None,
) -> Prepared:
    """Put together what the engine, the recorder and the client get to know of one request."""
    completion_id = new_id("cmpl")
    recorded = caller.consent.level is not ConsentLevel.NONE
    exploring = (
        chosen.arm in (Arm.STABLE, Arm.CANARY)
        and comparison_id is None
        and caller.consent.level is ConsentLevel.TRAIN
        and explore(completion_id, deps.exploration_share)
        and can_explore(request)
    )
    context = RequestContext(
        completion_id=completion_id,
        protocol=request.protocol,
        policy=chosen.policy,
        version=chosen.version,
        adapter_digest=chosen.digest,
        arm=Arm.EXPLORATION if exploring else chosen.arm,
        shown=Shown.DIRECT if comparison_id is None else Shown.COMPARISON,
        tenant=caller.key.tenant,
        api_key_id=caller.key.id,
        end_user=caller.end_user,
        conversation=conversation or caller.session or completion_id,
        consent=caller.consent,
        messages=request.messages,
        forced_tool=request.forced_tool,
        language=request.language,
        domain=request.domain,
        metadata=request.tags,
        comparison_id=comparison_id,
        store=request.store and comparison_id is None,  # a list that names versions would unblind a comparison
        retention=caller.key.retention,
    )
    handles: tuple[str, ...] = ()
    if recorded and comparison_id is None:
        refs = [_ref(context, index, request.choices_per_prompt) for index in range(request.choices)]
        handles = tuple(handle_for(deps, context, AnswerTarget(**ref.model_dump())) for ref in refs)
    salt = pseudonyms.cache_salt(deps.secrets.pseudonym_key, caller.key.tenant, request.body.get("cache_salt") or "")
    body = engine_body(
        request,
        name=chosen.name,
        cache_salt=salt,
        request_id=completion_id.removeprefix("cmpl_"),
        explore=exploring,
    )
    return Prepared(chosen, completion_id, body, context if recorded else None, handles)


def _ref(context: RequestContext, index: int, per_prompt: int) -> CandidateRef:
    prompt, choice = divmod(index, per_prompt)
    name = completion_id_of(context.completion_id, prompt)
    return CandidateRef(completion_id=name, choice=choice, version=context.version)


def handle_for(deps: RequestPath, context: RequestContext, target: Target, expires_at: int | None = None) -> str:
    """The handle that lets its bearer speak of `target`, until `expires_at` (ms since the epoch; default: settings)."""
    claims = HandleClaims(
        tenant=context.tenant,
        api_key_id=context.api_key_id,
        end_user=context.end_user,
        conversation=context.conversation,
        policy=context.policy,
        target=target,
        expires_at=expires_at or now_ms() + deps.handle_ms,
    )
    return issue_handle(claims, deps.secrets.keyring)
