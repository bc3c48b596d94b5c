"""Every operation of docs/openapi.json against a running server: what it answers is what is written, and never a fault.

Schemathesis makes requests from the description: right ones, and ones that break it in one place. Each goes out as it
was made; where it names a model or a handle, it goes out again with one that exists, so that it comes further.
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


N = [0]


@SCHEMA.parametrize()
def test_answers_are_as_described(case: schemathesis.Case, live: Live) -> None:
    check(case, live)
    made = real_names(case.body, live) if isinstance(case.body, dict) else case.body
    if made != case.body:
        case.body = made
        check(case, live)


def check(case: schemathesis.Case, live: Live) -> None:
    """Send the request, with an API key unless it is about the lack of one."""
    N[0] += 1
    headers = {} if "authorization" in case.headers else live.bearer("all")
    response = case.call(base_url=live.url, session=live.session, headers=headers)
    assert response.status_code < 500, response.content
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    case.validate_response(response)


def test_x():
    print(N)


def real_names(body: dict[str, Any], live: Live) -> dict[str, Any]:
    """The body with a model, a handle and a version that exist in the place of made-up ones."""
    compares = body.get("kind") in ("comparison", "ranking")
    real = {"model": "support", "handle": live.comparison if compares else live.answer, "version": "support@v1"}
    return {name: real[name] if name in real and isinstance(value, str) else value for name, value in body.items()}
