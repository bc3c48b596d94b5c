"""The operators' say on raters: durable before it is answered, told with its trail, for their own tenant alone."""

from __future__ import annotations

import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import TopicPartition
from exchange.reading.whole import read_whole
from schemas.errors import Unavailable
from schemas.raters import RaterEvidence, RaterJudged
from schemas.topics import RATERS
from schemas.wire import encode_event
from server.auth import Scope
from tests.unit.server.control.test_app import Server, log, server

__all__ = ["log", "server"]
PATH = "/v1/admin/policies/support/raters"


def found_by_test(**changes: object) -> RaterJudged:
    event = RaterJudged(
        id="rj_test",
        at=1_000,
        policy="support",
        tenant="acme",
        rater="user_1",
        verdict="quarantined",
        why="4 of 40 words agree with what others say",
        actor="trainer_1",
        evidence=RaterEvidence(
            test="agreement", words=40, agreed=4, people=0.8, expected=0.65, p_value=1e-12, until=900
        ),
    )
    return event.model_copy(update=changes)


async def test_a_finding_is_told_released_and_stays_on_the_trail(server: Server, log: MemoryLog) -> None:
    log.append([encode_event(found_by_test()), encode_event(found_by_test())])
    (told,) = (await server.get(PATH)).json()["raters"]
    assert (told["rater"], told["quarantined"], told["since"]) == ("user_1", True, 1_000)
    assert len(told["history"]) == 1, "what came twice is told once"
    assert told["history"][0]["evidence"]["agreed"] == 4

    answer = await server.post(PATH, {"rater": "user_1", "verdict": "released", "why": "a new colleague"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["quarantined"] is False
    assert [said["verdict"] for said in answer.json()["history"]] == ["quarantined", "released"]
    assert answer.json()["history"][1]["by"].startswith("key:")
    again = found_by_test(id="rj_again", at=2_000)
    log.append([encode_event(again)])
    (told,) = (await server.get(PATH)).json()["raters"]
    assert told["quarantined"] is False, "not for the same evidence"


async def test_a_person_is_named_as_the_app_does_and_known_by_pseudonym(server: Server, log: MemoryLog) -> None:
    answer = await server.post(PATH, {"user": "ann-of-green-gables", "verdict": "quarantined", "why": "spam"})
    assert answer.json()["rater"].startswith("user_")
    records = log.reader({TopicPartition(RATERS.name, 0): 0}).poll()
    assert len(records) == 1
    assert b"green" not in records[0].value + records[0].key
    assert (await server.get("/v1/admin/policies/sales/raters")).json() == {"raters": []}, "each policy has its own"


@pytest.mark.parametrize(
    "body",
    [
        {"verdict": "released", "why": "x"},
        {"rater": "a", "user": "b", "verdict": "released", "why": "x"},
        {"rater": "a", "verdict": "hanged", "why": "x"},
        {"rater": "a", "verdict": "released", "why": ""},
        {"rater": "a", "verdict": "released"},
        {"rater": "no spaces", "verdict": "released", "why": "x"},
        {"rater": "a", "verdict": "released", "why": "x", "evidence": None},
    ],
)
async def test_a_faulty_body_is_refused(server: Server, log: MemoryLog, body: dict[str, object]) -> None:
    assert (await server.post(PATH, body)).status_code == 400
    assert read_whole(log, RATERS.name) == []


async def test_only_operators_and_only_of_their_own_tenant(server: Server, log: MemoryLog) -> None:
    body = {"rater": "user_1", "verdict": "released", "why": "x"}
    for scope in (Scope.CHAT, Scope.FEEDBACK, Scope.READ):
        assert (await server.post(PATH, body, scope)).status_code == 403
        assert (await server.get(PATH, scope)).status_code == 403
    assert read_whole(log, RATERS.name) == []
    log.append([encode_event(found_by_test(tenant="other"))])
    assert (await server.get(PATH)).json() == {"raters": []}
    assert (await server.post(PATH, body)).json()["history"][0]["verdict"] == "released", "of another person, then"
    assert (await server.get("/v1/admin/policies/nobody/raters")).status_code == 404


async def test_with_the_log_away_it_is_refused(server: Server, log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(records: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(log, "append", away)
        answer = await server.post(PATH, {"rater": "user_1", "verdict": "quarantined", "why": "x"})
    assert answer.status_code == 503
    assert read_whole(log, RATERS.name) == []
