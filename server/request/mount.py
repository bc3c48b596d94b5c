"""Puts the request path's routes into the server's app. The composition root calls this once."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.asgi import BoundedBodies, ClientGone
from server.errors import install_errors
from server.request.chat_request import PROTOCOLS
from server.request.comparisons import comparisons_router
from server.request.consent_route import consent_router
from server.request.feedback import feedback_router
from server.request.gateway import TOKEN_PATHS, Gateway
from server.request.request_path import RequestPath
from server.request.stored import stored_router

BROWSER_PATHS = frozenset({"/v1/feedback", "/v1/displayed"})
"""Paths that a browser may call with nothing but a handle; and so may what lies under FATES."""
FATES = "/v1/feedback/"
CLIENT_CLOSED_REQUEST = 499


class BrowserCors:
    """CORS for `BROWSER_PATHS` and `FATES` alone: no other path may be called from a foreign page."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "authorization", "attune-handle"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        browser = scope["type"] == "http" and (scope["path"] in BROWSER_PATHS or scope["path"].startswith(FATES))
        await (self._cors if browser else self._app)(scope, receive, send)


def install_request_path(app: FastAPI, deps: RequestPath) -> None:
    """Add generation, comparisons and feedback to `app`, and record what the engine does from now on."""
    deps.engine.set_sink(deps.recorder)
    install_errors(app)
    app.add_exception_handler(ClientGone, _nobody)
    gateway = Gateway(deps)
    for path in (*PROTOCOLS, *TOKEN_PATHS):
        # A plain route to an ASGI app: FastAPI's own would read the body and hold the answer.
        app.router.routes.append(Route(path, gateway, methods=["POST"]))
    app.include_router(comparisons_router(deps))
    app.include_router(feedback_router(deps))
    app.include_router(consent_router(deps))
    app.include_router(stored_router(deps))
    app.add_middleware(BoundedBodies, limit=deps.max_body_bytes)
    app.add_middleware(BrowserCors, origins=deps.allowed_origins)


async def _nobody(_: Request, __: Exception) -> Response:
    """The client has left: nobody reads this."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
