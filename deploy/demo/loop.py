"""One performance of the loop: users talk, versions come, one goes back, gold is measured, the report is made.

Conducts; who talks, measures and draws is elsewhere. It meets server and trainer over HTTP, in the event log, and as
processes that it may stop.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx

from deploy.demo import domain
from deploy.demo.evaluate import Exam, examine
from deploy.demo.findings import BASE, Findings, make_report
from deploy.demo.log_audit import count_found
from deploy.demo.operator import Operator, PolicyView, VersionView
from deploy.demo.population import Population
from deploy.demo.report import Report
from deploy.demo.rollback import take_back
from deploy.demo.sabotage import Saboteur
from deploy.demo.screen import Screen
from deploy.demo.stage import Stage
from deploy.demo.trace import trace_thumb
from deploy.demo.workplace import POLICY

LOOP_LIMIT_S = 900.0  # a busy machine still gets its turns
MORE_TURNS = 2  # at most, where all versions of the turns that were asked for were refused or taken back
LOOK_EVERY_S = 0.05
QUESTIONS = 400
QUESTION_SEED = 31_337  # the gold questions' own seed: no run draws users or demonstrations from it, no tuning looks


@dataclass
class Loop:
    """Runs one performance on a stage."""

    stage: Stage
    screen: Screen
    swaps: dict[str, float] = field(default_factory=dict)

    async def run(self, turns: int, *, sabotage: bool = False) -> Report:
        """Let users talk until `turns` versions were promoted or rejected, take one back, measure, report.

        Where none was promoted by then the loop turns on, `MORE_TURNS` times at most: on a small crowd the gates may
        need more words than that before they trust a reward model.

        `sabotage`: one more version of flipped verdicts is made, served and taken back before the users leave.

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
            AsyncExitStack() as clients,
        ):
            askers = [await clients.enter_async_context(stage.examinee().client(url)) for url in place.urls]
            operator = Operator(
                http, tuple(askers), POLICY, questions[0], stage.check_servers, with_article=not stage.tiny
            )
            stop = asyncio.Event()
            talking = asyncio.create_task(people.run(stop))
            try:
                turned = await self._turn(operator, turns)
                await asyncio.to_thread(stage.trainer.stop)
                self.screen.say("the trainer stops; users go on talking")
                rollback_s = await self._roll_back(operator)
                harm = await self._saboteur(operator, people).perform(questions) if sabotage else None
            finally:
                stop.set()
                await talking
            self.screen.say("the users leave; the exam on questions that nobody asked begins")
            policy = await operator.look()
            self.screen.policy = policy
            exams = await self._examine(policy, questions)
        own = {"Authorization": f"Bearer {place.users}"}
        async with httpx.AsyncClient(base_url=place.url, headers=own, timeout=60.0) as http:
            trace = await trace_thumb(http, people.ledger.thumbs, policy.stable)
        found = await asyncio.to_thread(count_found, place.log_url, people.ledger.feedback_ids)
        seconds = time.monotonic() - self.screen.started
        return make_report(
            stage,
            Findings(
                ledger=people.ledger,
                policy=policy,
                questions=questions,
                exams=exams,
                swaps=self.swaps,
                turned=turned,
                turns_wanted=turns,
                feedback_found=found,
                rollback_s=rollback_s,
                seconds=seconds,
                trace=trace,
                sabotage=harm,
            ),
        )

    def _saboteur(self, operator: Operator, people: Population) -> Saboteur:
        stage = self.stage
        config, say = stage.place.trainer_config, self.screen.say
        return Saboteur(operator, people, stage.examinee(), config, stage.start_once, say)

    async def _turn(self, operator: Operator, turns: int) -> int:
        """Watch until enough versions are decided, and return how many are; time each new one's first token."""
        began, seen, decided = time.monotonic(), dict[str, str](), 0
        while time.monotonic() - began < LOOP_LIMIT_S:
            self.stage.check_servers()
            self.stage.trainer.check()
            policy = await operator.look()
            self.screen.policy, self.screen.trainer = policy, self.stage.trainer.last_words()
            for version in policy.versions:
                if version.servable and version.number and version.name not in self.swaps:
                    await self._time_swap(operator, version)
                if version.number and version.stage not in ("reserved", seen.get(version.name)):
                    seen[version.name] = version.stage
                    why = f": {version.reason}" if version.reason else ""
                    self.screen.say(f"[b]{version.name}[/b] is {version.stage}, KL {version.kl:.2f} nats{why}")
            decided = sum(version.decided for version in policy.versions)
            waits_for_one = policy.stable == BASE and not self.stage.shuffled
            if decided >= turns + (MORE_TURNS if waits_for_one else 0):
                return decided
            await asyncio.sleep(LOOK_EVERY_S)
        self.screen.say(f"[yellow]{LOOP_LIMIT_S:.0f} s are over; going on with what there is[/yellow]")
        return decided

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
        seconds = await take_back(operator, f"{POLICY}@v{target}", "the demo shows a rollback")
        self.screen.say(f"rolled back from {policy.stable} to {POLICY}@v{target}: it spoke after {seconds:.2f} s")
        await operator.promote(policy.stable, "the rollback has been shown")
        await operator.first_token(POLICY, policy.stable)
        return seconds

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
