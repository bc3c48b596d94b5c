"""The way of one thumb, from the button to the version that it taught, as the server's own trace tells it.

Asks GET /v1/feedback/{id} as the users' app may; reads no log and no registry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.demo.ledger import Thumb

TRIES = 30


@dataclass(frozen=True)
class Trace:
    """One acknowledged thumb, what it was pressed on, and its fate as `GET /v1/feedback/{id}` told it."""

    feedback_id: str
    question: str
    answer: str
    answered_by: str
    value: str
    fate: dict[str, Any]


async def trace_thumb(http: httpx.AsyncClient, thumbs: Mapping[str, Thumb], version: str) -> Trace | None:
    """The fate of a thumb that taught `version`, if one of a few, spread over the run, did; else of one that came as
    far as any of them. None where no thumb was acknowledged or no fate can be had.

    Args:
        http: a client of the server with a key of the tenant that sent the thumbs.
        thumbs: by feedback id, oldest first.

    Raises:
        httpx.TransportError: the server does not answer.
    """
    furthest: Trace | None = None
    ids = list(thumbs)
    for number in range(min(TRIES, len(ids))):
        feedback_id = ids[number * len(ids) // min(TRIES, len(ids))]
        response = await http.get(f"/v1/feedback/{feedback_id}")
        if not response.is_success:
            continue  # the next one will do
        thumb, fate = thumbs[feedback_id], response.json()
        value = "up" if thumb.up else "down"
        trace = Trace(feedback_id, thumb.question, thumb.answer, thumb.version, value, fate)
        if version in fate["versions"]:
            return trace
        if furthest is None or _reached(fate) > _reached(furthest.fate):
            furthest = trace
    return furthest


def _reached(fate: Mapping[str, Any]) -> int:
    """How far a word came: taught some version, judged one, is in a snapshot, none of these."""
    return 3 if fate["versions"] else 2 if fate["judged"] else 1 if fate["joined"] else 0
