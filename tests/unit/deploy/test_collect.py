"""The collector asks at full distribution, waits for quiet, stops at its limit and goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.client import AttuneClient
from deploy.collect import Collector, Plan, find_prompts, read_prompts
from schemas.errors import AttuneError, ConfigError, Conflict, InvalidInput, Unavailable
from tests.unit.server.request.conftest import open_world
from tests.unit.trainer.data.support import facts
from trainer.intake.facts import Answer
from trainer.joining.eligibility import Scope, ppo_reasons

PLAN = Plan(model="support", samples=4, limit=10, rate=2.0, temperature=1.0, max_tokens=512, anytime=False)
IDLE = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 0.0\n'
BUSY = IDLE.replace("} 0.0", "} 3.0")


class Server:
    """Answers as told: the next of `metrics` (the last for ever), and `statuses` by number of the chat request."""

    def __init__(self, metrics: list[str], statuses: dict[int, int] | None = None) -> None:
        self.metrics, self.statuses = metrics, statuses or {}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text=self.metrics.pop(0) if len(self.metrics) > 1 else self.metrics[0])
        body = json.loads(request.content)
        self.asked.append(body)
        self.headers.append(request.headers)
        status = self.statuses.get(len(self.asked), 200)
        if status != 200:
            return httpx.Response(status, json={"error": {"message": "no"}})
        return httpx.Response(200, json={"choices": [{}] * body["n"]})


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"question {number}"}]} for number in range(2)]
    path.write_text("\n".join([json.dumps({**lines[0], "language": "en"}), "", json.dumps(lines[1])]), encoding="utf-8")
    return path


def collector(server: Server, prompts: Path, pauses: list[float], **changes: Any) -> Collector:
    client = AttuneClient("http://attune", "ak_x")
    client._http = httpx.Client(base_url="http://attune", transport=httpx.MockTransport(server))
    lines, digest = read_prompts(prompts)
    state = prompts.with_name("state.json")
    return Collector(client, replace(PLAN, **changes), lines, digest, state, pause=pauses.append)


def test_it_stops_at_its_limit_and_paces_itself(prompts: Path) -> None:
    server, pauses = Server([IDLE]), list[float]()
    done = collector(server, prompts, pauses).run()
    assert (done.asked, done.answers) == (3, 10)
    assert [body["n"] for body in server.asked] == [4, 4, 2]
    assert [body["messages"][0]["content"] for body in server.asked] == ["question 0", "question 1", "question 0"]
    assert server.asked[0]["metadata"] == {"domain": "collected", "language": "en"}
    assert {headers["attune-consent"] for headers in server.headers} == {"train"}
    assert pauses == [0.5] * 3
    assert collector(server, prompts, pauses).run() == done, "there is nothing left to do"
    assert len(server.asked) == 3


def test_it_waits_while_others_are_answered(prompts: Path) -> None:
    pauses = list[float]()
    collector(Server([BUSY, BUSY, IDLE]), prompts, pauses, limit=4).run()
    assert pauses == [1.0, 2.0, 0.5]
    busy = Server([BUSY])
    collector(busy, prompts, pauses, limit=8, anytime=True).run()
    assert len(busy.asked) == 1, "the other four were there"
    with pytest.raises(ConfigError, match="anytime"):
        collector(Server(["attune_ready 1.0\n"]), prompts, pauses).run()


def test_it_goes_on_where_it_stopped(prompts: Path) -> None:
    pauses = list[float]()
    with pytest.raises(AttuneError, match="403"):
        collector(Server([IDLE], {2: 403}), prompts, pauses).run()
    server = Server([IDLE])
    collector(server, prompts, pauses).run()
    assert [body["messages"][0]["content"] for body in server.asked] == ["question 1", "question 0"]
    prompts.write_text(prompts.read_text() + "\n" + prompts.read_text(), encoding="utf-8")
    with pytest.raises(Conflict, match="other prompts"):
        collector(server, prompts, pauses)
    prompts.with_name("state.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidInput, match="damaged"):
        collector(server, prompts, pauses)


def test_it_waits_out_a_server_that_is_away_but_not_for_ever(prompts: Path) -> None:
    pauses = list[float]()
    done = collector(Server([IDLE], {1: 503, 2: 429}), prompts, pauses, limit=4).run()
    assert (done.asked, done.answers) == (1, 4)
    assert pauses == [2.0, 4.0, 0.5]
    with pytest.raises(Unavailable):
        collector(Server([IDLE], dict.fromkeys(range(1, 99), 503)), prompts, pauses, limit=8).run()
    assert max(pauses) == 60.0


def test_a_prompt_that_is_refused_is_passed_over_but_not_all(prompts: Path) -> None:
    pauses = list[float]()
    done = collector(Server([IDLE], {1: 400}), prompts, pauses, limit=4).run()
    assert (done.asked, done.answers) == (2, 4)
    with pytest.raises(InvalidInput):
        collector(Server([IDLE], dict.fromkeys(range(1, 99), 400)), prompts, pauses, limit=8).run()


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "0 prompts"), ("{", "line 1"), ('{"messages": []}', "messages"), ('{"messages": [{}], "x": 1}', "x")],
)
def test_a_faulty_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=words):
        read_prompts(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_prompts(tmp_path / "none")


def test_a_published_set_is_as_good_as_a_file(prompts: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        line = {"name": "where", "language": "en", "domain": "orders", "messages": [{"role": "user", "content": "hi"}]}
        shown = {"kind": "prompts", "version": "support@v2", "digest": "a" * 64, "created_at": 1, "note": ""}
        return httpx.Response(200, json={**shown, "text": json.dumps(line), "principles": None})

    client = AttuneClient("http://attune", "ak_x")
    client._http = httpx.Client(base_url="http://attune", transport=httpx.MockTransport(answer))
    (prompt,), origin = find_prompts(client, None, "support@v2")
    assert (prompt.messages, prompt.language) == (({"role": "user", "content": "hi"},), "en")
    assert (origin.name, origin.digest) == ("support@v2", "a" * 64)
    find_prompts(client, None, "support")
    assert asked == ["/v1/guidance/support/prompts/v2", "/v1/guidance/support/prompts/newest"]
    assert find_prompts(client, prompts, None)[1].name == "prompts.jsonl"
    for both in ((None, None), (prompts, "support")):
        with pytest.raises(InvalidInput, match="either"):
            find_prompts(client, *both)


async def test_ppo_may_learn_from_what_it_asks_for(prompts: Path, tmp_path: Path) -> None:
    server = Server([IDLE])
    collector(server, prompts, [], limit=4).run()
    async with open_world(tmp_path) as world:
        response = await world.post("/v1/chat/completions", server.asked[0], headers={"attune-consent": "train"})
        assert response.status_code == 200, response.text
        (event,) = world.completions()
    assert event.sampling.full_distribution
    assert (event.domain, event.language) == ("collected", "en")
    known = facts(event)
    assert len(known.choices) == 4
    scope = Scope(event.base_fingerprint, event.version)
    assert {ppo_reasons(Answer(known, choice), scope) for choice in known.choices} == {()}
