"""Which routes of vLLM's app are left, and what they may do.

Knows vLLM's OpenAI app. vLLM also serves routes that steer the engine, read files by path or bypass its own API keys;
so routes are kept by an allow-list, and whatever a later vLLM adds is dropped until it is named here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from fastapi import FastAPI
from vllm.exceptions import VLLMValidationError

ALLOWED_ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    }
)
"""vLLM's routes that stay: the protocols that generate (all pass the seam), and tokenisation."""


def harden(app: FastAPI) -> None:
    """Drop every route outside ALLOWED_ROUTES, and refuse beam search."""
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in ALLOWED_ROUTES]
    for serving in (app.state.openai_serving_chat, app.state.openai_serving_completion):
        serving.beam_search = _no_beam_search


def _no_beam_search(*_: Any, **__: Any) -> AsyncGenerator[NoReturn, None]:
    """Beam search calls the engine once per beam and token: there is no one sampled answer to record or to learn
    from.
    """
    raise VLLMValidationError("Beam search is not supported by this server", parameter="use_beam_search")
