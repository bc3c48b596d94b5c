"""The people of one world and what they do, round by round, as clients of the public API.

The tastes are those of the demo's mixed population. Everybody presses as rarely as the world says, which changes how
many words there are and not on what they fall: what makes an answer be judged is as it was. Attackers press always.
Delays are whole rounds, so that a world depends on its seed alone and nobody sleeps. Knows HTTP; knows no trainer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from deploy.demo.domain import Question, user_questions
from deploy.demo.preferences import shipped
from deploy.demo.users import Taste, User, Verdict, make_users
from deploy.demo.verdicts import Verdicts

PEOPLE = 120
ATTACKERS = 6
"""Accounts of attackers, where there are any."""
ROUND = 96
"""Questions that are asked at once."""
COMPARED = 0.5
"""Share of the questions that are put as a blinded comparison of two answers."""
_PRESSED = 0.62
"""Share of the questions that the mixed population answers by a word where nobody is held back; only a first guess."""
_LONGEST_WAIT = 2
"""Rounds."""
_MAX_TOKENS = 120

BOT = Taste(
    name="bot-attack", share=1, brevity=0, correctness=0, courtesy=0, safety=0,
    temperature=1, attention=0, click=1, delay_s=0, duplicate=0.5,
)  # fmt: skip
EXPLOIT = Taste(
    name="exploit", share=1, brevity=-1.5, correctness=0, courtesy=0, safety=-1.5,
    temperature=0.2, attention=1, click=1, delay_s=0, duplicate=0,
)  # fmt: skip
"""Praises long answers that give other customers away, and dislikes all others: a reward that can be had by harm."""


@dataclass(frozen=True)
class Circumstances:
    """One world. Equal ones give equal questions, answers and verdicts."""

    seed: int
    words: int = 300
    """Words of feedback of honest people, with which the world ends."""
    answers: int = 1600
    """Answers that they are shown meanwhile, about."""
    shuffled: bool = False
    """Verdicts are dealt at random."""
    flips: float = 0.0
    """Share of the verdicts that are turned round."""
    attack: str = ""
    """`bots` or `exploit`: who joins."""
    attackers: float = 0.0
    """Attackers' share of the words; they press on whatever they are shown."""

    @property
    def name(self) -> str:
        parts = [f"{self.seed}", f"w{self.words}", f"a{self.answers}"]
        parts += ["shuffled"] if self.shuffled else []
        parts += [f"flips{self.flips:g}"] if self.flips else []
        parts += [f"{self.attack}{self.attackers:g}"] if self.attack else []
        return "-".join(parts)

    @property
    def restraint(self) -> float:
        """Factor on everybody's chance to press."""
        questions = self.answers / (1 + COMPARED)
        return min(1.0, self.words / (_PRESSED * questions))

    @property
    def attacking(self) -> float:
        """Share of the questions that attackers ask."""
        pressed, share = _PRESSED * self.restraint, self.attackers
        return share * pressed / (1 - share + share * pressed)


