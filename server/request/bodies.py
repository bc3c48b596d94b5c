"""JSON bodies of the request path: read within bounds, and held to their models. Knows no route."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeVar

from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from server.asgi import read_body
from server.errors import invalid_body
from server.request.chat_request import parse_json
from server.request.request_path import RequestPath

T = TypeVar("T")


async def raw_body(deps: RequestPath, request: Request) -> dict[str, Any]:
    """The JSON object that came. Raises InvalidInput where it is none, or too large."""
    return parse_json(await read_body(request.scope, request.receive, deps.max_body_bytes))


def valid_body(raw: dict[str, Any], model: TypeAdapter[T], *, tags: Collection[str] = ()) -> T:
    """The body as its model; `tags` as for `invalid_body`. Raises InvalidInput that names each field at fault."""
    try:  # as JSON, which has no tuples: strict, as a `true` is no number of stars
        return model.validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise invalid_body(error, tags=tags) from error
