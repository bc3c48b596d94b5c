"""One performance of the loop: users talk, versions come, one goes back, gold is measured, the report is made.

Conducts; who talks, measures and draws is elsewhere. It meets server and trainer over HTTP, in the event log, and as
processes that it may stop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from deploy.demo import domain
from deploy.demo.evaluate import Exam, Examinee, examine, paired_gain
from deploy.demo.ledger import Ledger
from deploy.demo.log_audit import count_found
from deploy.demo.operator import Operator, PolicyView, VersionView
from deploy.demo.population import Population, Traffic
from deploy.demo.processes import Child
from deploy.demo.report import Example, Report, VersionReport
from deploy.demo.screen import Screen
from deploy.demo.workplace import MAX_ANSWER_TOKENS, POLICY, Workplace

LOOP_LIMIT_S = 900.0  # a busy machine still gets its turns
LOOK_EVERY_S = 0.05
QUESTIONS = 400
QUESTION_SEED = 31_337  # the gold questions' own seed: no run draws users or demonstrations from it, no tuning looks
EXAMPLES = 5
BASE = f"{POLICY}@v0"


@dataclass(frozen=True)
class Stage:
    """What stands ready: the folder, the running server and trainer, the base."""

    place: Workplace
    server: Child
    trainer: Child
    model: str
    tiny: bool
    seed: int

    def examinee(self) -> Examinee:
        return Examinee(
            self.place.url,
            self.place.evaluation,
            max_tokens=MAX_ANSWER_TOKENS,
            temperature=1.0,
            domain_language=self.tiny,
            with_article=not self.tiny,
        )

    def traffic(self) -> Traffic:
        return Traffic(
            self.place.url,
            self.place.users,
            model=POLICY,
            max_tokens=MAX_ANSWER_TOKENS,
            seed=self.seed,
            domain_language=self.tiny,
            with_article=not self.tiny,
        )


@dataclass
class Loop:
    """Runs one performance on a stage."""

    stage: Stage
    screen: Screen
    swaps: dict[str, float] = field(default_factory=dict)

    async def run(self, turns: int) -> Report:
        """Let users talk until `turns` versions were promoted or rejected, take one back, measure, report.

        Raises:
            Unavailable: server or trainer ended early.
        """
        stage, place = self.stage, self.stage.place
        questions = domain.held_out_questions(QUESTIONS, QUESTION_SEED + stage.seed)
        people = Population(stage.traffic())
        self.screen.ledger, self.screen.kl_budget = people.ledger, place.kl_budget
        headers = {"Authorization": f"Bearer {place.admin}"}
        async with (
            httpx.AsyncClient(base_url=place.url, headers=headers, timeout=60.0) as http,
            stage.examinee().client() as asker,
        ):
            operator = Operator(http, asker, POLICY, questions[0], stage.server.check, with_article=not stage.tiny)
            stop = asyncio.Event()
            talking = asyncio.create_task(people.run(stop))
            try:
                await self._turn(operator, turns)
                await asyncio.to_thread(stage.trainer.stop)
                self.screen.say("the trainer stops; users go on talking")
                rollback_s = await self._roll_back(operator)
            finally:
                stop.set()
                await talking
            self.screen.say("the users leave; the exam on questions that nobody asked begins")
            policy = await operator.look()
            self.screen.policy = policy
            exams = await self._examine(policy, questions)
        found = await asyncio.to_thread(count_found, place.log_url, people.ledger.feedback_ids)
        return self._report(people.ledger, policy, questions, exams, found, rollback_s, turns)

    async def _turn(self, operator: Operator, turns: int) -> None:
        """Watch until enough versions are decided; time each new one's first token as it comes."""
        began, seen = time.monotonic(), dict[str, str]()
        while time.monotonic() - began < LOOP_LIMIT_S:
            self.stage.server.check()
            self.stage.trainer.check()
            policy = await operator.look()
            self.screen.policy, self.screen.trainer = policy, _said_last(self.stage.trainer.tail())
            for version in policy.versions:
                if version.servable and version.number and version.name not in self.swaps:
                    await self._time_swap(operator, version)
                if version.number and version.stage not in ("reserved", seen.get(version.name)):
                    seen[version.name] = version.stage
                    why = f": {version.reason}" if version.reason else ""
                    self.screen.say(f"[b]{version.name}[/b] is {version.stage}, KL {version.kl:.2f} nats{why}")
            if sum(version.decided for version in policy.versions) >= turns:
                return
            await asyncio.sleep(LOOK_EVERY_S)
        self.screen.say(f"[yellow]{LOOP_LIMIT_S:.0f} s are over; going on with what there is[/yellow]")

    async def _time_swap(self, operator: Operator, version: VersionView) -> None:
        spoke = await operator.first_token(version.name, version.name)
        published = await operator.published_at(version.name)
        if published is not None:
            self.swaps[version.name] = spoke - published
            self.screen.say(f"{version.name} spoke {spoke - published:.2f} s after it was published")

    async def _roll_back(self, operator: Operator) -> float | None:
        """Take the stable version back under load, time the old one's first token, and promote it again."""
        policy = await operator.look()
        if policy.stable == BASE:
            return None
        earlier = [version for version in policy.versions if version.stage == "retired"]
        target = max((version.number for version in earlier), default=0)
        began = time.time()
        spoke = await _while(
            operator.roll_back("the demo shows a rollback"), lambda: operator.first_token(POLICY, f"{POLICY}@v{target}")
        )
        self.screen.say(f"rolled back from {policy.stable} to {POLICY}@v{target}: it spoke after {spoke - began:.2f} s")
        await operator.promote(policy.stable, "the rollback has been shown")
        await operator.first_token(POLICY, policy.stable)
        return spoke - began

    async def _examine(self, policy: PolicyView, questions: list[domain.Question]) -> dict[str, Exam]:
        """Base, and of the versions that once were stable those that are still served, on the same questions."""
        exams = {}
        for version in policy.versions:
            if version.number == 0 or (version.stage in ("stable", "retired") and version.name in policy.serving):
                self.screen.working_on = f"exam of {version.name}"
                exams[version.name] = await examine(self.stage.examinee(), version.name, questions)
                self.screen.say(f"{version.name}: gold {exams[version.name].mean:.3f}")
        self.screen.working_on = ""
        return exams

    def _report(
        self,
        ledger: Ledger,
        policy: PolicyView,
        questions: list[domain.Question],
        exams: dict[str, Exam],
        found: int,
        rollback_s: float | None,
        turns: int,
    ) -> Report:
        place = self.stage.place
        before, after = exams[BASE], exams[policy.stable]
        gain = paired_gain(before.scores, after.scores)
        return Report(
            model=self.stage.model,
            policy_version=policy.stable,
            turns=sum(version.decided for version in policy.versions),
            turns_wanted=turns,
            questions=len(questions),
            gold_base=before.mean,
            gold_policy=after.mean,
            gold_gain=gain.mean,
            gold_gain_ci95=(gain.low, gain.high),
            kl_to_base=policy.version(policy.stable).kl,
            kl_budget=place.kl_budget,
            requests_sent=ledger.requests_sent,
            requests_failed=ledger.requests_failed,
            versions_served=sorted(ledger.answers),
            feedback_sent=ledger.feedback_sent,
            feedback_acknowledged=len(ledger.feedback_ids),
            feedback_failed=ledger.feedback_failed,
            feedback_found=found,
            swap_seconds=max(self.swaps.values(), default=None),
            rollback_seconds=rollback_s,
            seconds=time.monotonic() - self.screen.started,
            versions=[
                VersionReport(
                    version.name,
                    version.stage,
                    exams[version.name].mean if version.name in exams else None,
                    version.kl,
                    self.swaps.get(version.name),
                )
                for version in policy.versions
            ],
            examples=[
                Example(question.text, before.answers[n], after.answers[n], before.scores[n], after.scores[n])
                for n, question in enumerate(questions[:EXAMPLES])
            ],
            failures=ledger.failures,
            artifacts={
                "base": self.stage.model,
                "adapters, snapshots, reward models": str(place.registry),
                "event log": place.log_url,
                "logs": str(place.logs),
                "report": str(place.folder / "report.json"),
            },
        )


def _said_last(log: str) -> str:
    """The last line of a log without its date, time, level and logger."""
    return log.rpartition("\n")[2].split(" ", 4)[-1]


async def _while(action: Awaitable[None], measure: Callable[[], Awaitable[float]]) -> float:
    """Do `action` and measure at once, so that what happens before the action returns is seen."""
    _, measured = await asyncio.gather(action, measure())
    return measured
