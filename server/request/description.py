"""What the paths that the gateway answers take and give: a description only, since they are no routes of FastAPI's.

Knows OpenAPI's words for the four protocols and for counting tokens. The engine judges most of a body, so these say
what the server itself reads and what a client can rely on.
"""

from __future__ import annotations

from typing import Any, NoReturn

from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from schemas.answers import ChatCompletion, EngineAnswer, MessageAnswer, ModelResponse, TextCompletion
from schemas.completion import ConsentLevel
from server.auth import Scope
from server.openapi import described, parameter
from server.request.chat_request import ChatBody, CompletionBody, ResponsesBody

HEADERS = (
    parameter("header", "attune-session", str, "groups turns into a conversation"),
    parameter("header", "attune-consent", ConsentLevel, "what may be kept; default: the API key's"),
)
"""Headers that say something of a request for an answer."""


class TokenizeBody(BaseModel):
    """A text or a conversation whose tokens are asked for."""

    model_config = ConfigDict(extra="allow")
    model: str = Field(description="a policy or one version of it")
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None


class DetokenizeBody(BaseModel):
    """Tokens whose text is asked for."""

    model_config = ConfigDict(extra="allow")
    model: str = Field(description="a policy or one version of it")
    tokens: list[int]


class TokenList(EngineAnswer):
    """The tokens of a text."""

    tokens: list[int]
    count: int = Field(ge=0)


class TokenText(EngineAnswer):
    """The text of tokens."""

    prompt: str


class TokenCount(EngineAnswer):
    """How many tokens a conversation has."""

    input_tokens: int = Field(ge=0)


_GENERATE: tuple[tuple[str, str, type[BaseModel], type[BaseModel]], ...] = (
    ("/v1/chat/completions", "Answer a conversation", ChatBody, ChatCompletion),
    ("/v1/completions", "Continue texts", CompletionBody, TextCompletion),
    ("/v1/responses", "Answer, in the shape of OpenAI's responses API", ResponsesBody, ModelResponse),
    ("/v1/messages", "Answer a conversation, in the shape of Anthropic's API", ChatBody, MessageAnswer),
)
_COUNT: tuple[tuple[str, str, type[BaseModel], type[BaseModel]], ...] = (
    ("/v1/messages/count_tokens", "How many tokens a conversation has", ChatBody, TokenCount),
    ("/tokenize", "The tokens of a text or a conversation", TokenizeBody, TokenList),
    ("/detokenize", "The text of tokens", DetokenizeBody, TokenText),
)


def engine_routes() -> list[APIRoute]:
    """Routes to be described and never served."""
    common: dict[str, Any] = {"scopes": (Scope.CHAT,), "refuses": (404, 503)}
    made = [
        (path, described(summary, {200: answer}, body=body, streams=True, parameters=HEADERS, **common), "completions")
        for path, summary, body, answer in _GENERATE
    ]
    made += [
        (path, described(summary, {200: answer}, body=body, **common), "tokens")
        for path, summary, body, answer in _COUNT
    ]
    return [APIRoute(path, _never, methods=["POST"], tags=[tag], **about) for path, about, tag in made]


def _never() -> NoReturn:
    raise AssertionError("these routes are only described")
