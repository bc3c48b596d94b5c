"""Every operation of docs/openapi.json against a running server: what it answers is what is written, and never a fault.

Schemathesis makes requests from the description: at random, and systematically, right ones and ones that break it in
one place. The systematic ones name a model, a handle and a version that exist, so that they come further.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis

from tests.contract.http.live import Live, live_server

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"
CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        "generation": {"max-examples": 5, "deterministic": True, "database": "none"},
        # What keeps its schema may still name what does not exist, or prove nothing.
        "checks": {"positive_data_acceptance": {"enabled": False}},
    }
)
SCHEMA = schemathesis.openapi.from_path(str(DOCUMENT), config=CONFIG)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("live")) as opened:
        yield opened


@SCHEMA.parametrize()
def test_answers_are_as_described(case: schemathesis.Case, live: Live) -> None:
    systematic = case.meta is not None and case.meta.phase.name.value == "coverage"
    if systematic and isinstance(case.body, dict):
        case.body = real_names(case.body, live)
    headers = {} if "authorization" in case.headers else live.bearer("all")
    response = case.call(base_url=live.url, session=live.session, headers=headers)
    assert response.status_code < 500, response.content
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    case.validate_response(response)


def real_names(body: dict[str, Any], live: Live) -> dict[str, Any]:
    """The body with names that exist in the place of made-up ones; what is too short or too long for one stays."""
    compares = body.get("kind") in ("comparison", "ranking")
    real = {"model": "support", "handle": live.comparison if compares else live.answer, "version": "support@v1"}
    made_up = {name for name, value in body.items() if name in real and isinstance(value, str) and 0 < len(value) < 64}
    return {name: real[name] if name in made_up else value for name, value in body.items()}
