"""Two apps on one base whose generation_config.json says top_p 0.8 and top_k 20, on real vLLM.

One leaves sampling to the model: what was kept is replayed exactly, so PPO may learn from its answers. The other asks
for temperature 0: its people's words still teach the reward model, and the doctor says in words what the rest is for.
A third way to answers that PPO may use is the collector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_log
from schemas.completion import COLLECTED
from schemas.topics import COMPLETIONS, FEEDBACK, TOPICS
from schemas.wire import LogRecord
from tests.conftest import GENERATION_DEFAULTS
from tests.engine.served import Served, served
from tests.engine_server import ENGINE_MARKS, EngineServer
from trainer.gates.sample import answer_encoder, load_tokenizer
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.joining.eligibility import Scope
from trainer.joining.exclusions import Reason
from trainer.joining.join import Joined, join
from trainer.learn.config import LoraSettings, PpoConfig
from trainer.learn.replay import replay
from trainer.models.base import SharedBase
from trainer.settings import FeedbackSection
from trainer.snapshots.corpus import Corpus

__all__ = ["served"]
pytestmark = ENGINE_MARKS

VISITS = 6
WINDOW_MS = 600_000


@dataclass(frozen=True)
class Apps:
    """What two apps came to, in a ledger; completion ids by app."""

    ledger: Ledger
    log_file: Path
    plain: frozenset[str]
    greedy: frozenset[str]


def visit(served: Served, user: str, **asked: Any) -> str:
    """A chat that ends by itself, and a thumb on it; returns the completion's id."""
    body = {
        "model": "support",
        "messages": [{"role": "user", "content": f"I am {user}. Where is my order?"}],
        "max_tokens": 200,
        "stop": list("aeio"),  # a random model never ends by itself, and what was cut off trains no PPO
        "user": user,
    }
    answer = served.post("/v1/chat/completions", body | asked)
    assert answer.status_code == 200, answer.text
    made = answer.json()["attune"]
    thumb = {
        "handle": made["handles"][0],
        "kind": "thumbs",
        "value": "up" if user.endswith(("0", "2", "4")) else "down",
    }
    assert served.post("/v1/feedback", thumb).status_code == 200
    return str(made["completion_id"])


def records_of(log: EventLog) -> list[LogRecord]:
    places = {TopicPartition(topic, number): 0 for topic in TOPICS for number in log.partitions(topic)}
    with closing(log.reader(places)) as reader:
        found = reader.poll(max_records=10_000)
    return [LogRecord(one.position.topic, one.key, one.value, one.headers) for one in found]


@pytest.fixture(scope="module")
def apps(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    folder = tmp_path_factory.mktemp("apps")
    plain = frozenset(visit(served, f"plain-{number}") for number in range(VISITS))
    greedy = frozenset(visit(served, f"greedy-{number}", temperature=0) for number in range(VISITS))
    assert served.recorder.flush(20)
    assert served.appender.flush(20)
    with open_log(f"sqlite:///{folder}/log.db") as copy:
        copy.append([one for one in records_of(served.log) if one.topic in (COMPLETIONS.name, FEEDBACK.name)])
        with (
            Ledger(folder / "state" / "ledger.db", "support") as ledger,
            closing(Ingest(copy, ledger, "support")) as ingest,
        ):
            while ingest.pump():
                pass
            yield Apps(ledger, folder / "log.db", plain, greedy)


def joined(apps: Apps, engine_server: EngineServer) -> Joined:
    known = apps.ledger.known()
    settled = replace(known, watermark=known.watermark + 2 * WINDOW_MS)
    return join(settled, Scope(engine_server.engine.base_fingerprint, 0), WINDOW_MS)


def test_what_the_model_itself_truncates_is_replayed_exactly_and_trains_ppo(
    served: Served, apps: Apps, engine_server: EngineServer, tiny_model: Path, tmp_path: Path
) -> None:
    assert GENERATION_DEFAULTS == {"top_p": 0.8, "top_k": 20}
    settings = FeedbackSection(feedback_window_ms=0, heldout_users=0, heldout_time=0)
    encode = answer_encoder(tiny_model, load_tokenizer(tiny_model), settings.max_imported_tokens)
    corpus = Corpus(apps.ledger, served.store, settings, engine_server.engine.base_fingerprint, encode)
    data = corpus.read(tmp_path / "cut", corpus.cut(0, tmp_path / "cut", since=None).manifest)
    mine = [answer for answer in data.answers if answer.completion_id in apps.plain]
    assert len(mine) == VISITS
    assert {(round(answer.top_p, 6), answer.top_k, answer.temperature) for answer in mine} == {(0.8, 20, 1.0)}
    base = SharedBase.load(tiny_model, LoraSettings(rank=8, alpha=16))
    found = replay(base, mine, {}, PpoConfig(), lambda _done, _total: None)
    assert found.left_out == {}, "every logged logprob comes out again"
    assert len(found.answers) == VISITS
    assert found.kept is not None


def test_temperature_0_teaches_the_reward_model_and_no_ppo(apps: Apps, engine_server: EngineServer) -> None:
    result = joined(apps, engine_server)
    spoken_of = {answer.completion.completion_id for word in result.words for answer in word.answers}
    assert apps.greedy | apps.plain <= spoken_of
    assert apps.plain <= {answer.completion.completion_id for answer in result.trainable}
    greedy = {one.id.partition("/")[0] for one in result.exclusions if one.reason is Reason.TEMPERATURE_ZERO}
    assert greedy == apps.greedy


def test_the_doctor_explains_the_rest_in_words(apps: Apps, tiny_model: Path, tmp_path: Path) -> None:
    config = tmp_path / "trainer.toml"
    lines = [f'model = "{tiny_model}"', f'log = "sqlite:///{apps.log_file}"', 'registry = "file:registry"']
    lines += ["[feedback]", "feedback_window_ms = 0", "min_answers = 1000"]
    config.write_text("\n".join(lines), encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", "-c", str(config), "--json"], catch_exceptions=False)
    found = {one["code"]: one for one in json.loads(result.output)["findings"]}
    assert f"PPO may learn from {VISITS} of {2 * VISITS} answers" in found["ppo_starved"]["message"]
    assert (
        f"{VISITS} of {2 * VISITS} answers cannot train PPO: decoded greedily"
        in found["ppo_temperature_zero"]["message"]
    )
    assert "exploration_share" in found["ppo_temperature_zero"]["remedy"]
    assert "top_p 0.8 and top_k 20" in found["generation_config"]["message"]
    assert "The trainer replays top_p and top_k" in found["generation_config"]["message"]


def test_the_collector_waits_for_quiet_and_gets_answers_from_the_whole_distribution(
    served: Served, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"messages": [{"role": "user", "content": f"Say {n}."}]}) for n in (1, 2)))
    words = ["collect", "--prompts", str(prompts), "--n", "3", "--limit", "6", "--rate", "100", "--max-tokens", "16"]
    result = CliRunner().invoke(app, [*words, "--url", served.url, "--api-key", served.key], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "6 answers to 2 prompts" in " ".join(result.output.split())
    served.recorder.flush(20)
    served.appender.flush(20)
    with Ledger(tmp_path / "ledger.db", "support") as ledger, closing(Ingest(served.log, ledger, "support")) as ingest:
        while ingest.pump():
            pass
        collected = [one for one in ledger.known().completions if one.domain == COLLECTED]
    assert [len(one.choices) for one in collected] == [3, 3]
    assert all(one.sampling.full_distribution and choice.has_logprobs() for one in collected for choice in one.choices)
