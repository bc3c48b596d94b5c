"""What a generation request asks for, read from its body and headers, and the body that the engine gets instead.

Knows the fields that the server itself must understand, in four protocols; everything else is the engine's to judge.
Knows no key, no route and no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from schemas.base import Slug
from schemas.completion import FULL_DISTRIBUTION, ConsentLevel
from schemas.errors import InvalidInput
from server.errors import invalid_body

PROTOCOLS = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
"""Paths that generate, and how completion events call them."""

REFUSED = {
    "use_beam_search": "beam search keeps no one sampled answer that could be recorded",
    "background": "answers that outlive their request are not supported",
    "previous_response_id": "answers are not kept; send the whole conversation",
    "previous_input_messages": "send the whole conversation as input",
    "prompt_embeds": "a prompt without tokens cannot be recorded",
    "kv_transfer_params": "it steers the engine",
    "ec_transfer_params": "it steers the engine",
    "priority": "all requests are equal here",
}
"""Fields that are refused where they are set, and why."""

MAX_CHOICES = 128
MAX_TAGS = 16
_OURS = ("user", "safety_identifier", "session_id", "request_id")
"""Fields that the engine has no need to see."""
_NOT_TAGS = frozenset({"user", "user_id", "safety_identifier", "session_id", "language", "domain"})

Name = Annotated[str, StringConstraints(max_length=512)]


class MessageBody(BaseModel):
    """One message of a conversation; the rest of it is the engine's to judge."""

    model_config = ConfigDict(extra="allow")
    role: Annotated[str, StringConstraints(min_length=1)]


class MetadataBody(BaseModel):
    """What Attune reads of `metadata`; other short texts are kept with a stored completion."""

    model_config = ConfigDict(extra="allow")
    session_id: Name | None = Field(default=None, description="groups turns into a conversation")
    user_id: Name | None = Field(default=None, description="who is asking, in the messages protocol")
    language: Slug | None = Field(default=None, description="a slice for reports, e.g. de")
    domain: Slug | None = Field(default=None, description="a slice for reports, e.g. billing")


class GenerationBody(BaseModel):
    """Lax like the engine's own models, so that nothing is refused here that it would take."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="a policy, or a pinned version of it", examples=["support", "support@v3"]
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    user: Name | None = Field(default=None, description="who is asking, as the app says; kept as a keyed hash alone")
    safety_identifier: Name | None = Field(default=None, description="the same under OpenAI's newer name")
    session_id: Name | None = Field(default=None, description="groups turns into a conversation")
    metadata: MetadataBody | None = None
    cache_salt: Annotated[str, StringConstraints(max_length=1024)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    store: bool | None = Field(default=None, description="list it under GET /v1/chat/completions")


class ChatBody(GenerationBody):
    """A conversation to be answered. All other parameters of OpenAI's and vLLM's chat API go to the engine."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]


class CompletionBody(GenerationBody):
    """Texts, or token ids, to be continued."""

    prompt: str | list[str] | list[int] | list[list[int]]


class ResponsesBody(GenerationBody):
    """OpenAI's responses API, without what would be kept between requests."""

    input: str | list[Any]


_MODELS: dict[str, type[GenerationBody]] = {
    "chat.completions": ChatBody,
    "completions": CompletionBody,
    "responses": ResponsesBody,
    "messages": ChatBody,
}
_CONSENT = TypeAdapter(ConsentLevel)
_TAGS = TypeAdapter(dict[Slug, Annotated[str, StringConstraints(max_length=512)]])


@dataclass(frozen=True)
class GenerationRequest:
    """One request for an answer. `body` is as sent, with the fields below brought to their types."""

    protocol: str
    body: dict[str, Any]
    model: str
    user: str | None
    session: str | None
    consent: ConsentLevel | None  # None where the request does not say
    choices: int  # how many choices the answer will have, over all prompts
    choices_per_prompt: int
    messages: tuple[dict[str, Any], ...]
    forced_tool: bool
    language: str | None
    domain: str | None
    tags: dict[str, str]
    store: bool = False  # the client wants to find the completion again


def parse_json(raw: bytes) -> dict[str, Any]:
    """A request body as an object of valid Unicode and finite numbers, in which no name comes twice: whoever reads it
    before or after this server might take the other one.

    Raises:
        InvalidInput: it is none.
    """
    try:
        body = json.loads(raw, object_pairs_hook=_no_name_twice)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # also UnicodeError, which is a ValueError
        raise InvalidInput("the body is no valid JSON in UTF-8", field="body") from error
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object", field="body")
    return body


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInput("a name comes twice in one object of the body", field="body")
    return found