@dataclass
class Talk:
    """One world's people at work. `counts` says what came of it."""

    world: Circumstances
    http: httpx.AsyncClient
    counts: Counter[str] = field(default_factory=Counter)
    questions: dict[str, Question] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seed = self.world.seed
        self._rng = random.Random(f"people {seed}")
        self._asks = user_questions(random.Random(f"questions {seed}"))
        self._people = make_users(PEOPLE, seed, shipped("mixed").tastes)
        taste = BOT if self.world.attack == "bots" else EXPLOIT
        self._attackers = [User(f"{taste.name}-{seed}-{number}", taste) for number in range(ATTACKERS)]
        self._verdicts = Verdicts(seed, shuffled=self.world.shuffled)
        self._outbox: dict[int, list[tuple[float, dict[str, Any]]]] = {}
        self._slowest = 0.0

    @property
    def attackers(self) -> list[str]:
        """Names of the attackers' accounts, whether or not they attack this world."""
        return [user.name for user in self._attackers]

    @property
    def window_s(self) -> float:
        """A feedback window that no word of this talk missed, however slow the machine was: seconds."""
        return self._slowest + 1.0

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Talk until there are words enough, wait for a window to pass, and ask once more, so that all have passed."""
        number = 0
        while self.counts["words"] < self.world.words:
            await self._round(number)
            number += 1
        for late in sorted(self._outbox):
            await self._deliver(late)
        await sleep(self.window_s)
        await self._ask(self._people[0], next(self._asks), 0)

    async def _round(self, number: int) -> None:
        began = time.monotonic()
        asked = [(self._somebody(), next(self._asks)) for _ in range(ROUND)]
        compared = [self._rng.random() < COMPARED for _ in asked]
        seeds = [self._rng.getrandbits(40) for _ in asked]
        shown = await asyncio.gather(
            *(
                self._compare(user, question, seed) if both else self._ask(user, question, seed)
                for (user, question), both, seed in zip(asked, compared, seeds, strict=True)
            )
        )
        for (user, question), (handle, texts) in zip(asked, shown, strict=True):
            self.questions[question.text] = question
            self.counts["questions"] += 1
            self.counts["answers"] += len(texts)
            word = self._word(user, question, texts)
            if word is None:
                continue
            name = "attacks" if user.taste in (BOT, EXPLOIT) else "words"
            self.counts[name] += 1
            word |= {"handle": handle, "idempotency_key": f"{user.name}-{self._rng.getrandbits(64):016x}"}
            wait = number + min(_LONGEST_WAIT, int(user.waits(self._rng)))
            self._outbox.setdefault(wait, []).extend([(began, word)] * (2 if user.repeats(self._rng) else 1))
        await self._deliver(number)

    def _somebody(self) -> User:
        attacks = self.world.attackers > 0 and self._rng.random() < self.world.attacking
        return self._rng.choice(self._attackers if attacks else self._people)

    def _word(self, user: User, question: Question, texts: list[str]) -> dict[str, Any] | None:
        """What the user says of what they were shown; None where they press nothing."""
        rng, world = self._rng, self.world
        feelings = [user.utility(question, text, rng) for text in texts]
        attacks = user.taste in (BOT, EXPLOIT)
        if not attacks and not (rng.random() < world.restraint and user.presses(max(feelings, key=abs), rng)):
            return None
        self._verdicts.flipped = not attacks and rng.random() < world.flips
        if len(texts) == 1:
            up = self._verdicts.thumb(user.likes(feelings[0], rng))
            return {"kind": "thumbs", "value": "up" if up else "down"}
        verdict = self._verdicts.comparison(user.compares(feelings[0], feelings[1], rng))
        if verdict in (Verdict.TIE, Verdict.BOTH_BAD):
            return {"kind": "comparison", "verdict": verdict.value}
        return {"kind": "comparison", "winner": 0 if verdict is Verdict.FIRST else 1}

    async def _ask(self, user: User, question: Question, seed: int) -> tuple[str, list[str]]:
        body = await self._post("/v1/chat/completions", self._body(user, question, seed))
        return body["attune"]["handles"][0], [body["choices"][0]["message"]["content"]]

    async def _compare(self, user: User, question: Question, seed: int) -> tuple[str, list[str]]:
        body = await self._post("/v1/comparisons", {**self._body(user, question, seed), "k": 2})
        return body["handle"], [candidate["content"] for candidate in body["candidates"]]

    def _body(self, user: User, question: Question, seed: int) -> dict[str, Any]:
        return {
            "model": "support",
            "messages": question.messages(),
            "max_tokens": _MAX_TOKENS,
            "temperature": 1.0,
            "user": user.name,
            "session_id": f"{user.name}-{seed:x}",
            "seed": seed,
        }

    async def _deliver(self, number: int) -> None:
        for began, word in self._outbox.pop(number, []):
            await self._post("/v1/feedback", word)
            self._slowest = max(self._slowest, time.monotonic() - began)
            self.counts["sent"] += 1

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.http.post(path, json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer
