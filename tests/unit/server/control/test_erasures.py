"""The erasure API: durable before it is destroyed, told in full, repeated without harm, for operators only."""

from __future__ import annotations

import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog, TopicPartition
from exchange.privacy.erasures import read_erasures
from schemas.errors import Unavailable
from schemas.events import ErasureApplied
from schemas.lifecycle import PolicyState, Stage, VersionState, initial_state
from schemas.topics import ERASURES
from schemas.wire import encode_event
from server.auth import Scope
from server.control.rebuild import Change, plan_rebuild
from tests.unit.server.control.test_app import POLICIES, Server, log, server, two_versions

__all__ = ["log", "server", "two_versions"]
ERASURES_PATH = "/v1/admin/erasures"


async def chat(server: Server, **body: str) -> None:
    asked = {"model": "support", "messages": [{"role": "user", "content": "hello"}], **body}
    answer = await server.post("/v1/chat/completions", asked, Scope.CHAT)
    assert answer.status_code == 200, answer.text
    assert server.application.recorder.flush(5)


async def test_an_erasure_destroys_the_key_and_says_what_it_reached(server: Server, log: MemoryLog) -> None:
    await chat(server, user="ann")
    await chat(server, user="bob")
    keys = server.application.recorder._keys
    answer = await server.post(ERASURES_PATH, {"user": "ann"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert "ann" not in answer.text
    (erasure,) = read_erasures(log)
    subject = erasure.request.subject
    assert (told["id"], told["subject"]) == (erasure.request.id, subject)
    assert [(done["part"], done["counts"]) for done in told["applied"]] == [("keys", {"keys": 1})]
    assert told["waiting_for"] == ["trainer of support", "trainer of sales"]
    assert (told["influenced"], told["rebuilt"]) == ([], [])
    assert "does not untrain" in told["note"]
    assert keys.destroy(subject) == (), "it was there once, and is gone"

    for policy in ("support", "sales"):
        done = ErasureApplied(
            id=f"{erasure.request.id}.{policy}",
            at=1,
            policy=policy,
            tenant="acme",
            erasure_id=erasure.request.id,
            subject=subject,
            part="ledger",
            counts={"rows": 3},
            actor="trainer_1",
        )
        log.append([encode_event(done)])
    again = (await server.get(f"{ERASURES_PATH}/{told['id']}")).json()
    assert again["waiting_for"] == []
    assert again["applied"][-1]["counts"] == {"rows": 3}


async def test_asking_again_is_harmless_and_all_erasures_are_listed(server: Server, log: MemoryLog) -> None:
    await chat(server, user="ann")
    first = (await server.post(ERASURES_PATH, {"user": "ann"})).json()
    second = (await server.post(ERASURES_PATH, {"user": "ann"})).json()
    by_pseudonym = (await server.post(ERASURES_PATH, {"subject": first["subject"]})).json()
    assert first["subject"] == second["subject"] == by_pseudonym["subject"]
    assert second["applied"][0]["counts"] == {"keys": 0}
    listed = (await server.get(ERASURES_PATH)).json()["erasures"]
    assert [one["id"] for one in listed] == [first["id"], second["id"], by_pseudonym["id"]]


async def test_a_conversation_without_a_user_is_erased_by_its_session(server: Server, log: MemoryLog) -> None:
    await chat(server, session_id="visit-7")
    told = (await server.post(ERASURES_PATH, {"session": "visit-7"})).json()
    assert told["subject"].startswith("conv_")
    assert told["applied"][0]["counts"] == {"keys": 1}


@pytest.mark.parametrize(
    "body", [{}, {"user": "a", "subject": "b"}, {"user": ""}, {"subject": "no spaces"}, {"who": "a"}]
)
async def test_a_body_that_names_nobody_or_two_is_refused(server: Server, log: MemoryLog, body: dict[str, str]) -> None:
    answer = await server.post(ERASURES_PATH, body)
    assert answer.status_code == 400
    assert read_erasures(log) == ()


async def test_only_operators_erase_and_only_their_own_tenant_sees_it(server: Server, log: MemoryLog) -> None:
    for scope in (Scope.CHAT, Scope.FEEDBACK, Scope.READ):
        assert (await server.post(ERASURES_PATH, {"user": "ann"}, scope)).status_code == 403
        assert (await server.get(ERASURES_PATH, scope)).status_code == 403
    assert read_erasures(log) == ()
    told = (await server.post(ERASURES_PATH, {"user": "ann"})).json()
    _, stranger = server.keys.create(
        tenant="other", scopes=(Scope.ADMIN,), default_consent=server.keys.list()[0].default_consent
    )
    headers = {"authorization": f"Bearer {stranger}"}
    assert (await server.http.get(f"{ERASURES_PATH}/{told['id']}", headers=headers)).status_code == 404
    assert (await server.http.get(ERASURES_PATH, headers=headers)).json() == {"erasures": []}
    assert (await server.get(f"{ERASURES_PATH}/er_unknown")).status_code == 404


async def test_with_the_log_away_nothing_is_destroyed(
    server: Server, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the key would be gone and no trainer and no restore would ever hear why."""
    await chat(server, user="ann")

    def away(records: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(log, "append", away)
        assert (await server.post(ERASURES_PATH, {"user": "ann"})).status_code == 503
    told = (await server.post(ERASURES_PATH, {"user": "ann"})).json()
    assert told["applied"][0]["counts"] == {"keys": 1}


async def test_rebuild_takes_influenced_versions_out_of_service(
    server: Server, two_versions: None, log: EventLog
) -> None:
    """Their snapshots are not in this registry, so nobody can say that they did not learn from her: both go."""
    await server.post(f"{POLICIES}/support/promote", {"version": "support@v1"})
    told = (await server.post(ERASURES_PATH, {"user": "ann", "rebuild": True})).json()
    assert told["influenced"] == [
        {"policy": "support", "direct": [], "inherited": [], "unknown": ["support@v1", "support@v2"]}
    ]
    assert [(one["version"], one["change"], one["to"], one["refused"]) for one in told["rebuilt"]] == [
        ("support@v2", "version_rejected", None, None),
        ("support@v1", "version_rolled_back", "support@v0", None),
    ]
    state = (await server.get(f"{POLICIES}/support")).json()
    assert state["routed"]["stable"] == "support@v0"
    reasons = {one["version"]: one["reason"] for one in state["versions"]}
    assert reasons["support@v1"] == f"rebuild after erasure {told['id']}"
    again = (await server.post(ERASURES_PATH, {"user": "ann", "rebuild": True})).json()
    assert again["rebuilt"] == []


async def test_nothing_personal_rests_on_the_audit_trail(server: Server, log: MemoryLog) -> None:
    await server.post(ERASURES_PATH, {"user": "ann-of-green-gables"})
    records = log.reader({TopicPartition(ERASURES.name, 0): 0}).poll()
    assert len(records) == 2
    assert all(b"green" not in record.value + record.key for record in records)


def state_with(stable: int, canary: int | None = None, **stages: Stage) -> PolicyState:
    versions = {
        number: VersionState(version=number, stage=stage, since=0)
        for number, stage in ((int(name[1:]), stage) for name, stage in stages.items())
    }
    before = tuple(number for number, one in versions.items() if one.stage is Stage.RETIRED)
    return initial_state("support").model_copy(
        update={"versions": versions, "stable": stable, "canary": canary, "previous_stable": before}
    )


def test_the_plan_goes_back_to_the_newest_version_without_the_person() -> None:
    state = state_with(
        3, 4, v0=Stage.RETIRED, v1=Stage.RETIRED, v2=Stage.RETIRED, v3=Stage.STABLE, v4=Stage.CANARY, v5=Stage.CANDIDATE
    )
    assert plan_rebuild(state, {2, 3, 4, 5}) == (
        Change("reject", 5),
        Change("roll_back", 4),
        Change("roll_back", 3, 1),
    )
    assert plan_rebuild(state, {2}) == (), "a retired version gets no traffic"
    assert plan_rebuild(state, {4}) == (Change("roll_back", 4),)
    assert plan_rebuild(state, {1, 2, 3})[-1] == Change("roll_back", 3, 0)
