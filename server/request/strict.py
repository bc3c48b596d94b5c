"""A route whose JSON body is read as strictly as those parsed by hand, for routes with a body model of their own.

FastAPI reads a body before it asks for an API key, takes NaN and names that come twice, and reads what is not said
to be JSON as no body at all.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import InvalidInput
from server.asgi import check_media
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
        self.strict_content_type = False  # `check_media` decides
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if request.method == "POST":
                check_media(request.headers)
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
