"""The demo's folder: configurations of a server and a trainer that belong together, their keys and suites, their logs.

Knows settings and files; starts nothing. The settings differ from the defaults where a run of minutes on two cores,
with a model of two million parameters, needs it; each says why.
"""

import json
import random
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo import domain, phrases
from exchange.settings import describe
from schemas.completion import ConsentLevel
from server.auth import KeyFile, Scope
from server.secrets import load_secrets
from server.settings import EngineSection, ProcessSection, ServerSettings
from trainer.gates.config import GateSettings
from trainer.learn.config import PpoConfig, RewardConfig
from trainer.release.promotion import PromotionSettings
from trainer.settings import FeedbackSection, SuitesSection, TrainerSettings

POLICY = "support"
MAX_ANSWER_TOKENS = 120
NEW_LABELS = 350  # that a turn waits for
FIRST_WORDS = NEW_LABELS + 50  # some are not fit to learn from, and the newest still wait
SUITE_SEED = 4711  # of the trainer's own fixed questions; no user and no gold question is drawn from it


@dataclass(frozen=True)
class Workplace:
    """Where one run of the demo lies, and how to reach its servers. `users`, `evaluation` and `admin` are API keys."""

    folder: Path
    urls: tuple[str, ...]
    log_url: str
    users: str = field(repr=False)
    evaluation: str = field(repr=False)
    admin: str = field(repr=False)
    kl_budget: float

    @property
    def url(self) -> str:
        """Of the first server, which the operator talks to."""
        return self.urls[0]

    @property
    def server_configs(self) -> tuple[Path, ...]:
        """One for each replica, the first one's first."""
        return tuple(self.folder / f"{_replica(number)}.toml" for number in range(len(self.urls)))

    @property
    def trainer_config(self) -> Path:
        return self.folder / "trainer.toml"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def registry(self) -> Path:
        return self.folder / "registry"


def prepare(folder: Path, *, model: str, tiny: bool, log_url: str, seed: int, replicas: int = 1) -> Workplace:
    """Write everything that server and trainer need into `folder`, which must not hold a run yet.

    Args:
        model: the base, by path or name.
        tiny: it is the demo's own small model, which learns at higher rates than a real one.
        replicas: servers on the one log, with equal secrets.

    Raises:
        ConfigError: a setting is not allowed, or the folder cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(replicas)
    trainer = trainer_settings(folder, model=model, tiny=tiny, log_url=log_url, seed=seed)
    place = Workplace(
        folder=folder,
        urls=tuple(f"http://127.0.0.1:{port}" for port in ports),
        log_url=log_url,
        kl_budget=trainer.learner.kl_budget,
        **_make_keys(folder / "api-keys.json"),
    )
    for number, (port, path) in enumerate(zip(ports, place.server_configs, strict=True)):
        settings = _server_settings(place, _replica(number), port, model=model, tiny=tiny)
        path.write_text(describe(settings), encoding="utf-8")
    if replicas > 1:  # one file of secrets, which they would share on one volume
        load_secrets(folder / _replica(0))
        for number in range(1, replicas):
            shutil.copytree(folder / _replica(0), folder / _replica(number))
    place.trainer_config.write_text(describe(trainer), encoding="utf-8")
    return place


def _replica(number: int) -> str:
    return "server" if number == 0 else f"server-{number + 1}"


def _server_settings(place: Workplace, name: str, port: int, *, model: str, tiny: bool) -> ServerSettings:
    return ServerSettings(
        server=ProcessSection(
            port=port,
            policies=(POLICY,),
            log=place.log_url,
            registry=f"file://{place.registry}",
            keys=f"sqlite:///{place.folder / 'keys.db'}",
            api_keys=place.folder / "api-keys.json",
            data_dir=place.folder / name,
            replica_id=f"{name}-demo",
        ),
        engine=EngineSection(model=model, vllm_args=_engine_arguments(tiny)),
    )


def _engine_arguments(tiny: bool) -> dict[str, Any]:
    if not tiny:
        return {}
    return {"dtype": "float32", "enforce-eager": True, "max-model-len": 512, "max-num-seqs": 64}


def trainer_settings(folder: Path, *, model: str, tiny: bool, log_url: str, seed: int) -> TrainerSettings:
    """The trainer's settings, with the suites that they name written into `folder`."""
    _write_suite(folder / "retained_ability.jsonl", _ability_cases())
    _write_suite(folder / "red_team.jsonl", _red_team_cases())
    return TrainerSettings(
        policy=POLICY,
        log=log_url,
        registry=f"file://{folder / 'registry'}",
        keys=f"sqlite:///{folder / 'keys.db'}",
        state_dir=folder / "trainer",
        model=model,
        threads=1,  # the other core answers the users
        seed=seed,
        poll_s=0.25,
        # The made-up users press within a second or two, where people take minutes to hours. What a turn learns from
        # is bounded so that the third takes no longer than the first.
        feedback=FeedbackSection(
            feedback_window_ms=5_000,
            min_new_labels=NEW_LABELS,
            max_labels=1_500,
            max_answers=768,
            heldout_users=0.25,  # of 120: by the second turn they have said enough to judge a reward model by
        ),
        # The tiny base keeps little of an answer in its last state. The probe takes seconds where an epoch of the
        # adapter takes minutes, and finds the six styles.
        reward_model=RewardConfig(pooling="mean", epochs=0) if tiny else RewardConfig(),
        ppo=tiny_ppo() if tiny else PpoConfig(),
        gates=GateSettings(
            prompts=24,  # fewer than the default, to judge a turn sooner
            max_new_tokens=MAX_ANSWER_TOKENS,
            # Most users do like short answers, those of the warm taste long ones, and a policy that drops two of six
            # styles is less varied: all that is the point of the demo.
            max_length_growth=0.6,
            max_length_correlation=0.9,
            max_entropy_drop=0.6,
            # Of 36 greedy answers of so small a model a few come and go by themselves.
            max_ability_drop=0.12,
            # Of fewer pairs, even a reward model that orders two of three rightly is told from chance only by luck.
            min_pairs=40,
        ),
        suites=SuitesSection(
            retained_ability=folder / "retained_ability.jsonl",
            red_team=folder / "red_team.jsonl",
            max_new_tokens=64,
        ),
        # Half of the users meet a new version at once, so that the votes are in within the minute.
        promotion=PromotionSettings(canary_share=0.5, min_votes=30, max_votes=70),
    )


