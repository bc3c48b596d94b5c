"""Which thumb's way is told: one that taught the version, else the one that came furthest."""

from typing import Any

import httpx

from deploy.demo.ledger import Thumb
from deploy.demo.trace import TRIES, trace_thumb

THUMBS = {f"fb_{number}": Thumb(f"q{number}", f"a{number}", "support@v0", number % 2 == 0) for number in range(100)}


def fate(**changes: Any) -> dict[str, Any]:
    return {"versions": [], "judged": [], "joined": None, **changes}


async def traced(fates: dict[str, dict[str, Any]], thumbs: dict[str, Thumb] = THUMBS) -> tuple[Any, list[str]]:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rpartition("/")[2])
        return httpx.Response(200, json=fates[asked[-1]]) if asked[-1] in fates else httpx.Response(404)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://demo") as http:
        return await trace_thumb(http, thumbs, "support@v3"), asked


async def test_the_first_that_taught_the_version_is_told() -> None:
    fates = {name: fate(versions=["support@v1"]) for name in THUMBS}
    fates["fb_50"] = fate(versions=["support@v2", "support@v3"])
    found, asked = await traced(fates)
    assert (found.feedback_id, found.question, found.value) == ("fb_50", "q50", "up")
    assert asked[-1] == "fb_50"
    assert len(asked) <= TRIES


async def test_else_the_one_that_came_furthest() -> None:
    fates = {name: fate() for name in THUMBS}
    fates["fb_3"] = fate(joined={"snapshot": "x"})
    fates["fb_33"] = fate(joined={"snapshot": "x"}, judged=["support@v1"])
    found, asked = await traced(fates)
    assert found.feedback_id == "fb_33"
    assert len(asked) == TRIES


async def test_a_fate_that_cannot_be_had_is_passed_over() -> None:
    found, _ = await traced({"fb_96": fate()})
    assert found.feedback_id == "fb_96"
    assert (await traced({}))[0] is None
    assert (await traced({}, {}))[0] is None
