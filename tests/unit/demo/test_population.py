"""The users, the exam and the operator against the whole server on its in-memory engine, over real HTTP."""

import asyncio
import random

import httpx
import pytest

from deploy.demo import domain
from deploy.demo.evaluate import Examinee, examine
from deploy.demo.log_audit import count_found
from deploy.demo.operator import Operator
from deploy.demo.population import Population, Traffic
from deploy.demo.trace import trace_thumb
from deploy.demo.workplace import Workplace
from exchange.log.port import TopicPartition
from exchange.open import open_log
from schemas.completion import CompletionRecorded


async def test_every_acknowledged_word_of_the_users_lies_in_the_log(place: Workplace) -> None:
    people = Population(Traffic(place.urls, place.users, people=30, seats=6, pause_s=0.01, seed=2))
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


async def test_every_thumb_is_remembered_with_what_it_was_pressed_on(place: Workplace) -> None:
    people = Population(Traffic(place.urls, place.users, people=9, seats=4, pause_s=0.01, comparison_share=0.3, seed=5))
    people.verdicts.flipped = True
    stop = asyncio.Event()
    talking = asyncio.create_task(people.run(stop))
    while len(people.ledger.thumbs) < 10:
        assert not talking.done()
        await asyncio.sleep(0.05)
    stop.set()
    await talking
    ledger = people.ledger
    assert len(ledger.thumbs) == ledger.thumbs_up + ledger.thumbs_down
    assert ledger.thumbs.keys() <= ledger.feedback_ids
    assert sum(thumb.up for thumb in ledger.thumbs.values()) == ledger.thumbs_up
    async with httpx.AsyncClient(base_url=place.url, headers={"Authorization": f"Bearer {place.users}"}) as http:
        trace = await trace_thumb(http, ledger.thumbs, "support@v1")
    assert trace is not None
    assert trace.fate["id"] == trace.feedback_id
    assert trace.fate["status"] == "waiting"  # no trainer runs
    thumb = ledger.thumbs[trace.feedback_id]
    assert (trace.question, trace.answer) == (thumb.question, thumb.answer)
    assert (trace.answered_by, trace.value) == ("support@v0", "up" if thumb.up else "down")


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
        operator = Operator(http, (asker,), "support", question, check_alive=lambda: None)
        policy = await operator.look()
        assert policy.stable == "support@v0"
        assert policy.canary is None
        assert [version.stage for version in policy.versions] == ["stable"]
        assert not policy.versions[0].decided
        assert await operator.first_token("support", "support@v0") > 0
        assert await operator.published_at("support@v1") is None
        with pytest.raises(httpx.HTTPStatusError):
            await operator.roll_back("there is nothing before the base")
