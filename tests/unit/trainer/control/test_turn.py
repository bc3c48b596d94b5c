"""Whole turns with a tiny model on a log on disk: published, rejected, promoted, interrupted, nothing to do."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from exchange.fingerprint import base_fingerprint
from exchange.guidance import publish_guidance
from exchange.journal import PolicyJournal
from exchange.open import open_keys, open_log, open_registry
from exchange.privacy.erasures import read_erasures
from exchange.reading.explain import card_facts
from exchange.reading.influence import influence
from schemas.base import now_ms
from schemas.errors import ConfigError
from schemas.lifecycle import PolicyState, Stage
from schemas.manifests import GuidanceKind
from schemas.wire import encode_event
from tests.factories import PLAIN, START, Maker
from tests.tiny_models import make_tiny_model
from tests.unit.privacy.scan import Plants, scan
from tests.unit.trainer.control.world import World
from trainer.candidate import Workshop
from trainer.data import TokenPair
from trainer.gates.measure import answer_logprobs
from trainer.learn.config import LoraSettings
from trainer.main import run_trainer
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.progress import Reporter
from trainer.settings import TrainerSettings
from trainer.snapshots.dataset import open_dataset
from trainer.state import StateDir, TurnState

UNKNOWN_FLOOR = {"aspects": {"nobody-spoke-of-it": {"floor": 0.0}}}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    world = World(folder / "world", make_tiny_model(folder / "model"))
    world.talk(start_ms=0, comparisons=48, seed=1, prefix="a")
    return world


@pytest.fixture
def world(seeded: World, tmp_path: Path) -> World:
    """A copy of its own: the same log, keys and model, nothing trained yet."""
    shutil.copytree(seeded.folder, tmp_path / "world")
    return World(tmp_path / "world", seeded.model)


def once(settings: TrainerSettings, stop: threading.Event | None = None) -> int:
    return run_trainer(settings, once=True, stop=stop)


def state_of(world: World) -> PolicyState:
    with open_log(world.log) as log, closing(PolicyJournal(log)) as journal:
        journal.refresh()
        return journal.state("support")


def test_a_turn_publishes_a_canary_with_manifest_gates_and_lineage(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    states_of = Workshop.states

    def watched(self: Workshop, answers: Sequence[TokenPair]) -> torch.Tensor:
        states = states_of(self, answers)
        seen.append(states.shape)
        return states

    monkeypatch.setattr(Workshop, "states", watched)
    settings = world.settings(reward_model={"aspects": {"opening": {"weight": 0.5}}}, raters={"min_words": 5})
    monkeypatch.setattr("exchange.guidance.now_ms", lambda: START)
    rules, _ = publish_guidance(open_registry(world.registry), GuidanceKind.GUIDELINES, "support", b"Be brief.")
    assert once(settings) == 0
    ((answers, width),) = seen
    assert width > 1
    assert 60 < answers <= 96, "what the base makes of all that was judged, equal answers once"
    state = state_of(world)
    assert (state.stable, state.canary, state.canary_share) == (0, 1, 0.5)
    assert state.lease.holder is None, "given back"
    registry = open_registry(world.registry)
    manifest = registry.adapter("support", 1)
    assert manifest.parent == 0
    assert manifest.base_fingerprint == base_fingerprint(world.model)
    assert {result.name for result in manifest.gates.results} >= {"kl_budget", "length_drift", "red_team"}
    assert manifest.gates.passed
    assert 0 < manifest.kl_nats_per_sequence <= manifest.kl_budget_nats_per_sequence == settings.learner.kl_budget
    assert manifest.recipe["ppo"]["learning_rate"] == 1e-3  # type: ignore[index, call-overload]
    assert manifest.recipe["feedback"]["min_new_labels"] == 20  # type: ignore[index, call-overload]
    assert manifest.recipe["raters"] == {"quarantine": True, "min_words": 5, "false_discoveries": 0.05}
    assert manifest.metrics["answers"] >= 8
    assert str(tmp_path) not in manifest.model_dump_json(), "no path of this machine"
    snapshot = registry.snapshot(manifest.snapshot)
    assert snapshot.counts["words"] == 96
    assert snapshot.digest == manifest.snapshot
    assert snapshot.funnel["reward_model"] == 96
    assert snapshot.words_by_source == {"user": 96}
    assert [(one.kind, one.digest) for one in snapshot.guidance] == [(GuidanceKind.GUIDELINES, rules.digest)]
    assert manifest.guidance == snapshot.guidance
    assert len(manifest.examples) == 5, "of the suites' questions, answered by base and candidate"
    facts = card_facts(registry, "support", 1)
    assert facts.curves is not None
    assert facts.curves.steps[-1] == manifest.metrics["steps"]
    assert facts.curves.series["kl_to_base_per_sequence"][-1] is not None
    report = facts.reward_model
    assert report is not None
    assert report.figures["accuracy_pairs"] == manifest.metrics["reward_accuracy_pairs"]
    assert {one.name for one in report.slices if one.by == "source"} == {"user"}
    assert {one.name for one in report.slices if one.by == "heldout"} <= {"user", "time"}
    assert sum(one.count for one in report.reliability_pairs) == 2 * report.figures["pairs"]
    (aspect,) = report.aspects
    assert (aspect.name, aspect.weight, aspect.floor) == ("opening", 0.5, None)
    assert aspect.values + aspect.heldout == snapshot.counts["aspects"] == 48
    (value,) = (result for result in manifest.gates.results if result.name == "off_policy_value")
    assert value.passed, "nobody thumbed an answer, so nothing is said"
    assert value.value is None
    told = {result.name: result for result in manifest.gates.results}
    assert told["audit_reward"].value is None, "panels of four people each cannot tell what others like"
    assert "No audit panel tells from chance" in told["audit_reward"].explanation
    assert told["padding"].value is not None
    assert told["flattery"].value is not None
    assert {"lure_said-twice", "lure_great-question", "audit_trained_gain"} <= manifest.metrics.keys()
    registry.fetch_artifact("reward-models", manifest.reward_model, tmp_path / "cache")

    # The probes are what a server will compute: fresh from the published files, without the trainer's memory.
    folder = registry.fetch_adapter("support", 1, tmp_path / "cache")
    base = SharedBase.load(world.model, LoraSettings(rank=4, alpha=8))
    load_role(base, POLICY, folder)
    assert len(manifest.probes) == 3
    for probe in manifest.probes:
        pair = (probe.prompt_token_ids, probe.answer_token_ids)
        (fresh,) = answer_logprobs(base, POLICY, [pair], token_budget=512)
        assert fresh == pytest.approx(probe.logprobs, abs=1e-4)
        (plain,) = answer_logprobs(base, None, [pair], token_budget=512)
        assert plain != pytest.approx(probe.logprobs, abs=1e-4), "a probe must tell the adapter from the base"


def test_votes_promote_and_the_next_turn_continues_from_there(world: World) -> None:
    settings = world.settings()
    assert once(settings) == 0
    assert once(settings) == 3, "the canary is undecided"
    world.vote(canary=1, stable=0, wins=6, losses=1, at_ms=now_ms() - START + 1_000, prefix="w")
    assert once(settings) == 0
    state = state_of(world)
    assert (state.stable, state.canary) == (1, None)
    assert state.versions[1].reason.startswith("6 of 7 blinded votes")
    assert once(settings) == 3, "no new labels"
    gone, make = [f"user-{number}" for number in range(3, 12)], Maker()
    with closing(open_keys(settings.keys)) as keys:
        for subject in gone:
            keys.destroy(subject)
    world.write([make.erasure(subject, at=now_ms() - START) for subject in gone])
    later = now_ms() - START + 60_000
    world.talk(start_ms=later, comparisons=24, seed=2, prefix="b")
    assert once(settings) == 0, "fewer labels than before, but new ones"
    registry = open_registry(world.registry)
    second = registry.adapter("support", 2)
    assert second.parent == 1
    assert second.digest != registry.adapter("support", 1).digest
    snapshot = registry.snapshot(second.snapshot)
    assert snapshot.counts["answers"] == 49, "what is new since the parent learnt: 48, and one that waited"
    assert state_of(world).versions[2].parent == 1


def test_a_failed_gate_rejects_the_number_and_publishes_no_adapter(world: World) -> None:
    strict = world.settings(gates={"must_measure": ["kl_budget", "heldout_accuracy"], "min_pairs": 1000})
    assert once(strict) == 0
    state = state_of(world)
    assert state.canary is None
    assert state.versions[1].stage is Stage.REJECTED
    assert "people are too few to judge the reward model" in state.versions[1].reason
    assert open_registry(world.registry).versions("support") == ()
    assert once(strict) == 3, "it takes new labels to try again"


def test_a_turn_by_dpo_learns_where_no_answer_could_train_ppo(seeded: World, tmp_path: Path) -> None:
    world = World(tmp_path / "world", seeded.model)
    greedy = PLAIN.model_copy(update={"temperature": 0.0})
    world.talk(start_ms=0, comparisons=48, seed=1, prefix="a", sampling=greedy)
    settings = world.settings(
        learner={"method": "dpo", "max_tokens": 20_000}, dpo={"minibatch_pairs": 8, "learning_rate": 1e-3}
    )
    assert once(settings) == 0
    manifest = open_registry(world.registry).adapter("support", 1)
    assert manifest.recipe["dpo"]["learning_rate"] == 1e-3  # type: ignore[index, call-overload]
    assert "ppo" not in manifest.recipe
    assert {"implied_margin", "steps", "tokens"} <= manifest.metrics.keys()
    assert "beta_next" not in manifest.metrics
    assert 0 < manifest.metrics["tokens"] <= 20_000
    assert 0 < manifest.kl_nats_per_sequence <= settings.learner.kl_budget


def test_nothing_to_do_says_so_with_exit_code_3(world: World) -> None:
    assert once(world.settings(feedback={"min_new_labels": 1000})) == 3
    assert once(world.settings(feedback={"min_answers": 1000})) == 3
    assert once(world.settings(state_dir=world.folder / "other", reward_model=UNKNOWN_FLOOR)) == 3
    assert state_of(world).versions.keys() == {0}


def test_an_interrupted_turn_goes_on_and_ends_with_the_same_adapter(
    seeded: World, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(seeded.folder, tmp_path / "twin")
    twin = World(tmp_path / "twin", seeded.model)
    settings = {"ppo": {"epochs": 2}}
    assert once(world.settings(**settings)) == 0
    expected = open_registry(world.registry).adapter("support", 1)

    stop = threading.Event()
    runs: list[list[str]] = []

    class Interrupting(Reporter):
        def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
            super().__call__(stage, done, total, metrics)
            runs[-1].append(f"{stage} {done}")
            if len(runs) == 1 and (stage, done) == ("ppo", 3):
                stop.set()

    monkeypatch.setattr("trainer.main.Reporter", Interrupting)
    runs.append([])
    assert once(twin.settings(**settings), stop) == 0
    assert state_of(twin).versions.keys() == {0}, "nothing was published"
    stop.clear()
    torch.manual_seed(99)  # whatever the process did in between
    runs.append([])
    assert once(twin.settings(**settings), stop) == 0
    found = open_registry(twin.registry).adapter("support", 1)
    assert "reward_model 1" in runs[0]
    assert "reward_model 1" not in runs[1], "finished steps are not done again"
    assert "ppo 1" not in runs[1], "PPO goes on from its checkpoint"
    assert found.snapshot == expected.snapshot
    assert found.digest == expected.digest


def test_a_turn_that_goes_on_under_other_settings_is_what_its_manifest_says(
    seeded: World, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(seeded.folder, tmp_path / "twin")
    twin = World(tmp_path / "twin", seeded.model)
    changed = world.settings(reward_model={"epochs": 3})
    assert once(changed) == 0
    expected = open_registry(world.registry).adapter("support", 1)

    stop = threading.Event()

    class Interrupting(Reporter):
        def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
            super().__call__(stage, done, total, metrics)
            if stage == "compare":
                stop.set()

    with monkeypatch.context() as patched:
        patched.setattr("trainer.main.Reporter", Interrupting)
        assert once(twin.settings(), stop) == 0
    folder = twin.settings().state_dir / "turn"
    assert {"reward", "policy", "learned.json"} <= {path.name for path in folder.iterdir()}
    assert once(twin.settings(reward_model={"epochs": 3})) == 0
    found = open_registry(twin.registry).adapter("support", 1)
    assert found.recipe == expected.recipe
    assert (found.snapshot, found.reward_model) == (expected.snapshot, expected.reward_model)
    assert found.digest == expected.digest


def test_a_turn_whose_parent_was_taken_back_is_dropped(world: World) -> None:
    settings = world.settings()
    assert once(settings) == 0
    world.vote(canary=1, stable=0, wins=6, losses=1, at_ms=now_ms() - START + 1_000, prefix="w")
    with StateDir(settings.state_dir) as state:
        state.save_turn(TurnState(parent=0, snapshot="0" * 64))
    assert once(settings) == 0, "promoted; the turn from v0 is dropped"
    with StateDir(settings.state_dir) as state:
        assert state.turn() is None


def test_a_second_trainer_in_the_same_folder_is_refused(world: World) -> None:
    settings = world.settings()
    with StateDir(settings.state_dir), pytest.raises(ConfigError, match="another trainer works in"):
        once(settings)


def test_the_loop_runs_until_it_is_stopped_and_gives_the_lease_back(world: World) -> None:
    settings, stop = world.settings(), threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_trainer(settings, stop=stop)))
    thread.start()
    try:
        for _ in range(600):
            if state_of(world).canary == 1:
                break
            stop.wait(0.1)
        world.vote(canary=1, stable=0, wins=6, losses=1, at_ms=now_ms() - START + 1_000, prefix="w")
        for _ in range(600):
            if state_of(world).stable == 1:
                break
            stop.wait(0.1)
    finally:
        stop.set()
        thread.join(60)
    assert codes == [0]
    state = state_of(world)
    assert (state.stable, state.lease.holder) == (1, None)


def test_someone_erased_during_a_turn_is_in_no_version_and_no_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in PPO, with a reward model and a checkpoint that learnt from her, then erased: made anew without."""
    settings, stop = world.settings(ppo={"epochs": 2}), threading.Event()

    class Interrupting(Reporter):
        def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
            super().__call__(stage, done, total, metrics)
            if (stage, done) == ("ppo", 3):
                stop.set()

    with monkeypatch.context() as patched:
        patched.setattr("trainer.main.Reporter", Interrupting)
        assert once(settings, stop) == 0
    folder = settings.state_dir / "turn"
    assert list(folder.glob("checkpoints/step-*"))
    manifest = open_registry(world.registry).snapshot(
        TurnState.model_validate_json((folder / "turn.json").read_bytes()).snapshot
    )
    subject = "user-3"
    with closing(open_keys(settings.keys)) as keys:
        opened = open_dataset(folder / "snapshot", manifest, keys, lambda _, text: [ord(letter) for letter in text])
        hers = [answer.answer_ids for answer in opened.train.answers if answer.group == subject]
        others = {answer.answer_ids for answer in opened.train.answers if answer.group != subject}
        runs = tuple(ids for ids in hers if ids not in others and len(set(ids)) > 3)
        assert runs
        plants = Plants(tokens=runs)
        assert scan(world.folder, plants).readable, "with her key, her tokens are there to be read"

        with open_log(world.log) as log:
            request = Maker().erasure(subject, at=now_ms() - START)
            log.append([encode_event(request)])
            keys.destroy(subject)
            assert once(settings) == 0
            (erasure,) = read_erasures(log)
            assert [event.part for event in erasure.applied] == ["ledger"]
            assert (
                influence(open_registry(world.registry), "support", subject, world.folder / "work").all == frozenset()
            )
            assert influence(open_registry(world.registry), "support", "user-4", world.folder / "work").all == {1}
    assert state_of(world).canary == 1
    found = scan(world.folder, plants)
    assert found.readable == []
    assert 0 < found.opened < found.sealed
