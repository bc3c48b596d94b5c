"""The API keys that docs/openapi.json says open an operation open it, and no others do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.auth import Scope
from tests.contract.http.live import Live, live_server

DOCUMENT = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())
OPERATIONS = [
    pytest.param(path, method, operation.get("security", [{}]), id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("live")) as opened:
        yield opened


@pytest.mark.parametrize(("path", "method", "security"), OPERATIONS)
def test_scopes_open_what_is_written(path: str, method: str, security: list[dict[str, list[str]]], live: Live) -> None:
    url = live.url + path.replace("{policy}", "support").replace("{version}", "v1").replace("{model}", "support")
    body = {} if method == "post" else None
    opening = {scope for way in security for scope in way.get("api_key", [])}
    asked = opening or {} not in security
    for scope in Scope:
        answer = live.session.request(method, url, json=body, headers=live.bearer(scope.value))
        assert (answer.status_code == 403) == (asked and scope not in opening), (scope, answer.text)
    proof_in_body = path in ("/v1/feedback", "/v1/displayed")
    for headers in ({}, {"authorization": "Bearer ak_none_none"}):
        answer = live.session.request(method, url, json=body, headers=headers)
        opened = not asked or (proof_in_body and not headers)
        assert (answer.status_code == 401) == (not opened), answer.text


def test_the_description_is_for_everyone_and_says_nothing_of_this_installation(live: Live) -> None:
    shown = live.session.get(f"{live.url}/openapi.json")
    assert shown.json() == DOCUMENT
    assert not any(key in shown.text for key in live.keys.values())
