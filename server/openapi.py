"""The description of the API: what each route declares of itself, and GET /openapi.json, which says it to everyone.

Knows OpenAPI; knows no route. Routes that read their own bodies declare the model here instead of in their signature,
so that FastAPI describes it and validates nothing. The description holds no secret and nothing of this installation,
so it needs no API key. There is no page that shows it: such a page would load foreign scripts where keys are typed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from schemas.answers import ErrorBody
from server.auth import Scope

PATH = "/openapi.json"
VERSION = "1"
ABOUT = (
    "Chats in OpenAI's shape, feedback on their answers, and the policies that learn from it. Every answer comes with "
    "a handle that proves who was shown what. Errors have OpenAI's shape; their message names the field and the remedy."
)
API_KEY, HANDLE = "api_key", "handle"
_REF = "#/components/schemas/{model}"
_SECURITY = {
    API_KEY: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ak_ID_SECRET",
        "description": "`attune keys create` makes one; a route names the scopes that open it, any one will do",
    },
    HANDLE: {
        "type": "apiKey",
        "in": "header",
        "name": "attune-handle",
        "description": "the handle that came with the answer",
    },
}
_BODY_ERRORS = (400, 408, 413, 415)
_MEANS = {
    400: "a field, parameter or header is missing or wrong; `param` names it",
    401: "no API key came, or one that is not valid",
    403: "the API key has not the scope, or the handle proves nothing",
    404: "there is no such thing for this API key",
    408: "the body did not come in time",
    409: "it contradicts what is there already; the message says why",
    413: "the body is too large",
    415: "the body is not JSON, or is compressed",
    503: "a part that is needed cannot be reached; `Retry-After` says when to try again",
}


def described(
    summary: str,
    answers: Mapping[int, Any],
    *,
    scopes: Sequence[Scope] = (),
    or_handle: bool = False,
    or_nothing: bool = False,
    body: Any = None,
    refuses: Sequence[int] = (),
    parameters: Sequence[Mapping[str, Any]] = (),
    streams: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route that describe it and change nothing of what it does.

    Args:
        answers: status -> type of the JSON body; a text is the media type of a body that is none.
        scopes: of which a key must have one; none: no key is asked for.
        or_handle: the header `attune-handle` does as well. `or_nothing`: what is in the body may do as well.
        body: type of the JSON body, where the route reads it itself.
        refuses: statuses of errors beside those that follow from the body and the key.
        streams: 200 may also be server-sent events.
    """
    statuses = {*refuses, *(_BODY_ERRORS if body is not None else ()), *((401, 403) if scopes else ())}
    responses: dict[int, dict[str, Any]] = {}
    for status, kind in answers.items():
        content = {"content": {kind: {"schema": {"type": "string"}}}} if isinstance(kind, str) else {"model": kind}
        responses[status] = {"description": "done" if status < 300 else _MEANS[status], **content}
    if streams:
        responses[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    for status in sorted(statuses - set(answers)):
        responses[status] = {"description": _MEANS[status], "model": ErrorBody}
        if status == 503:
            responses[status]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    extra: dict[str, Any] = {}
    security: list[dict[str, list[str]]] = [{API_KEY: [scope.value]} for scope in scopes]
    if scopes:
        extra["security"] = [*security, *([{HANDLE: []}] if or_handle else ()), *([{}] if or_nothing else ())]
    if parameters:
        extra["parameters"] = [dict(parameter) for parameter in parameters]
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(body)}}}
    kwargs = {"summary": summary, "response_model": None, "responses": responses, "openapi_extra": extra}
    return {**kwargs, "response_class": PlainTextResponse} if "text/plain" in answers.values() else kwargs


def _schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a body with the models it is made of under `$defs`, from where `document` takes them."""
    schema = TypeAdapter(kind).json_schema(ref_template=_REF)
    if isinstance(kind, type):
        models = {kind.__name__: schema, **schema.pop("$defs", {})}
        return {"$ref": _REF.format(model=kind.__name__), "$defs": models}
    return schema


def parameter(where: str, name: str, kind: Any, description: str, **more: Any) -> dict[str, Any]:
    """A parameter in `where` (header or query) of the given type that the route reads itself."""
    schema = TypeAdapter(kind).json_schema()
    return {"in": where, "name": name, "required": False, "description": description, "schema": schema, **more}


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of those of `routes` that are FastAPI's.

    Raises:
        ValueError: two models of one name have different shapes.
    """
    made = get_openapi(title="Attune", version=VERSION, description=ABOUT, routes=routes)
    components = made.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    components["securitySchemes"] = _SECURITY
    errors: dict[str, Any] = components.setdefault("responses", {})
    for path in made["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            responses.pop("422", None)  # FastAPI's own; a wrong body is 400 here
            for status, response in responses.items():
                if response["description"] == _MEANS.get(int(status)) and _is_error(response):
                    errors[status] = response
                    responses[status] = {"$ref": f"#/components/responses/{status}"}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            for name, schema in body.pop("$defs", {}).items():
                if schemas.setdefault(name, schema) != schema:
                    raise ValueError(f"two models are called {name}: rename one of them")
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["responses"] = dict(sorted(errors.items()))
    components["schemas"] = dict(sorted(schemas.items()))
    made["paths"] = dict(sorted(made["paths"].items()))
    return made


def _is_error(response: Mapping[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema.get("$ref") == _REF.format(model=ErrorBody.__name__))


def install_description(app: FastAPI, more: Sequence[BaseRoute] = ()) -> None:
    """Let `app` describe itself at GET /openapi.json. `more` are routes that FastAPI cannot describe, as it would."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document([*app.routes, *more])
        return app.openapi_schema

    def show(_: Request) -> Response:  # in a thread: making it takes a moment, once
        return Response(json.dumps(app.openapi()), media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
    app.add_api_route(PATH, show, methods=["GET"], include_in_schema=False)
