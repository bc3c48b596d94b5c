"""Raters are told what they judge by, and operators every version of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.guidance import publish_guidance
from exchange.registry.memory import MemoryRegistry
from schemas.manifests import GuidanceKind
from server.auth import Scope
from tests.unit.guidance.support import CONSTITUTION, GUIDELINES, PROMPTS
from tests.unit.server.control.whole import open_server

NOW = "/v1/guidance/support"


async def test_raters_see_what_is_in_force(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    async with open_server(tmp_path, registry=registry) as server:
        nothing = {"policy": "support", "guidelines": None, "constitution": None, "prompts": None}
        assert (await server.http.get(NOW)).json() == nothing
        for kind, raw in zip(GuidanceKind, (GUIDELINES, CONSTITUTION, PROMPTS), strict=True):
            publish_guidance(registry, kind, "support", raw)
        publish_guidance(registry, GuidanceKind.GUIDELINES, "support", b"Be kind.", note="shorter")

        told = (await server.http.get(NOW)).json()
        assert (told["guidelines"]["version"], told["guidelines"]["text"]) == ("support@v2", "Be kind.")
        assert (told["guidelines"]["note"], told["guidelines"]["principles"]) == ("shorter", None)
        assert [one["id"] for one in told["constitution"]["principles"]] == ["true", "brief"]
        assert told["prompts"] == "support@v1"
        for scope in Scope:
            assert (await server.http.get(NOW, headers=server.key(scope))).json() == told
        assert (await server.http.get("/v1/guidance/sales")).status_code == 404
        del server.http.headers["authorization"]
        assert (await server.http.get(NOW)).status_code == 401


async def test_every_version_is_for_operators(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    for raw in (GUIDELINES, b"Be kind."):
        publish_guidance(registry, GuidanceKind.GUIDELINES, "support", raw)
    async with open_server(tmp_path, registry=registry) as server:
        for place in ("v1", "support@v1"):
            told = (await server.http.get(f"{NOW}/guidelines/{place}")).json()
            assert told["text"] == GUIDELINES.decode()
        assert (await server.http.get(f"{NOW}/guidelines/newest")).json()["version"] == "support@v2"
        rater = server.key(Scope.FEEDBACK, Scope.CHAT)
        assert (await server.http.get(NOW, headers=rater)).status_code == 200
        assert (await server.http.get(f"{NOW}/guidelines/v1", headers=rater)).status_code == 403
        other = server.key(Scope.READ, aliases=("sales",))
        assert (await server.http.get(f"{NOW}/guidelines/v1", headers=other)).status_code == 404


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("guidelines/v3", 404),
        ("prompts/newest", 404),
        ("laws/v1", 404),
        ("guidelines/3", 400),
        ("guidelines/x@v1", 400),
    ],
)
async def test_what_is_not_there_is_said(tmp_path: Path, place: str, status: int) -> None:
    async with open_server(tmp_path) as server:
        answer = await server.http.get(f"{NOW}/{place}")
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]
