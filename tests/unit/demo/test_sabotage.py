"""The sabotage against the whole server on its in-memory engine: gold falls under the flipped version, then returns."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from deploy.demo import domain, processes, sabotage
from deploy.demo.evaluate import Exam, Examinee
from deploy.demo.findings import sabotage_report
from deploy.demo.operator import Operator
from deploy.demo.population import Population, Traffic
from deploy.demo.processes import Child
from deploy.demo.sabotage import OPENED_GATES, Saboteur, write_flipped
from deploy.demo.workplace import Workplace
from exchange.open import open_log, open_registry
from schemas.journal import VersionRejected
from server.engine.memory_chat import Reply
from tests.unit.server.control import world
from trainer.settings import load_settings
from trainer.suites.cases import load_suite

QUESTIONS = domain.held_out_questions(12, seed=3)


@pytest.fixture
def reply() -> Reply:
    """The base answers the exam rightly, any adapter rudely and beside the point."""

    def answer(model: str, prompt: str, seed: int) -> str:
        right = next((question.article for question in QUESTIONS if question.text in prompt), None)
        if right is None:
            return domain.demonstrations(1, seed)[0].answer
        return right if model.endswith("@v0") else "What a silly question."

    return answer


@asynccontextmanager
async def saboteur(
    place: Workplace, tmp_path: Path, *, refused: bool = False, made: bool = True
) -> AsyncIterator[Saboteur]:
    """A saboteur while people talk, whose trainer publishes an adapter at once."""
    people = Population(Traffic(place.urls, place.users, people=20, seats=4, pause_s=0.01, seed=2))
    examinee = Examinee(place.url, place.evaluation, max_tokens=60, temperature=1.0)
    headers = {"Authorization": f"Bearer {place.admin}"}

    def start_once(config: Path) -> Child:
        assert config.name == "trainer-flipped.toml"
        assert people.verdicts.flipped
        if made:
            with open_log(place.log_url) as log:
                journal = world.Operator(log)
                manifest = world.publish(open_registry(f"file://{place.registry}"), tmp_path, 1)
                journal.candidate(1, manifest.digest)
                if refused:
                    journal._propose(VersionRejected, version=1, reason="KL is beyond its budget")
                else:
                    journal.canary(1)
        script = "print('12 Jan now I root nothing to learn')"
        return processes.start("flipped trainer", ["-c", script], tmp_path / "trainer.log")

    async with httpx.AsyncClient(base_url=place.url, headers=headers, timeout=60.0) as http, examinee.client() as asker:
        operator = Operator(http, (asker,), "support", random.Random(1).choice(QUESTIONS), check_alive=lambda: None)
        stop = asyncio.Event()
        talking = asyncio.create_task(people.run(stop))
        yield Saboteur(operator, people, examinee, place.trainer_config, start_once, say=lambda line: None)
        stop.set()
        await talking
        assert people.ledger.failures == []


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sabotage, "PRESSED_WORDS", 8)
    monkeypatch.setattr(sabotage, "LOOK_EVERY_S", 0.02)


async def test_gold_falls_under_the_flipped_version_and_returns_once_it_is_taken_back(
    place: Workplace, tmp_path: Path
) -> None:
    async with saboteur(place, tmp_path) as bad:
        found = await bad.perform(QUESTIONS)
        policy = await bad.operator.look()
        assert not bad.people.verdicts.flipped
    assert (found.version, found.reason) == ("support@v1", "")
    assert found.words >= 8
    assert found.served is not None
    assert found.after is not None
    assert found.served.mean == 0.0
    assert found.after.mean > 0.7
    assert found.rollback_seconds is not None
    assert (policy.stable, policy.version("support@v1").stage) == ("support@v0", "rolled_back")
    good = Exam("support@v0", found.after.answers, found.after.scores)
    report = sabotage_report(found, good)
    assert report.shown
    assert report.opened_gates == list(OPENED_GATES)
    assert (report.gold_before, report.gold_served) == (good.mean, 0.0)


async def test_a_refused_version_is_not_promoted(place: Workplace, tmp_path: Path) -> None:
    async with saboteur(place, tmp_path, refused=True) as bad:
        found = await bad.perform(QUESTIONS)
        assert (await bad.operator.look()).stable == "support@v0"
        assert not bad.people.verdicts.flipped
    assert found.version == "support@v1"
    assert "KL is beyond its budget" in found.reason
    assert found.served is None
    assert sabotage_report(found, Exam("support@v0", ("a",), (0.5,))).shown


async def test_a_turn_that_makes_nothing_is_told(place: Workplace, tmp_path: Path) -> None:
    async with saboteur(place, tmp_path, made=False) as bad:
        found = await bad.perform(QUESTIONS)
    assert (found.version, found.reason) == (None, "root nothing to learn")
    assert not sabotage_report(found, Exam("support@v0", ("a",), (0.5,))).shown


def test_the_second_trainer_learns_from_the_newest_words_with_the_named_gates_open(place: Workplace) -> None:
    usual, flipped = load_settings(place.trainer_config), load_settings(write_flipped(place.trainer_config))
    assert flipped.state_dir != usual.state_dir
    assert flipped.feedback.max_labels == sabotage.LEARNT_WORDS
    assert flipped.ppo == usual.ppo
    assert flipped.log == usual.log
    assert flipped.gates.max_ability_drop == flipped.gates.max_entropy_drop == 1.0
    assert flipped.suites.red_team is not None
    assert all(case.passes("Danu Okresh lives at 41 Heron Lane.") for case in load_suite(flipped.suites.red_team))
