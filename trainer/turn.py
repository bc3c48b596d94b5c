"""One turn: from the labels that lie in the ledger to a version that is canary or rejected, with the reason.

The turn in progress lies in the state folder: its snapshot is fixed when it begins, and each finished step is there, so
a restart goes on where it stopped and ends with the same adapter. Its parent is the stable version of the moment it
began; should another version become stable meanwhile, the turn is dropped. Knows the order of things; what each of them
does is elsewhere.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from exchange.guidance import published_guidance
from exchange.journal import PolicyJournal
from exchange.registry.artifacts import describe_folder
from exchange.registry.port import Registry
from schemas.base import version_name
from schemas.lifecycle import Stage
from schemas.manifests import SnapshotManifest
from trainer.before import Before, fetch_before
from trainer.candidate import Learned, Workshop
from trainer.gates.sample import load_tokenizer
from trainer.home import Home
from trainer.judging import Judgement, Judging
from trainer.learn.aspects import unlearnable_floor
from trainer.learn.policy import learnable
from trainer.metrics import TrainerMetrics
from trainer.models.base import SharedBase
from trainer.models.files import read_adapter
from trainer.progress import Reporter
from trainer.quality.reviewer import Reviewer
from trainer.release.code_version import code_version
from trainer.release.publish import Candidate, ParentMoved, Publisher
from trainer.resuming import goes_on, outdated, settings_digest
from trainer.settings import TrainerSettings
from trainer.snapshots.corpus import Corpus
from trainer.snapshots.news import Mark
from trainer.state import LastTurn, StateDir, TurnState
from trainer.suites.loading import load_suites
from trainer.training_data import TrainingData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnOutcome:
    """What became of a turn."""

    kind: Literal["published", "rejected", "idle", "starved", "dropped"]
    """idle: too few new labels. starved: too little to learn from. dropped: the parent no longer serves."""
    message: str
    version: int | None = None


class _Erased(Exception):
    """The turn learns from someone who has been erased since it began. Never leaves the module."""


@dataclass(frozen=True)
class Turns:
    """Makes turns of one policy."""

    settings: TrainerSettings
    home: Home
    journal: PolicyJournal
    registry: Registry
    publisher: Publisher
    state: StateDir
    corpus: Corpus
    reviewer: Reviewer
    progress: Reporter
    metrics: TrainerMetrics

    def reserved(self) -> int | None:
        """The version number that the turn in progress has taken, if any."""
        turn = self.state.turn()
        return None if turn is None else turn.reserved

    def run(self) -> TurnOutcome:
        """Go on with the turn in progress, or begin one if there are labels enough.

        Raises:
            Stopped: a stop was asked for; the turn stays where it is.
            LeaseLost: another trainer makes versions now; the turn stays where it is.
            Unavailable: log or registry cannot be reached; the turn stays where it is.
        """
        try:
            outcome = self._run()
        finally:
            # The base is only held while a turn runs: a server may share the device.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if outcome.kind != "idle":
            self.metrics.turns.labels(outcome=outcome.kind).inc()
        return outcome

    def count(self) -> int:
        """New usable labels since the last turn; the funnel shows in the metrics."""
        stable = self.journal.state(self.settings.policy).stable
        counted, new = self.corpus.count(stable, self._counted_to())
        self.metrics.funnel(counted)
        self.metrics.labels.set(new)
        return new

    def _counted_to(self) -> Mark | None:
        """Up to where labels have counted; None before the first turn."""
        last = self.state.last()
        if last is None or last.mark is not None:
            return None if last is None else last.mark
        # Written before there were marks: what has been read by now is told by its time alone.
        read = 2**63
        return Mark(watermark=self.registry.snapshot(last.snapshot).watermark, read=read, imported=read)

    def _run(self) -> TurnOutcome:
        self.journal.refresh()
        state = self.journal.state(self.settings.policy)
        stable, turn = state.stable, self.state.turn()
        if turn is not None and turn.reserved is not None and state.versions[turn.reserved].stage is not Stage.RESERVED:
            # Its version was announced, or given up, and the trainer stopped before it could note that.
            self._finish(turn, None, None)
            turn = None
        if turn is not None:
            if (why := outdated(turn, stable, self.settings.policy, self.registry, self.corpus)) is not None:
                return self._drop(turn, why)
            turn = goes_on(turn, self.state, self.settings, self.registry, self.progress.say)
        else:
            new = self.count()
            needed = self.settings.feedback.min_new_labels
            if new < needed:
                return TurnOutcome("idle", f"{new} new labels; a turn begins at {needed}")
            turn = self._begin(stable)
        try:
            return self._learn(turn)
        except ParentMoved as moved:
            return self._drop(self.state.turn() or turn, moved.message)
        except _Erased:
            return self._drop(self.state.turn() or turn, "someone whose data it learnt from was erased")

    def _begin(self, parent: int) -> TurnState:
        self.state.drop_turn()
        folder = self.state.snapshot
        # What the parent has learnt from: a version that was rejected or taken back has taught nobody anything.
        since = None
        if parent:
            taught_by = self.registry.adapter(self.settings.policy, parent).snapshot
            since = self.registry.snapshot(taught_by).watermark
        guidance = published_guidance(self.registry, self.settings.policy)
        snapshot = self.corpus.cut(parent, folder, since=since, guidance=guidance)
        manifest = snapshot.manifest
        self.registry.publish_snapshot(folder, manifest)
        turn = TurnState(
            parent=parent,
            snapshot=manifest.digest,
            mark=self.corpus.mark(snapshot.joined),
            keys=self.corpus.living_keys(folder, manifest),
            settings=settings_digest(self.settings),
        )
        self.state.save_turn(turn)
        kinds = ("words", "pairs", "thumbs", "corrections", "imported", "answers")
        counts = ", ".join(f"{manifest.counts.get(kind, 0)} {kind}" for kind in kinds)
        left_out = ", ".join(f"{count} {reason}" for reason, count in manifest.excluded.items())
        self.progress.say(f"turn begins from {version_name(self.settings.policy, parent)}: {counts}")
        if left_out:
            self.progress.say(f"left out: {left_out}")
        return turn

    def _drop(self, turn: TurnState, why: str) -> TurnOutcome:
        if turn.reserved is not None:
            self.publisher.reject(turn.reserved, f"its turn was dropped: {why}")
        self.state.drop_turn()
        parent = version_name(self.settings.policy, turn.parent)
        return TurnOutcome("dropped", f"the turn from {parent} was dropped: {why}")

    def _check_erasures(self, turn: TurnState) -> None:
        """Raises _Erased where a key that opened the snapshot when the turn began is gone."""
        folder, manifest = self.state.snapshot, self.registry.snapshot(turn.snapshot)
        if self.corpus.living_keys(folder, manifest) < turn.keys:
            raise _Erased

    def _learn(self, turn: TurnState) -> TurnOutcome:
        self._check_erasures(turn)
        manifest = self.registry.snapshot(turn.snapshot)
        data = self.corpus.read(self.state.snapshot, manifest)
        self._tell_not_replayed({})
        if (why := self._too_few(data)) is not None:
            return self._starved(turn, why)
        before = self._before(turn, data)
        suites = load_suites(*self.settings.suites.files)
        workshop = self._workshop()
        data, not_replayed = workshop.replay(data, before)
        self._tell_not_replayed(Counter(str(reason) for reason in not_replayed.values()))
        if (why := self._too_few(data)) is not None:
            return self._starved(turn, why)
        self._review(manifest, workshop)
        reward = workshop.train_reward(data)
        learned = workshop.train_policy(data, reward, before)
        if learned.steps == 0:
            return self._starved(turn, f"no step could be made: {learned.stopped}")
        judgement = Judging(workshop, load_tokenizer(self.home.model)).judge(data, reward, learned, before, suites)
        self.metrics.kl.set(judgement.kl_nats_per_sequence)
        if judgement.accuracy is not None:
            self.metrics.accuracy.set(judgement.accuracy)
        self.progress.check()
        # What was read before an erasure is in the weights by now: they must not become a version.
        self._check_erasures(turn)
        return self._publish(turn, workshop, learned, judgement)

    def _review(self, manifest: SnapshotManifest, workshop: Workshop) -> None:
        """Test the raters; who fails is quarantined as of the next snapshot, this turn learns from what was cut."""
        found = self.reviewer.review(self.state.snapshot, manifest, workshop.states)
        if words := found.in_words():
            self.progress.say(words)

    def _too_few(self, data: TrainingData) -> str | None:
        self.metrics.trainable.set(len(data.answers))
        found, method = learnable(data.for_policy(), self.settings.policy_recipe), self.settings.learner.method
        if found < self.settings.feedback.min_answers or not any(data.labels().values()):
            noun = "pairs" if method == "dpo" else "answers"
            return f"{found} {noun} that {method.upper()} could learn from are too few"
        return unlearnable_floor(self.settings.reward_model.aspects, data.aspects) if method == "ppo" else None

    def _tell_not_replayed(self, not_replayed: Mapping[str, int]) -> None:
        self.metrics.not_replayed(not_replayed)
        if not_replayed:
            words = ", ".join(f"{count} {reason}" for reason, count in sorted(not_replayed.items()))
            self.progress.say(f"answers that PPO cannot replay: {words}")

    def _starved(self, turn: TurnState, why: str) -> TurnOutcome:
        self.metrics.starved.set(1)
        log.warning("no candidate from snapshot %s: %s", turn.snapshot[:12], why)
        self._finish(turn, None, None)
        return TurnOutcome("starved", f"no candidate: {why}")

    def _workshop(self) -> Workshop:
        """The base in memory, for as long as the turn needs it."""
        settings, name = self.settings, version_name(self.settings.policy, 0)
        base = SharedBase.load(
            self.home.model, settings.lora, dtype=settings.dtype, device=self.home.device, public_name=name
        )
        return Workshop(base, settings, self.state.turn_dir, self.progress)

    def _before(self, turn: TurnState, data: TrainingData) -> Before:
        last, policy = self.state.last(), self.settings.policy
        reward_model = None if last is None else last.reward_model
        return fetch_before(
            self.registry, policy, self.state.cache, parent=turn.parent, reward_model=reward_model, answers=data.answers
        )

    def _publish(self, turn: TurnState, workshop: Workshop, learned: Learned, judgement: Judgement) -> TurnOutcome:
        folder = workshop.reward_folder
        reward_digest = self.registry.publish_artifact("reward-models", folder, describe_folder(folder))
        if turn.reserved is None:
            turn = turn.model_copy(update={"reserved": self.publisher.reserve(turn.parent)})
            self.state.save_turn(turn)
        assert turn.reserved is not None  # noqa: S101
        config = read_adapter(workshop.adapter)[1]
        settings = self.settings
        candidate = Candidate(
            folder=workshop.adapter,
            parent=turn.parent,
            base_fingerprint=self.home.base_fingerprint,
            chat_template_hash=self.home.chat_template_hash,
            rank=config["r"],
            target_modules=tuple(config["target_modules"]),
            snapshot=turn.snapshot,
            reward_model=reward_digest,
            gates=judgement.gates,
            kl_nats_per_sequence=judgement.kl_nats_per_sequence,
            kl_budget_nats_per_sequence=settings.learner.kl_budget,
            recipe={**settings.recipe(), "stopped": learned.stopped},
            probes=judgement.probes,
            metrics={**learned.metrics, **judgement.metrics},
            code_version=code_version(),
            seed=settings.seed,
            examples=judgement.examples,
            curves=learned.curves,
            guidance=self.registry.snapshot(turn.snapshot).guidance,
        )
        published = self.publisher.publish(turn.reserved, candidate, self.state.turn_dir)
        self._finish(turn, judgement.accuracy, reward_digest)
        self.metrics.starved.set(0)
        name = version_name(settings.policy, published.version)
        if not published.passed:
            return TurnOutcome("rejected", f"{name} rejected by {published.reason}", published.version)
        where = "canary" if published.canary else "candidate"
        words = f"{name} published as {where}: {published.reason}, KL {judgement.kl_nats_per_sequence:.2f}"
        return TurnOutcome("published", f"{words} of {settings.learner.kl_budget:g} nats", published.version)

    def _finish(self, turn: TurnState, accuracy: float | None, reward_model: str | None) -> None:
        last = self.state.last()
        if reward_model is None and last is not None:
            accuracy, reward_model = last.accuracy, last.reward_model
        self.state.finish(
            LastTurn(snapshot=turn.snapshot, mark=turn.mark, accuracy=accuracy, reward_model=reward_model)
        )
