"""TensorZero's feedback body, from API keys that may speak of a completion by its id instead of a handle.

A metric becomes one of our kinds of feedback, an inference the first choice of a completion, an episode the newest
completion of a conversation. Knows that body and who owns a completion; `server.request.feedback` keeps the word.
Looked at: TensorZero's `endpoints/feedback` and its API reference at commit 7a6159a. Departs from it: metrics are not
configured one by one, so a boolean is a thumb where the settings name its metric, and an outcome else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, StringConstraints, ValidationError

from exchange.reading.completions import CompletionFacts
from schemas.base import Body, Id, Slug, now_ms
from schemas.errors import InvalidInput, NotFound
from schemas.feedback import (
    AnswerTarget,
    CommentBody,
    CorrectionBody,
    FeedbackBody,
    OutcomeBody,
    ThumbsBody,
)
from schemas.handles import HandleClaims
from server import pseudonyms
from server.auth import ApiKey, Scope
from server.errors import Forbidden, Unauthorized, invalid_body
from server.request.request_path import RequestPath
from server.request.stored import completion_id_in

COMMENT, DEMONSTRATION = "comment", "demonstration"
FLUSH_S = 2.0
"""How long a completion of this very replica may take to the log before feedback on it finds none."""
_NO_HANDLE = "-"
"""In the place of a handle: the key's right is the proof."""


class MetricBody(Body):
    """POST /v1/feedback as TensorZero's clients send it."""

    metric_name: Slug
    value: bool | FiniteFloat | str | list[dict[str, Any]]
    inference_id: Id | None = None
    episode_id: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    tags: dict[Annotated[str, StringConstraints(max_length=128)], Annotated[str, StringConstraints(max_length=512)]] = (
        Field(default_factory=dict, max_length=16)
    )
    dryrun: bool | None = None


@dataclass(frozen=True)
class MetricWord:
    """What a metric says, as one of ours: whose and of what, and what was said."""

    claims: HandleClaims
    body: FeedbackBody
    tags: Mapping[str, str]
    dry: bool


def is_metric(raw: Mapping[str, Any]) -> bool:
    """Whether a body is TensorZero's rather than ours."""
    return "metric_name" in raw


async def metric_word(deps: RequestPath, raw: Mapping[str, Any], key: ApiKey | None) -> MetricWord:
    """Read TensorZero's body.

    Raises:
        Unauthorized, Forbidden: there is no key, or it has not the right.
        InvalidInput: the body has not this shape, or the value does not fit the metric.
        NotFound: there is no such completion of this key's tenant.
        Unavailable: the log cannot be read.
    """
    if key is None:
        raise Unauthorized("feedback without a handle needs an API key")
    if not key.may_name_completions or Scope.FEEDBACK not in key.scopes:
        raise Forbidden(
            "this API key may not speak of completions by their id",
            field="inference_id",
            remedy="Send the handle that came with the answer, or ask an operator for a key made with --by-id.",
        )
    try:
        body = MetricBody.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise invalid_body(error) from error
    said = _said(body, deps.thumbs_metrics)
    facts = await _target(deps, body, key)
    choice = facts.choices[0].index if facts.choices else 0
    claims = HandleClaims(
        tenant=facts.tenant,
        api_key_id=facts.api_key_id,
        end_user=facts.end_user,
        conversation=facts.conversation,
        policy=facts.policy,
        target=AnswerTarget(completion_id=facts.completion_id, choice=choice, version=facts.version),
        expires_at=now_ms(),
    )
    return MetricWord(claims, said, body.tags, body.dryrun is True)


def _said(body: MetricBody, thumbs: Collection[str]) -> FeedbackBody:
    name, value = body.metric_name, body.value
    if (body.inference_id is None) == (body.episode_id is None):
        raise InvalidInput("exactly one of inference_id and episode_id must be given", field="inference_id")
    try:
        if name == COMMENT:
            return CommentBody(kind="comment", handle=_NO_HANDLE, comment=_text(name, value))
        if name == DEMONSTRATION:
            if body.inference_id is None:
                raise InvalidInput("a demonstration speaks of an inference", field="inference_id")
            return CorrectionBody(kind="correction", handle=_NO_HANDLE, text=_text(name, value))
        if isinstance(value, bool) and name in thumbs:
            return ThumbsBody(kind="thumbs", handle=_NO_HANDLE, value="up" if value else "down")
        if isinstance(value, bool | float):
            return OutcomeBody(kind="outcome", handle=_NO_HANDLE, name=name, value=value)
    except ValidationError as error:
        raise InvalidInput("the text must have 1 to 20000 characters", field="value") from error
    raise InvalidInput(f"the value of the metric {name} must be true, false or a number", field="value")


def _text(name: str, value: object) -> str:
    """A text, or the text of content blocks; a demonstration of a tool call is no text to imitate."""
    if isinstance(value, str):
        return value
    if name == DEMONSTRATION and isinstance(value, list) and value:
        parts = [block.get("text") if block.get("type") == "text" else None for block in value]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    raise InvalidInput(f"the value of {name} must be a text", field="value")


async def _target(deps: RequestPath, body: MetricBody, key: ApiKey) -> CompletionFacts:
    index = deps.completions
    if body.inference_id is not None:
        field, wanted = "inference_id", _completion_id(body.inference_id)

        def look() -> CompletionFacts:
            return index.find(wanted)
    else:
        field, episode = "episode_id", body.episode_id or ""
        session = pseudonyms.conversation(deps.secrets.pseudonym_key, key.tenant, episode)

        def look() -> CompletionFacts:
            _bring_to_log(deps)  # else an answer before the newest would be taken for it
            return index.latest_of(key.tenant, session)

    try:
        facts = await asyncio.to_thread(_found, deps, look)
    except NotFound as error:
        raise _unknown(field) from error
    if facts.tenant != key.tenant or not key.may_use(facts.policy):
        raise _unknown(field)  # the very words of one that is not there: nobody learns that it is another's
    return facts


def _found(deps: RequestPath, look: Callable[[], CompletionFacts]) -> CompletionFacts:
    """Blocks. An answer may be spoken of before it has come to the log: what is on its way is waited for, once."""
    try:
        return look()
    except NotFound:
        _bring_to_log(deps)
        return look()


def _bring_to_log(deps: RequestPath) -> None:
    """Wait, not for long, until what this replica has answered so far is on the log. Blocks."""
    deps.recorder.flush(FLUSH_S)
    deps.appender.flush(FLUSH_S)


def _completion_id(name: str) -> str:
    try:
        return completion_id_in(name)
    except NotFound as error:
        raise _unknown("inference_id") from error


def _unknown(field: str) -> NotFound:
    return NotFound(
        f"there is no such completion of this API key's tenant: {field}",
        field=field,
        remedy="Send the id of an answer as `inference_id`, or a session as `episode_id`; only the newest are known.",
    )
