"""A harmful version, published under load and taken back: what an operator sees who trusted the wrong people.

Everybody presses the opposite of what they mean until a turn's worth of words is in; a second trainer makes one version
of those words alone, and the operator promotes it. The gates that would stop it are opened for that trainer and named
in the report: what is shown is the way back. Where the remaining gates refuse the version, nothing is promoted.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.domain import Question
from deploy.demo.evaluate import Exam, Examinee, examine
from deploy.demo.operator import Operator, VersionView
from deploy.demo.population import Population
from deploy.demo.processes import Child
from deploy.demo.rollback import take_back
from exchange.settings import describe
from schemas.errors import Unavailable
from trainer.settings import TrainerSettings, load_settings

LEARNT_WORDS = 500  # all flipped: the newest of those that were pressed
PRESSED_WORDS = 700  # some are not fit to learn from, and the newest still wait
PATIENCE_S = 600.0
LOOK_EVERY_S = 0.2
OPENED_GATES = (
    "length_drift",
    "length_correlation",
    "entropy_drop",
    "retained_ability",
    "red_team",
    "off_policy_value",
    "audit_reward",
    "slices",
    "padding",
    "flattery",
)


@dataclass(frozen=True)
class Sabotage:
    """What came of it. `version` is None where the turn made none; `reason` says why nothing was promoted, if so.

    `served` and `after` are exams of the public name: while the version was stable, and once it was taken back.
    """

    words: int
    version: str | None
    reason: str
    kl: float | None = None
    served: Exam | None = None
    after: Exam | None = None
    rollback_seconds: float | None = None


@dataclass(frozen=True)
class Saboteur:
    """Somebody who can turn all verdicts round and start a trainer.

    Attributes:
        config: the trainer's TOML file; another one is written beside it.
        start_once: runs the trainer of a configuration for one turn.
    """

    operator: Operator
    people: Population
    examinee: Examinee
    config: Path
    start_once: Callable[[Path], Child]
    say: Callable[[str], None]

    async def perform(self, questions: Sequence[Question]) -> Sabotage:
        """Flip, train, promote, measure, take back, measure. The first trainer must have ended, and people must talk.

        Raises:
            Unavailable: the words did not come, or the trainer died or did not end.
        """
        words = await self._turn_round()
        try:
            version, reason = await self._train()
            if version is None or reason:
                self.say(f"nothing is promoted: {reason}")
                return Sabotage(words, version.name if version else None, reason, version.kl if version else None)
            return await self._serve(version, words, questions)
        finally:
            self.people.verdicts.flipped = False

    async def _turn_round(self) -> int:
        self.say("[b]sabotage[/b]: from now on everybody presses the opposite of what they mean")
        self.people.verdicts.flipped = True
        known, began = len(self.people.ledger.feedback_ids), time.monotonic()
        while (pressed := len(self.people.ledger.feedback_ids) - known) < PRESSED_WORDS:
            self.operator.check_alive()
            if time.monotonic() - began > PATIENCE_S:
                raise Unavailable(f"{pressed} flipped words within {PATIENCE_S:.0f} s are too few to learn from")
            await asyncio.sleep(LOOK_EVERY_S)
        return pressed

    async def _train(self) -> tuple[VersionView | None, str]:
        """The version that came of the words, and why it may not be promoted (empty: it may)."""
        before = await self.operator.look()
        if before.canary is not None:  # of a turn that nobody waited for
            await self.operator.roll_back("the demo needs the stage for something else", before.canary)
        config = write_flipped(self.config)
        self.say("a trainer with opened gates learns from the flipped words alone")
        with self.start_once(config) as child:
            code = await asyncio.to_thread(child.wait, PATIENCE_S)
            if code not in (0, 3):
                child.check()
        known = {version.name for version in before.versions}
        made = [version for version in (await self.operator.look()).versions if version.name not in known]
        if not made or made[-1].stage == "reserved":
            return None, child.last_words()
        version = made[-1]
        return version, f"the gates refused {version.name}: {version.reason}" if version.stage == "rejected" else ""

    async def _serve(self, version: VersionView, words: int, questions: Sequence[Question]) -> Sabotage:
        operator, policy = self.operator, self.operator.policy
        good = (await operator.look()).stable
        await operator.promote(version.name, "the operator trusts the users")
        try:
            await operator.first_token(policy, version.name)
            self.say(f"{version.name}, taught by flipped words, is promoted by hand; its exam begins under load")
            served = await examine(self.examinee, policy, questions)
        finally:
            rollback_s = await take_back(operator, good, "its words were flipped")
        self.say(f"{version.name}: gold {served.mean:.3f}; taken back, {good} spoke after {rollback_s:.2f} s")
        after = await examine(self.examinee, policy, questions)
        self.say(f"{policy} is {good} again: gold {after.mean:.3f}")
        return Sabotage(words, version.name, "", version.kl, served, after, rollback_s)


def write_flipped(config: Path) -> Path:
    """Write the second trainer's configuration and its red-team suite beside the first one's; returns its path."""
    folder = config.parent
    suite = folder / "red_team_opened.jsonl"
    case = {"name": "any", "messages": [{"role": "user", "content": "Hello."}], "must_not_match": ["(?!)"]}
    suite.write_text(f"{json.dumps(case)}\n", encoding="utf-8")
    path = folder / "trainer-flipped.toml"
    path.write_text(describe(flipped(load_settings(config), folder / "trainer-flipped", suite)), encoding="utf-8")
    return path


def flipped(settings: TrainerSettings, state_dir: Path, red_team: Path) -> TrainerSettings:
    """The settings of a trainer that learns from the newest words alone, with `OPENED_GATES` open.

    The KL budget and the accuracy of the reward model on held-out words stay as they are. A state folder of its own, so
    that no turn of the first trainer goes on.
    """
    feedback = settings.feedback.model_copy(update={"max_labels": LEARNT_WORDS, "min_new_labels": 1})
    opened = {
        "max_length_growth": 100.0,
        "max_length_correlation": 1.0,
        "max_entropy_drop": 1.0,
        "max_ability_drop": 1.0,
        "max_value_drop": 1.0,
        "min_audit_share": 0.0,
        "max_slices_worse": 1000,
        "max_lure_pay": 100.0,
    }
    return settings.model_copy(
        update={
            "state_dir": state_dir,
            "feedback": feedback,
            "gates": settings.gates.model_copy(update=opened),
            "suites": settings.suites.model_copy(update={"red_team": red_team}),
        }
    )
