"""What HTTP knows of a request, carried to the engine seam by a context variable.

Set by the API around one call into the engine's OpenAI layer. Calls without it (probes, warm-up) are not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from schemas.completion import Arm, Consent, Shown


@dataclass(frozen=True)
class RequestContext:
    """The facts of one request that end up in its completion event."""

    completion_id: str
    protocol: str
    policy: str
    version: int
    adapter_digest: str | None
    arm: Arm
    shown: Shown
    tenant: str
    api_key_id: str
    end_user: str | None  # pseudonym
    conversation: str
    consent: Consent
    messages: tuple[dict[str, Any], ...]
    forced_tool: bool = False
    language: str | None = None
    domain: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    comparison_id: str | None = None
    store: bool = False  # the client wants to find it again
    retention: str = "standard"


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