def parse_generation(protocol: str, body: dict[str, Any], headers: Mapping[str, str]) -> GenerationRequest:
    """Read what the server must know of a request.

    Raises:
        InvalidInput: a field is missing, of another type or not supported; the message names it.
    """
    for name, why in REFUSED.items():
        if body.get(name):
            raise InvalidInput(f"{name} is not supported: {why}", field=name, remedy="Leave it out.")
    try:
        parsed = _MODELS[protocol].model_validate(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    tidy = {**body, **parsed.model_dump(exclude_unset=True, include=set(GenerationBody.model_fields) - {"metadata"})}
    metadata = parsed.metadata or MetadataBody()
    per_prompt, prompts = parsed.n or 1, 1
    if isinstance(parsed, CompletionBody):
        tidy["prompt"] = parsed.prompt
        prompts = len(parsed.prompt) if _is_batch(parsed.prompt) else 1
    if not 1 <= prompts * per_prompt <= MAX_CHOICES:
        raise InvalidInput(f"a request makes 1 to {MAX_CHOICES} choices, over all prompts", field="prompt")
    user = parsed.user or parsed.safety_identifier or (metadata.user_id if protocol == "messages" else None)
    return GenerationRequest(
        protocol=protocol,
        body=tidy,
        model=parsed.model,
        user=user or None,
        session=parsed.session_id or metadata.session_id or headers.get("attune-session") or None,
        consent=_consent(headers.get("attune-consent")),
        choices=prompts * per_prompt,
        choices_per_prompt=per_prompt,
        messages=_messages(protocol, tidy),
        forced_tool=_forced_tool(body.get("tool_choice")),
        language=metadata.language,
        domain=metadata.domain,
        tags=_tags(metadata),
        store=protocol == "chat.completions" and parsed.store is True,
    )


def engine_body(request: GenerationRequest, *, name: str, cache_salt: str, request_id: str, explore: bool) -> bytes:
    """The body for the engine: the version's own name for `model`, no personal fields, our ids."""
    body = {key: value for key, value in request.body.items() if key not in _OURS}
    body |= {"model": name, "cache_salt": cache_salt}
    if request.protocol == "responses":
        body["request_id"] = f"resp_{request_id}"
    if explore:
        body |= FULL_DISTRIBUTION
        if body.get("temperature") == 0:
            body["temperature"] = 1.0
    return json.dumps(body).encode()


_SHAPING = (
    "logit_bias",
    "bad_words",
    "allowed_token_ids",
    "min_tokens",
    "structured_outputs",
    "thinking_token_budget",
    "vllm_xargs",
)


def can_explore(request: GenerationRequest) -> bool:
    """Whether sampling from the full distribution is possible and does no harm.

    Nothing else in the request may shape the tokens. A seed asks for the same answer again, and tools for calls that
    a program reads: those stay as they were asked for. Temperature 0 alone does not: such apps are what exploration
    is for, and it is the operator who switches it on.
    """
    if request.protocol == "messages" or request.forced_tool or any(request.body.get(name) for name in _SHAPING):
        return False
    if request.body.get("seed") is not None or request.body.get("tools"):
        return False
    text = request.body.get("text")
    formats = (request.body.get("response_format"), text.get("format") if isinstance(text, dict) else None)
    return all(one is None or (isinstance(one, dict) and one.get("type") == "text") for one in formats)


def _is_batch(prompt: str | list[Any]) -> bool:
    return isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))


def _consent(value: str | None) -> ConsentLevel | None:
    if value is None:
        return None
    try:
        return _CONSENT.validate_python(value.strip().lower())
    except ValidationError as error:
        raise InvalidInput("attune-consent must be none, store or train", field="attune-consent") from error


def _tags(metadata: MetadataBody) -> dict[str, str]:
    """The client's own tags that have the form of tags; clients may send others, which stay theirs."""
    tags: dict[str, str] = {}
    for name, value in (metadata.model_extra or {}).items():
        if name in _NOT_TAGS or len(tags) == MAX_TAGS:
            continue
        try:
            tags |= _TAGS.validate_python({name: value})
        except ValidationError:
            continue
    return tags


def _forced_tool(choice: Any) -> bool:
    if isinstance(choice, dict):
        return str(choice.get("type")) not in ("auto", "none")
    return bool(choice == "required")


def _messages(protocol: str, body: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The conversation as sent; what comes without roles gets those it is understood by."""
    if protocol == "completions":
        prompts = body["prompt"] if _is_batch(body["prompt"]) else [body["prompt"]]
        return tuple({"role": "user", "content": prompt} for prompt in prompts)
    if protocol == "responses":
        first = ({"role": "system", "content": body["instructions"]},) if body.get("instructions") else ()
        if isinstance(body["input"], str):
            return (*first, {"role": "user", "content": body["input"]})
        return (*first, *(item for item in body["input"] if isinstance(item, dict)))
    system = ({"role": "system", "content": body["system"]},) if protocol == "messages" and body.get("system") else ()
    return (*system, *body["messages"])
