"""What the app answers where no route of its own does: unknown paths, wrong methods, bodies that break their contract.

Every error has OpenAI's shape, and no answer repeats what the client sent.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from schemas.errors import InvalidInput
from server.errors import error_response


def install_fallbacks(app: FastAPI) -> None:
    """Give `app` its handlers of what is no AttuneError."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for this type alone"  # noqa: S101
        faults = [(".".join(str(part) for part in fault["loc"][1:]), fault) for fault in error.errors()]
        words = [
            f"{name}: this field is not known here" if fault["type"] == "extra_forbidden" else f"{name}: {fault['msg']}"
            for name, fault in faults[:5]
        ]
        return error_response(InvalidInput("; ".join(words), field=faults[0][0] or None))

    async def no_route(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this type alone"  # noqa: S101
        body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": str(error.status_code)}
        return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)

    async def fault(_: Request, error: Exception) -> Response:
        # Starlette logs the exception itself; the client learns nothing of it.
        body = {"message": "the server failed", "type": "server_error", "param": None, "code": "500"}
        return JSONResponse({"error": body}, status_code=500)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, fault)
