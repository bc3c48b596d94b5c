"""A route whose JSON body is read as strictly as those parsed by hand, for routes with a body model of their own.

FastAPI reads a body before it asks for an API key, and takes NaN and names that come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import InvalidInput
from server.request.chat_request import parse_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(await self.body())
        except InvalidInput as error:  # FastAPI hands on this kind alone
            raise HTTPException(400, error.message) from error


class StrictRoute(APIRoute):
    """`APIRouter(route_class=StrictRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
