"""A sitting of a rater: gold items look like the others, on the way and on the screen."""

from __future__ import annotations

import json
from typing import Any

import httpx

from deploy.asking import Asked, Asking, Said
from deploy.client import AttuneClient
from schemas.imported import ChatMessage
from trainer.quality.gold import AskedItem


def item(question: str, answer: str | None = None) -> AskedItem:
    good = None if answer is None else True
    return AskedItem(messages=(ChatMessage(role="user", content=question),), answer=answer, good=good)


class Server:
    """Says what a grammar forces, else that it does not know; has no handle for what is not recorded."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path == "/v1/feedback":
            self.told.append(body)
            return httpx.Response(200, json={"id": "fb_1", "status": "stored"})
        self.asked.append(body)
        question = body["messages"][-1]["content"]
        forced = body.get("structured_outputs", {"choice": ["I do not know."]})["choice"][0]
        text = forced[:3] if question == "cut" else forced
        handles = [] if question == "unrecorded" else [f"handle of {question}"]
        message = {"role": "assistant", "content": text}
        return httpx.Response(200, json={"choices": [{"message": message}], "attune": {"handles": handles}})


def client(server: Server) -> AttuneClient:
    made = AttuneClient("http://server", "ak_x")
    made._http = httpx.Client(base_url="http://server", transport=httpx.MockTransport(server))
    return made


def test_gold_is_forced_and_judged_like_all_others() -> None:
    server, shown = Server(), dict[str, str]()

    def judge(question: str, answer: str) -> Said:
        shown[question] = answer
        return {"gold": "up", "open": "down"}.get(question, "skip")  # type: ignore[return-value]

    items = [item("gold", "42"), item("open"), item("bored"), item("cut", "forty-two"), item("unrecorded", "42")]
    done = Asking(client(server), "support", "ann", judge).run(items, 10, source="rater")
    assert done == Asked(answered=2, skipped=3)
    assert shown == {"gold": "42", "open": "I do not know.", "bored": "I do not know."}, (
        "nothing half said, or unrecorded"
    )
    assert {(word["handle"], word["value"], word["source"]) for word in server.told} == {
        ("handle of gold", "up", "rater"),
        ("handle of open", "down", "rater"),
    }
    by_question = {body["messages"][-1]["content"]: body for body in server.asked}
    assert by_question["gold"]["structured_outputs"] == {"choice": ["42"]}
    assert "structured_outputs" not in by_question["open"]
    assert all("good" not in json.dumps(body) and body["user"] == "ann" for body in server.asked)


def test_a_sitting_ends_when_the_rater_or_the_limit_says_so_and_each_has_an_order_of_their_own() -> None:
    items = [item(str(number)) for number in range(20)]
    orders = []
    for user in ("ann", "bob", "ann"):
        server = Server()
        assert Asking(client(server), "support", user, lambda *_: "up").run(items, 12) == Asked(12, 0)
        orders.append([word["handle"] for word in server.told])
    assert orders[0] == orders[2] != orders[1]
    server, said = Server(), iter(["up", "skip", "quit"])
    done = Asking(client(server), "support", "ann", lambda *_: next(said)).run(items, 12)  # type: ignore[arg-type,return-value]
    assert (done, len(server.told)) == (Asked(1, 1), 1)
