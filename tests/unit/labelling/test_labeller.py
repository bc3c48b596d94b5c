"""The labeller sends what holds in both orders, counts the rest, and gives up where it makes no sense to go on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from deploy.client import AttuneClient
from deploy.collect import Prompt
from deploy.labelling.command import summary
from deploy.labelling.judge import Junk, Outcome
from deploy.labelling.labeller import PATIENCE, Labeller, Plan
from schemas.errors import AttuneError, ConfigError, InvalidInput, Unavailable

PLAN = Plan("support", "org/judge-8b", "a" * 64, count=3, temperature=1.0, max_tokens=64)
PROMPTS = [Prompt.model_validate({"messages": [{"role": "user", "content": name}], "language": "en"}) for name in "xy"]


class Server:
    """Answers comparisons with the next of `pairs` (the last for ever), and keeps what it is sent."""

    def __init__(self, *pairs: tuple[str, str], status: int = 200, handle: str | None = "handle") -> None:
        self.pairs, self.status, self.handle = list(pairs) or [("short", "much longer")], status, handle
        self.asked: list[dict[str, Any]] = []
        self.said: list[dict[str, Any]] = []
        self.consents: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path == "/v1/feedback":
            self.said.append(body)
            return httpx.Response(200, json={"id": "fb_1", "status": "stored", "durable": "log"})
        self.asked.append(body)
        self.consents.add(request.headers["attune-consent"])
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no"}})
        pair = self.pairs.pop(0) if len(self.pairs) > 1 else self.pairs[0]
        shown = [{"index": index, "content": content} for index, content in enumerate(pair)]
        name = f"cmp_{len(self.asked)}"
        return httpx.Response(200, json={"id": name, "handle": self.handle, "candidates": shown})


class Scripted:
    """A judge that says the next of its outcomes, the last for ever; an error is raised."""

    def __init__(self, *outcomes: Outcome | AttuneError) -> None:
        self.outcomes = list(outcomes)
        self.judged: list[tuple[str, str]] = []

    def better(self, conversation: Sequence[Mapping[str, Any]], first: str, second: str) -> Outcome:
        self.judged.append((first, second))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, AttuneError):
            raise outcome
        return outcome


def labeller(server: Server, judge: Scripted, pauses: list[float] | None = None, count: int = 3) -> Labeller:
    client = AttuneClient("http://attune", "ak_x")
    client._http = httpx.Client(base_url="http://attune", transport=httpx.MockTransport(server))
    plan = Plan(PLAN.policy, PLAN.judge, PLAN.constitution, count, PLAN.temperature, PLAN.max_tokens)
    pause = (pauses if pauses is not None else []).append
    return Labeller(client, judge, plan, PROMPTS, order=random.Random(0), pause=pause)


def test_it_asks_as_one_voice_and_sends_words_marked_as_a_model_s() -> None:
    server = Server()
    done = labeller(server, Scripted(Outcome.FIRST, Outcome.SECOND, Outcome.TIE)).run()
    assert done == {"first": 1, "second": 1, "tie": 1}
    assert {body["user"] for body in server.asked} == {"ai:org/judge-8b"}
    assert {json.dumps(body["metadata"]) for body in server.asked} == {'{"domain": "collected", "language": "en"}'}
    assert {(body["k"], body["top_p"], body["model"]) for body in server.asked} == {(2, 1.0, "support")}
    assert len({body["messages"][0]["content"] for body in server.asked}) == 2, "every prompt before one comes again"
    assert server.consents == {"train"}
    assert [(word["verdict"], word.get("winner")) for word in server.said] == [
        ("winner", 0),
        ("winner", 1),
        ("tie", None),
    ]
    for number, word in enumerate(server.said, start=1):
        assert (word["kind"], word["source"], word["handle"]) == ("comparison", "ai", "handle")
        assert word["labeller"] == {"model": "org/judge-8b", "constitution": "a" * 64}
        assert word["idempotency_key"] == f"label-cmp_{number}"


def test_what_is_not_consistent_or_not_different_is_dropped_and_counted() -> None:
    server = Server(("same", "same"), ("a", "bb"))
    judge = Scripted(Outcome.INCONSISTENT, Junk("what?"), Outcome.FIRST)
    done = labeller(server, judge, count=4).run()
    assert done == {"same": 1, "inconsistent": 1, "junk": 1, "first": 1}
    assert len(judge.judged) == 3, "equal answers need no judge"
    assert len(server.said) == 1
    said = summary(done)
    assert said.startswith("4 pairs: 1 preferences sent, 0 ties sent, 1 dropped: the verdict changed with the order")


def test_it_waits_for_what_is_away_but_not_for_ever() -> None:
    pauses: list[float] = []
    done = labeller(Server(), Scripted(Unavailable("away"), Unavailable("away"), Outcome.FIRST), pauses, 1).run()
    assert (done, pauses) == ({"first": 1}, [2.0, 4.0])
    with pytest.raises(Unavailable):
        labeller(Server(), Scripted(Unavailable("away"))).run()
    with pytest.raises(Unavailable):
        labeller(Server(status=503), Scripted(Outcome.FIRST)).run()


@pytest.mark.parametrize(
    ("server", "judge", "kind"),
    [
        (Server(), Scripted(Junk("what?")), Junk),
        (Server(), Scripted(InvalidInput("too long")), InvalidInput),
        (Server(status=400), Scripted(Outcome.FIRST), InvalidInput),
    ],
)
def test_one_failure_after_another_ends_it(server: Server, judge: Scripted, kind: type[AttuneError]) -> None:
    with pytest.raises(kind):
        labeller(server, judge, count=100).run()
    assert len(server.asked) == PATIENCE
    assert server.said == []


def test_where_nothing_is_recorded_there_is_nothing_to_speak_of() -> None:
    with pytest.raises(ConfigError, match="consent train"):
        labeller(Server(handle=None), Scripted(Outcome.FIRST)).run()
