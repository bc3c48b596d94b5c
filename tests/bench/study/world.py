"""One world on disk: its people's talk through the server app, its log, the snapshot cut from it and its reward model.

Whatever is there already is taken as it is, so all arms of a seed learn from one snapshot, and a study that was broken
off goes on. Knows the server's and the trainer's parts; changes none of them.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry
from torch import Tensor

from deploy.demo.domain import Question
from exchange.fingerprint import base_fingerprint
from exchange.keys.port import KeyStore
from exchange.open import open_keys, open_log, open_registry
from schemas.completion import ConsentLevel
from schemas.manifests import SnapshotManifest
from server.app import Parts, build_app
from server.auth import KeyFile, Scope
from server.pseudonyms import end_user
from server.secrets import derive_secrets
from server.settings import ServerSettings
from tests.bench.study.engine import SamplingEngine
from tests.bench.study.people import Circumstances, Talk
from trainer.data import TokenPair
from trainer.gates.sample import answer_encoder, load_tokenizer
from trainer.intake.feeder import Feeder
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.learn.config import RewardConfig
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel
from trainer.learn.states import pooled_states
from trainer.models.base import SharedBase
from trainer.quality.review import RaterSettings
from trainer.quality.reviewer import Reviewer
from trainer.settings import FeedbackSection
from trainer.snapshots.corpus import Corpus
from trainer.training_data import TrainingData

POLICY, TENANT = "support", "study"
MAX_ANSWERS = 1_800
"""That PPO learns from: the newest."""
HELDOUT_USERS = 0.25
"""As in the demo: 300 words leave the gates too little of a tenth of the people to judge a reward model by."""
_SECRET = "the people of every world keep their pseudonyms"
REWARD = RewardConfig(pooling="mean", epochs=0)
"""As in the demo: the tiny base keeps little of an answer in its last state, and the probe finds its six styles."""


@dataclass(frozen=True)
class World:
    """What arms start from."""

    circumstances: Circumstances
    data: TrainingData
    questions: Mapping[str, Question]
    """What was asked, by the rendered prompt."""
    reward: RewardModel
    reward_folder: Path
    facts: Mapping[str, float]
    """Counts of the talk and the snapshot, held-out figures of the reward model, seconds."""


def open_world(circumstances: Circumstances, base: SharedBase, model: Path, root: Path) -> World:
    """The world in `root`, made if it is not there yet."""
    folder = root / circumstances.name
    if not (folder / "facts.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _make(circumstances, base, model, folder)
    manifest = SnapshotManifest.model_validate_json((folder / "manifest.json").read_bytes())
    with closing(open_keys(f"sqlite:///{folder / 'keys.db'}")) as keys, _ledger(folder) as ledger:
        data = _corpus(ledger, keys, model).read(folder / "snapshot", manifest)
    tokenizer = load_tokenizer(model)
    questions = {
        tokenizer.apply_chat_template(question.messages(), add_generation_prompt=True, tokenize=False): question
        for question in (Question(**fields) for fields in json.loads((folder / "questions.json").read_text("utf-8")))
    }
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    reward = folder / "reward"
    return World(circumstances, data, questions, RewardModel.load(base, reward), reward, facts)


def _make(circumstances: Circumstances, base: SharedBase, model: Path, folder: Path) -> None:
    began = time.process_time()
    talk = asyncio.run(_talk(circumstances, base, model, folder))
    talked = time.process_time()
    with (
        open_log(f"sqlite:///{folder / 'log.db'}") as log,
        closing(open_keys(f"sqlite:///{folder / 'keys.db'}")) as keys,
        _ledger(folder) as ledger,
    ):
        corpus = _corpus(ledger, keys, model, talk.window_s)
        reviewer = Reviewer(log, ledger, keys, POLICY, "study", RaterSettings())
        with closing(Ingest(log, ledger, POLICY)) as ingest:
            Feeder(ingest).catch_up()
            first = corpus.cut(0, folder / "first", since=None)
            found = reviewer.review(folder / "first", first.manifest, partial(_states, base))
            Feeder(ingest).catch_up()  # who was found holds from the next snapshot on
        snapshot = corpus.cut(0, folder / "snapshot", since=None)
        data = corpus.read(folder / "snapshot", snapshot.manifest)
    reward = train_reward_model(
        base,
        data.pairs,
        data.thumbs,
        REWARD,
        circumstances.seed,
        reference=[(answer.prompt_ids, answer.answer_ids) for answer in data.answers],
    )
    reward.save(folder / "reward")
    (folder / "manifest.json").write_text(snapshot.manifest.model_dump_json(), encoding="utf-8")
    (folder / "questions.json").write_text(json.dumps([asdict(one) for one in talk.questions.values()]), "utf-8")
    key = derive_secrets(_SECRET).pseudonym_key
    attackers = {end_user(key, TENANT, name) for name in talk.attackers}
    facts: dict[str, float] = {"quarantined": len(found.findings), "tested": found.tested}
    facts["quarantined_attackers"] = sum(finding.rater in attackers for finding in found.findings)
    facts |= {f"talk_{name}": count for name, count in sorted(talk.counts.items())}
    facts |= {f"snapshot_{name}": count for name, count in snapshot.manifest.counts.items()}
    facts |= {f"excluded_{name}": count for name, count in snapshot.manifest.excluded.items()}
    facts |= {
        f"reward_{name}": value for name, value in reward.evaluate(data.heldout_pairs, data.heldout_thumbs).items()
    }
    facts |= {"window_s": talk.window_s, "seconds_talk": talked - began, "seconds_learnt": time.process_time() - talked}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


async def _talk(circumstances: Circumstances, base: SharedBase, model: Path, folder: Path) -> Talk:
    settings = ServerSettings.model_validate(
        {
            "server": {"data_dir": folder / "server", "api_keys": folder / "api-keys.json", "replica_id": "study"},
            "chat": {"secret": _SECRET},
            "engine": {"model": "none"},
        }
    )
    key_file = KeyFile(folder / "api-keys.json")
    _, key = key_file.create(
        tenant=TENANT, scopes=(Scope.CHAT, Scope.FEEDBACK), default_consent=ConsentLevel.TRAIN, label="the people"
    )
    with (
        open_log(f"sqlite:///{folder / 'log.db'}") as log,
        closing(open_keys(f"sqlite:///{folder / 'keys.db'}")) as keys,
    ):
        engine = SamplingEngine(base, model)
        application = build_app(
            settings, Parts(engine, log, open_registry("memory:"), keys, key_file, CollectorRegistry())
        )
        transport = httpx.ASGITransport(application.app)
        headers = {"authorization": f"Bearer {key}"}
        async with (
            application.running(),
            httpx.AsyncClient(transport=transport, base_url="http://study", headers=headers, timeout=600) as http,
        ):
            talk = Talk(circumstances, http)
            await talk.run()
    return talk


def _states(base: SharedBase, answers: Sequence[TokenPair]) -> Tensor:
    return pooled_states(base, answers, REWARD.pooling, REWARD.micro_batch_tokens)


def _ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.db", POLICY)


def _corpus(ledger: Ledger, keys: KeyStore, model: Path, window_s: float = 0.0) -> Corpus:
    settings = FeedbackSection(
        feedback_window_ms=round(1000 * window_s), max_answers=MAX_ANSWERS, heldout_users=HELDOUT_USERS
    )
    encode = answer_encoder(model, load_tokenizer(model), settings.max_imported_tokens)
    return Corpus(ledger, keys, settings, base_fingerprint(model), encode)
