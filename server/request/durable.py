"""Waiting, on the event loop, until an event is safe. Knows the appender; knows no route."""

from __future__ import annotations

import asyncio

from exchange.log.line import Durable
from schemas.errors import Unavailable
from schemas.event import Event
from schemas.wire import encode_event
from server.request.request_path import RequestPath

DURABLE_TIMEOUT_S = 30.0


async def made_durable(deps: RequestPath, event: Event, *, remedy: str) -> Durable:
    """Bring an event to the log, or to the spool where the log does not take it; which of the two has it now.

    Raises:
        Unavailable: neither took it in time; where that is not known, `remedy` says what is harmless to do.
        InvalidInput: the log will never take it.
    """
    record = encode_event(event, source=deps.source)
    try:
        stored = await asyncio.wait_for(deps.appender.append(record), DURABLE_TIMEOUT_S)
    except TimeoutError as error:
        raise Unavailable("the event log does not answer", remedy=remedy) from error
    return stored.durable


async def made_durable_now(deps: RequestPath, event: Event, *, what: str) -> None:
    """As `made_durable` for an event that is for the log alone; `what` such an event is, for the words of a refusal."""
    try:
        await made_durable(deps, event, remedy="Ask again; it is harmless.")
    except Unavailable as error:
        raise Unavailable(
            f"the event log is away, and {what} is never queued for later: {error.message}",
            remedy="Ask again when it is back; asking twice is harmless.",
        ) from error
