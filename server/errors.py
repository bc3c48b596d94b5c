"""From Attune's errors to HTTP: status, and a body in OpenAI's shape that names the field at fault and the remedy.

Knows which error means which status; knows no route. Bodies never repeat what the client sent, which may be personal.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from schemas.errors import AttuneError, Conflict, HandleRefused, InvalidInput, NotFound, Refused, Unavailable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2


class Unauthorized(AttuneError):
    """No API key came with the request, or none that is known."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            field="authorization",
            remedy="Send the header `Authorization: Bearer ak_...` with a valid API key.",
        )


class Forbidden(AttuneError):
    """The API key, or the handle's bearer, has no right to do this."""


class TooLarge(InvalidInput):
    """The request body is larger than the server takes."""


class WrongMedia(InvalidInput):
    """The request body is of a kind that the server does not read."""


_STATUSES: tuple[tuple[type[AttuneError], int, str], ...] = (
    (Unauthorized, 401, "authentication_error"),
    (Forbidden, 403, "permission_error"),
    (TooLarge, 413, "invalid_request_error"),
    (WrongMedia, 415, "invalid_request_error"),
    (HandleRefused, 403, "permission_error"),
    (InvalidInput, 400, "invalid_request_error"),
    (NotFound, 404, "not_found_error"),
    (Conflict, 409, "conflict_error"),
    (Refused, 409, "conflict_error"),
    (Unavailable, 503, "service_unavailable_error"),
)


def status_of(error: AttuneError) -> int:
    """The HTTP status that an error means; 500 for what is no fault of the request."""
    return _kind(error)[0]


def error_body(error: AttuneError) -> dict[str, object]:
    """OpenAI's error object. What is no fault of the request is said to the log alone."""
    status, kind = _kind(error)
    if status == 500:
        log.error("a request failed: %s", error)
        return {"error": {"message": "the server failed", "type": kind, "param": None, "code": None}}
    code = f"handle_{error.reason}" if isinstance(error, HandleRefused) else _code(error)
    return {"error": {"message": str(error), "type": kind, "param": error.field, "code": code}}


def error_headers(error: AttuneError) -> dict[str, str]:
    """Headers that go with an error."""
    if isinstance(error, Unavailable):
        return {"retry-after": str(RETRY_AFTER_S)}
    return {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}


def error_response(error: AttuneError, more: Mapping[str, object] | None = None) -> JSONResponse:
    """The whole answer to a request that failed by `error`, with `more` at the top level of the body."""
    return JSONResponse(
        {**(more or {}), **error_body(error)}, status_code=status_of(error), headers=error_headers(error)
    )


def invalid_body(error: ValidationError, *, tags: Collection[str] = ()) -> InvalidInput:
    """A pydantic refusal in our own words: each field at fault by name and what is allowed, never its value.

    `tags` are the discriminator's values of a tagged union, which pydantic puts before the field's name.
    """
    return invalid_input(error.errors(include_url=False, include_input=False), tags=tags)


def invalid_input(faults: Sequence[Any], *, tags: Collection[str] = ()) -> InvalidInput:
    """The same of the faults as pydantic lists them, of which the first few are told."""
    said: list[tuple[str, str]] = []
    for fault in faults[:5]:
        parts = [str(part)[:64] for part in fault["loc"]]
        name = ".".join(parts[1:] if parts and parts[0] in tags else parts)
        message = fault["msg"].removeprefix("Value error, ")
        context = fault.get("ctx", {})
        if fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
            name = str(context["discriminator"]).strip("'")
            message = f"must be one of {context['expected_tags'] if 'expected_tags' in context else ', '.join(tags)}"
        elif fault["type"] == "extra_forbidden":
            message = "this field is not known here"
        said.append((name, message))
    return InvalidInput(
        "; ".join(f"{name}: {message}" if name else message for name, message in said), field=said[0][0] or None
    )


def install_errors(app: FastAPI) -> None:
    """Answer every AttuneError raised in a route of `app` in OpenAI's shape."""

    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, AttuneError), "registered for this type alone"  # noqa: S101
        return error_response(error)

    app.add_exception_handler(AttuneError, answer)


def _kind(error: AttuneError) -> tuple[int, str]:
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            malformed = isinstance(error, HandleRefused) and error.reason == "malformed"
            return (400, "invalid_request_error") if malformed else (status, name)
    return 500, "server_error"


def _code(error: AttuneError) -> str:
    if isinstance(error, NotFound) and error.field == "model":
        return "model_not_found"
    if isinstance(error, Unauthorized):
        return "invalid_api_key"
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(error).__name__)
    return words.lstrip("_")
