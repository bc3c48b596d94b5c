"""What the app answers where no route of its own does: unknown paths, wrong methods, bodies that break their contract.

Every error has OpenAI's shape, and no answer repeats what the client sent.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from schemas.errors import AttuneError
from server.errors import error_response, invalid_input

_WORDS = {
    404: "there is nothing at this path. GET /openapi.json says what there is; OpenAI's clients take URL/v1.",
    405: "this path does not take this method; the header `Allow` says which it takes",
}


def install_fallbacks(app: FastAPI) -> None:
    """Give `app` its handlers of what is no AttuneError."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for this type alone"  # noqa: S101
        # A place begins with where it is: body, path, query.
        return error_response(invalid_input([{**fault, "loc": fault["loc"][1:]} for fault in error.errors()]))

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this type alone"  # noqa: S101
        if isinstance(error.__cause__, AttuneError):  # ours, in the one kind that FastAPI hands on
            return error_response(error.__cause__)
        message = _WORDS.get(error.status_code, error.detail)
        body = {"message": message, "type": "invalid_request_error", "param": None, "code": str(error.status_code)}
        headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
        return JSONResponse({"error": body}, status_code=error.status_code, headers=headers)

    async def fault(_: Request, error: Exception) -> Response:
        # Starlette logs the exception itself; the client learns nothing of it.
        body = {"message": "the server failed", "type": "server_error", "param": None, "code": "500"}
        return JSONResponse({"error": body}, status_code=500)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, fault)


def _allowed(request: Request) -> str:
    """The methods that the path takes: of all routes, where Starlette would name those of the first one alone."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", None) or ()}))