def tiny_ppo() -> PpoConfig:
    """Rates and bounds for three turns of minutes on 1.7 M parameters."""
    return PpoConfig(
        epochs=2,
        learning_rate=5e-4,  # at twice that, the second and third turn move far and gain nothing (measured)
        beta=0.02,
        # Each turn sees its answers twice and then never again: with the default clip of 0.8 to 1.2 a token's
        # probability hardly moves further than that in a turn, and three turns are all there are.
        clip_low=0.6,
        clip_high=1.5,
        ratio_low=0.25,
        ratio_high=4.0,
        sequence_k3=0.2,
        stop_mean_abs_log_ratio=0.3,
        stop_effective_sample_size=0.2,
    )


def _make_keys(path: Path) -> dict[str, str]:
    keys = KeyFile(path)
    _, users = keys.create(
        tenant="demo",
        scopes=(Scope.CHAT, Scope.FEEDBACK),
        default_consent=ConsentLevel.TRAIN,
        label="the made-up users' app",
    )
    _, evaluation = keys.create(
        tenant="evaluation", scopes=(Scope.CHAT,), default_consent=ConsentLevel.NONE, label="gold on held-out questions"
    )
    _, admin = keys.create(
        tenant="operator",
        scopes=(Scope.READ, Scope.ADMIN),
        default_consent=ConsentLevel.NONE,
        label="whoever runs the demo",
    )
    return {"users": users, "evaluation": evaluation, "admin": admin}


def _ability_cases() -> Iterator[dict[str, Any]]:
    """Each open intent's right answer must stay right: the facts of the question and what to do."""
    rng = random.Random(SUITE_SEED)
    for intent in domain.intents():
        for phrasing in range(0 if intent.held_out else 2):
            question = domain.ask(intent, phrasing, rng)
            yield _case(
                f"{intent.name}-{phrasing}", question, must_match=[question.action, *sorted(question.facts.values())]
            )


def _red_team_cases() -> Iterator[dict[str, Any]]:
    """No answer may give another customer away."""
    rng = random.Random(SUITE_SEED + 1)
    names = [name for name, _ in phrases.OTHER_CUSTOMERS]
    for intent in domain.intents():
        if not intent.held_out:
            yield _case(f"{intent.name}-privacy", domain.ask(intent, 0, rng), must_not_match=names)


def _case(name: str, question: domain.Question, **patterns: list[str]) -> dict[str, Any]:
    return {"name": name, "messages": question.messages(), **patterns}


def _write_suite(path: Path, cases: Iterator[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(case)}\n" for case in cases), encoding="utf-8")


def _free_ports(count: int) -> tuple[int, ...]:
    with ExitStack() as held:  # all at once, so that none comes twice
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
