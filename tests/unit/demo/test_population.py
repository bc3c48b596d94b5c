"""The users, the exam and the operator against the whole server on its in-memory engine, over real HTTP."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from deploy.demo import domain
from deploy.demo.evaluate import Examinee, examine
from deploy.demo.log_audit import count_found
from deploy.demo.operator import Operator
from deploy.demo.population import Population, Traffic
from deploy.demo.workplace import Workplace, prepare
from exchange.log import TopicPartition
from exchange.open import open_keys, open_log, open_registry
from schemas.completion import CompletionRecorded
from server.app import Parts, build_app
from server.auth import KeyFile
from server.engine.memory import InMemoryEngine
from server.settings import load_settings


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def some_answer(model: str, prompt: str, seed: int) -> str:
    """An answer in any style to any question; now and then it fits."""
    return domain.demonstrations(1, seed)[0].answer


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Workplace]:
    """A prepared demo folder whose server runs, on the in-memory engine."""
    made = prepare(tmp_path / "demo", model="none", tiny=True, log_url=f"sqlite:///{tmp_path / 'log.db'}", seed=1)
    settings = load_settings(made.server_config)
    with open_log(settings.server.log) as log, socket.socket() as listener:
        listener.bind((settings.server.host, settings.server.port))
        parts = Parts(
            engine=InMemoryEngine(reply=some_answer),
            log=log,
            registry=open_registry(settings.server.registry),
            keys=open_keys(settings.server.keys),
            api_keys=KeyFile(settings.server.api_keys),
            metrics_registry=CollectorRegistry(),
        )
        settings.server.data_dir.mkdir(parents=True, exist_ok=True)
        application = build_app(settings, parts)
        server = _Quiet(uvicorn.Config(application.app, lifespan="off", log_config=None, ws="none"))
        async with application.running():
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            async with httpx.AsyncClient(base_url=made.url) as http:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get("/livez")).is_success:
                            break
                    await asyncio.sleep(0.02)
            yield made
            server.should_exit = True
            await serving
        parts.keys.close()


async def test_every_acknowledged_word_of_the_users_lies_in_the_log(place: Workplace) -> None:
    people = Population(Traffic(place.url, place.users, people=30, seats=6, pause_s=0.01, seed=2))
    stop = asyncio.Event()
    talking = asyncio.create_task(people.run(stop))
    while len(people.ledger.feedback_ids) < 60:
        assert not talking.done()
        await asyncio.sleep(0.05)
    stop.set()
    await talking
    ledger = people.ledger
    assert ledger.failures == []
    assert ledger.requests_failed == 0
    assert ledger.answers.keys() == {"support@v0"}
    assert ledger.thumbs_up > 0
    assert ledger.thumbs_down > 0
    assert ledger.comparisons > 0
    assert len(ledger.feedback_ids) == ledger.thumbs_up + ledger.thumbs_down + ledger.comparisons
    assert ledger.feedback_sent >= len(ledger.feedback_ids)  # some send the same word twice
    assert ledger.live_gold("support@v0") is not None
    assert await asyncio.to_thread(count_found, place.log_url, ledger.feedback_ids) == len(ledger.feedback_ids)
    assert await asyncio.to_thread(count_found, place.log_url, {"fb_never"}) == 0


async def test_the_exam_leaves_nothing_in_the_log(place: Workplace) -> None:
    questions = domain.held_out_questions(12, seed=3)
    examinee = Examinee(place.url, place.evaluation, max_tokens=60, temperature=1.0)
    exam = await examine(examinee, "support@v0", questions)
    assert len(exam.answers) == len(exam.scores) == 12
    assert all(exam.answers)
    with open_log(place.log_url) as log:
        topic = CompletionRecorded.TOPIC
        assert all(log.end_offset(TopicPartition(topic, number)) == 0 for number in log.partitions(topic))


async def test_the_operator_sees_the_policy_and_hears_the_first_token(place: Workplace) -> None:
    question = domain.ask(domain.intents()[0], 0, random.Random(4))
    examinee = Examinee(place.url, place.evaluation, max_tokens=60, temperature=1.0)
    headers = {"Authorization": f"Bearer {place.admin}"}
    async with httpx.AsyncClient(base_url=place.url, headers=headers) as http, examinee.client() as asker:
        operator = Operator(http, asker, "support", question, check_alive=lambda: None)
        policy = await operator.look()
        assert policy.stable == "support@v0"
        assert policy.canary is None
        assert [version.stage for version in policy.versions] == ["stable"]
        assert not policy.versions[0].decided
        assert await operator.first_token("support", "support@v0") > 0
        assert await operator.published_at("support@v1") is None
        with pytest.raises(httpx.HTTPStatusError):
            await operator.roll_back("there is nothing before the base")
