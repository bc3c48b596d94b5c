"""All eleven steps of the way, on real parts: vLLM, Kafka, and server and trainer as processes of their own.

One story, told in order: people talk and press thumbs, a turn makes support@v1, it serves as a canary, blinded votes
promote it, an operator takes it back. The base is random, so nothing here says that answers get better; the demo does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_keys, open_log, open_registry
from exchange.registry.port import Registry
from schemas.completion import CompletionContent, CompletionRecorded
from schemas.event import Event
from schemas.events import AnswerDisplayed
from schemas.feedback import FeedbackReceived
from schemas.sealed import unseal
from schemas.wire import decode_event
from tests.e2e.running import RunningServer, attune

pytestmark = [pytest.mark.engine, pytest.mark.kafka, pytest.mark.e2e]

CHATS = 96
# A turn from little data, and no gate that a random model's noise could close; all gates still run and report.
TRAINER = {
    "ATTUNE_FEEDBACK__FEEDBACK_WINDOW_MS": "1000",
    "ATTUNE_FEEDBACK__MIN_NEW_LABELS": "40",
    "ATTUNE_FEEDBACK__MIN_ANSWERS": "16",
    "ATTUNE_GATES__MAX_LENGTH_GROWTH": "9",
    "ATTUNE_GATES__MAX_LENGTH_CORRELATION": "1",
    "ATTUNE_GATES__MAX_ENTROPY_DROP": "1",
    "ATTUNE_GATES__MAX_ABILITY_DROP": "1",
    "ATTUNE_GATES__MAX_ACCURACY_DROP": "1",
    "ATTUNE_GATES__MIN_AUDIT_SHARE": "0",
    "ATTUNE_GATES__MAX_SLICES_WORSE": "9",
    "ATTUNE_GATES__MAX_LURE_PAY": "99",
    "ATTUNE_GATES__MUST_MEASURE": '["kl_budget"]',
    "ATTUNE_GATES__MAX_NEW_TOKENS": "16",
    "ATTUNE_SUITES__MAX_NEW_TOKENS": "16",
    "ATTUNE_LORA__RANK": "8",
    "ATTUNE_PROMOTION__MIN_VOTES": "6",
    "ATTUNE_PROMOTION__MAX_VOTES": "60",
    "ATTUNE_PROMOTION__CANARY_SHARE": "0.5",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Story:
    """What the steps leave for the ones after them."""

    server: RunningServer
    log: EventLog
    keys: KeyStore
    registry: Registry
    acknowledged: set[str] = field(default_factory=set)

    def post(self, path: str, body: dict[str, Any], *, key: dict[str, str] | None = None) -> httpx.Response:
        return httpx.post(self.server.url + path, json=body, headers=key or self.server.app(), timeout=60)

    def chat(self, user: str, **more: Any) -> dict[str, Any]:
        body = {
            "model": "support",
            "messages": [{"role": "user", "content": f"My name is {user}. Where is my order?"}],
            "max_tokens": 60,
            "stop": list("aeio"),  # a random model never ends by itself, and PPO leaves out what was cut off
            "user": user,
            "top_p": 1.0,
            "top_k": 0,
        }
        answer = self.post("/v1/chat/completions", body | more)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def say(self, body: dict[str, Any]) -> None:
        answer = httpx.post(f"{self.server.url}/v1/feedback", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        self.acknowledged.add(answer.json()["id"])

    def policy(self) -> dict[str, Any]:
        url = f"{self.server.url}/v1/admin/policies/support"
        found: dict[str, Any] = httpx.get(url, headers=self.server.admin(), timeout=60).json()
        return found

    def until_serving(self, *, timeout_s: float = 60, **wanted: object) -> dict[str, Any]:
        """The state once the journal says what is wanted and this replica has loaded it."""
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.policy()
            loaded = {name for name in wanted.values() if name is not None} <= set(state["serving"])
            if loaded and all(state[what] == value for what, value in wanted.items()):
                return state
            assert time.monotonic() < deadline, state
            assert not state["refused"], state
            time.sleep(0.05)

    def events(self, topic: str) -> list[Event]:
        places = {TopicPartition(topic, number): 0 for number in self.log.partitions(topic)}
        reader, found = self.log.reader(places), []
        ends = {place: self.log.end_offset(place) for place in places}
        while any(reader.positions()[place] < end for place, end in ends.items()):
            found += reader.poll(timeout_s=1.0)
        reader.close()
        return [decode_event(record.value, record.headers) for record in found]

    def train_once(self) -> str:
        done = attune("train", "--once", "-c", str(self.server.home.trainer), **TRAINER)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def story(attune_server: RunningServer) -> Iterator[Story]:
    folder = attune_server.folder
    log, keys = open_log(attune_server.log_url), open_keys(f"sqlite:///{folder}/keys.db")
    yield Story(attune_server, log, keys, open_registry(f"file://{folder}/registry"))
    keys.close()
    log.close()


def test_people_talk_and_press_thumbs(story: Story) -> None:
    """Steps 1 to 3: answered, recorded with exact tokens, and every acknowledged thumb is on the log."""

    def visit(number: int) -> dict[str, Any]:
        answer = story.chat(f"user-{number % 24}")
        text = answer["choices"][0]["message"]["content"]
        thumb = "up" if sum(map(ord, text)) % 2 else "down"
        story.say({"handle": answer["attune"]["handles"][0], "kind": "thumbs", "value": thumb})
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(visit, range(CHATS)))
    for number in range(24):
        asked = {"model": "support", "messages": [{"role": "user", "content": "Hello?"}], "k": 2}
        shown = story.post(
            "/v1/comparisons", asked | {"max_tokens": 8, "user": f"user-{number}", "top_p": 1.0, "top_k": 0}
        ).json()
        assert "support@v" not in str(shown)
        story.say({"handle": shown["handle"], "kind": "comparison", "winner": number % 2})

    on_log = {event.id for event in story.events("attune.feedback") if isinstance(event, FeedbackReceived)}
    assert story.acknowledged <= on_log

    recorded = _eventually_recorded(story, {answer["attune"]["completion_id"] for answer in answers})
    for answer in answers:
        event = recorded[answer["attune"]["completion_id"]]
        key = story.keys.lookup(event.content.key_id)
        assert key is not None
        content = CompletionContent.model_validate_json(unseal(event.content, key=key.secret, event_id=event.id))
        assert content.choices[0].text == answer["choices"][0]["message"]["content"]
        assert len(content.choices[0].token_ids) == answer["usage"]["completion_tokens"]
        assert len(content.prompt_token_ids) == answer["usage"]["prompt_tokens"]
        assert event.choices[0].logprobs is not None
        assert event.sampling.full_distribution
        assert b"My name is" not in event.model_dump_json().encode()


def _eventually_recorded(story: Story, wanted: set[str]) -> dict[str, CompletionRecorded]:
    deadline = time.monotonic() + 30
    while True:
        found = [event for event in story.events("attune.completions") if isinstance(event, CompletionRecorded)]
        by_id = {event.completion_id: event for event in found}
        if wanted <= by_id.keys():
            return by_id
        assert time.monotonic() < deadline, f"{len(wanted - by_id.keys())} completions are not on the log"
        time.sleep(0.2)


def test_a_turn_makes_a_version_that_serves_as_canary(story: Story) -> None:
    """Steps 4 to 10: joined, cut into a snapshot, learnt from, judged, published, loaded beside the stable one."""
    time.sleep(1.5)
    story.chat("user-0")  # closes the feedback window of all that went before, in event time
    time.sleep(0.5)
    story.train_once()
    state = story.until_serving(canary="support@v1", stable="support@v0")

    manifest = story.registry.adapter("support", 1)
    version = next(one for one in state["versions"] if one["version"] == "support@v1")
    assert (version["digest"], version["parent"]) == (manifest.digest, "support@v0")
    assert manifest.gates.passed
    assert {"kl_budget", "heldout_accuracy", "length_drift", "retained_ability", "red_team"} <= {
        result.name for result in manifest.gates.results
    }
    assert 0 < manifest.kl_nats_per_sequence <= manifest.kl_budget_nats_per_sequence
    assert manifest.probes
    snapshot = story.registry.snapshot(manifest.snapshot)
    assert snapshot.counts["thumbs"] > 0
    assert snapshot.counts["pairs"] > 0
    assert sum(snapshot.counts_by_version.values()) > 0

    answer = story.chat("somebody", model="support@v1")
    assert answer["model"] == "support@v1"
    spoken = {story.chat(f"user-{number}")["model"] for number in range(24)}
    assert spoken == {"support@v0", "support@v1"}
    assert len({story.chat("user-3")["model"] for _ in range(4)}) == 1  # sticky


def test_blinded_votes_promote_it(story: Story) -> None:
    """Step 11: the votes of people who could not know which answer was whose."""
    for number in range(10):
        asked = {"model": "support", "messages": [{"role": "user", "content": f"Question {number}?"}], "k": 2}
        shown = story.post("/v1/comparisons", asked | {"max_tokens": 8, "user": f"voter-{number}"}).json()
        sides = _versions_shown(story, shown["id"])
        assert sorted(sides) == [0, 1]
        story.say({"handle": shown["handle"], "kind": "comparison", "winner": sides.index(1)})
    story.train_once()
    story.until_serving(stable="support@v1", canary=None)
    assert {story.chat(f"user-{number}")["model"] for number in range(8)} == {"support@v1"}


def _versions_shown(story: Story, comparison_id: str) -> list[int]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for event in story.events("attune.feedback"):
            if isinstance(event, AnswerDisplayed) and event.comparison_id == comparison_id:
                return [candidate.version for candidate in event.candidates]
        time.sleep(0.1)
    raise AssertionError(f"{comparison_id} was not recorded as displayed")


def test_an_operator_takes_it_back(story: Story) -> None:
    """One call, and the next answer is the old version's; the journal says who, when and why."""
    environment = {"ATTUNE_URL": story.server.url, "ATTUNE_API_KEY": story.server.home.admin_key}
    undone = attune("policy", "rollback", "support", "--reason", "answers got worse", **environment)
    assert undone.returncode == 0, undone.stderr
    assert story.chat("user-1")["model"] == "support@v0"
    shown = attune("policy", "show", "support", "--history", **environment, COLUMNS="200").stdout
    assert "rolled_back" in shown
    assert "answers got worse" in shown


def test_everything_acknowledged_was_counted_once(story: Story) -> None:
    found = [event.id for event in story.events("attune.feedback") if isinstance(event, FeedbackReceived)]
    assert story.acknowledged <= set(found)
    assert len(story.acknowledged) == CHATS + 24 + 10
