"""Made-up users at work: they chat over HTTP with the openai SDK, read, and press thumbs or choose between answers.

An ordinary client of the public API; it knows the server by its URL alone. Load is continuous: a fixed number of
people sit at the keyboard at any moment, which makes the traffic of a swap that of any other second. They
pause, because on two cores whatever answering takes is lost to the trainer.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import APIError, AsyncOpenAI

from deploy.demo import gold
from deploy.demo.domain import Question, user_questions
from deploy.demo.ledger import Ledger, Thumb
from deploy.demo.preferences import Preferences, shipped
from deploy.demo.users import User, Verdict, make_users
from deploy.demo.verdicts import Verdicts

REQUEST_TIMEOUT_S = 60.0
_EAGER = 0.25


@dataclass(frozen=True)
class Traffic:
    """How the population talks.

    Attributes:
        urls: the servers' roots, without `/v1`; seats are dealt to them in turn.
        preferences: who the people are, and what their gold is.
        shuffled: their verdicts are dealt at random, each kind by itself.
        seats: people talking at any moment.
        comparison_share: of the questions that are put as a blinded comparison of two answers.
        stream_share: of the chats that are streamed.
        pause_s: mean seconds between a person's questions.
        eager_until: pieces of feedback until which they pause a quarter as long, since nothing is learnt before.
        domain_language: hold answers against the domain's wording (off for other models than the demo's own).
        with_article: send what a model that does not know the domain needs.
    """

    urls: tuple[str, ...]
    api_key: str = field(repr=False)
    preferences: Preferences = field(default_factory=lambda: shipped("mixed"))
    shuffled: bool = False
    model: str = "support"
    people: int = 120
    seats: int = 12
    comparison_share: float = 0.5
    stream_share: float = 0.25
    pause_s: float = 1.0
    eager_until: int = 0
    max_tokens: int = 120
    temperature: float = 1.0
    seed: int = 0
    domain_language: bool = True
    with_article: bool = False


@dataclass
class Population:
    """The users of one demo run. `run` lets them talk until told to stop; `ledger` says what came of it, and whoever
    changes `verdicts` meanwhile changes what they press.
    """

    traffic: Traffic
    ledger: Ledger = field(default_factory=Ledger)
    verdicts: Verdicts = field(init=False)

    def __post_init__(self) -> None:
        self.verdicts = Verdicts(self.traffic.seed, shuffled=self.traffic.shuffled)

    async def run(self, stop: asyncio.Event) -> None:
        """Talk from all seats until `stop` is set, then let the last feedback go out."""
        traffic = self.traffic
        rng = random.Random(traffic.seed)
        people = make_users(traffic.people, traffic.seed, traffic.preferences.tastes)
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as seats:
            doors = [await self._door(url, clients) for url in traffic.urls]
            for number in range(traffic.seats):
                own = random.Random(rng.random())
                chat, http = doors[number % len(doors)]
                seat = _Seat(traffic, self.ledger, self.verdicts, chat, http, own, people, user_questions(own))
                seats.create_task(seat.talk(stop), name=f"seat-{number}")

    async def _door(self, url: str, clients: AsyncExitStack) -> tuple[AsyncOpenAI, httpx.AsyncClient]:
        """Clients of one server."""
        key = self.traffic.api_key
        chat = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=REQUEST_TIMEOUT_S)
        http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=REQUEST_TIMEOUT_S)
        return await clients.enter_async_context(chat), await clients.enter_async_context(http)


@dataclass
class _Seat:
    """One place at the keyboard, taken by one person after the other."""

    traffic: Traffic
    ledger: Ledger
    verdicts: Verdicts
    chat: AsyncOpenAI
    http: httpx.AsyncClient
    rng: random.Random
    people: list[User]
    questions: Iterator[Question]
    pending: set[asyncio.Task[None]] = field(default_factory=set)
    turns: int = 0

    async def talk(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            user, question = self.rng.choice(self.people), next(self.questions)
            self.turns += 1
            if self.rng.random() < self.traffic.comparison_share:
                await self._compare(user, question)
            else:
                await self._ask(user, question)
            eager = len(self.ledger.feedback_ids) < self.traffic.eager_until
            mean = self.traffic.pause_s * (_EAGER if eager else 1)
            await asyncio.sleep(self.rng.expovariate(1 / mean))
        await asyncio.gather(*self.pending)

    async def _ask(self, user: User, question: Question) -> None:
        """One chat; a thumb if the user feels like it."""
        self.ledger.requests_sent += 1
        request: dict[str, Any] = {
            "model": self.traffic.model,
            "messages": question.messages(with_article=self.traffic.with_article),
            "max_tokens": self.traffic.max_tokens,
            "temperature": self.traffic.temperature,
            "user": user.name,
            "extra_body": {"session_id": self._session(user)},
        }
        try:
            if self.rng.random() < self.traffic.stream_share:
                answer, attune = await self._stream(request)
            else:
                completion = await self.chat.chat.completions.create(**request)
                answer, attune = completion.choices[0].message.content or "", (completion.model_extra or {})["attune"]
        except (APIError, httpx.HTTPError) as error:
            self.ledger.request_failed(f"chat: {type(error).__name__}: {error}")
            return
        self.ledger.answered(attune["version"], self._gold(question, answer))
        feeling = self._utility(user, question, answer)
        if user.presses(feeling, self.rng):
            up = self.verdicts.thumb(user.likes(feeling, self.rng))
            self.ledger.thumbs_up += up
            self.ledger.thumbs_down += not up
            word = {"handle": attune["handles"][0], "kind": "thumbs", "value": "up" if up else "down"}
            self._send(user, word, Thumb(question.text, answer, attune["version"], up))

    async def _stream(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The same over a stream; its first chunk says which version speaks."""
        answer, attune = "", None
        async with await self.chat.chat.completions.create(**request, stream=True) as chunks:
            async for chunk in chunks:
                attune = attune or (chunk.model_extra or {}).get("attune")
                answer += "".join(choice.delta.content or "" for choice in chunk.choices)
        if attune is None:
            raise httpx.DecodingError("no chunk of the stream says which version spoke")
        return answer, attune

    async def _compare(self, user: User, question: Question) -> None:
        """Two blinded answers; the user chooses, or finds them equal or equally bad."""
        self.ledger.requests_sent += 1
        body = {
            "model": self.traffic.model,
            "messages": question.messages(with_article=self.traffic.with_article),
            "k": 2,
            "max_tokens": self.traffic.max_tokens,
            "temperature": self.traffic.temperature,
            "user": user.name,
            "session_id": self._session(user),
        }
        try:
            response = await self.http.post("/v1/comparisons", json=body)
            response.raise_for_status()
        except httpx.HTTPError as error:
            self.ledger.request_failed(f"comparison: {type(error).__name__}: {error}")
            return
        comparison = response.json()
        texts = [candidate["content"] for candidate in comparison["candidates"]]
        feelings = [self._utility(user, question, text) for text in texts]
        if not user.presses(max(feelings, key=abs), self.rng):
            return
        verdict = self.verdicts.comparison(user.compares(feelings[0], feelings[1], self.rng))
        self.ledger.comparisons += 1
        word: dict[str, Any] = {"handle": comparison["handle"], "kind": "comparison"}
        if verdict in (Verdict.TIE, Verdict.BOTH_BAD):
            word["verdict"] = verdict.value
        else:
            word["winner"] = 0 if verdict is Verdict.FIRST else 1
        self._send(user, word)

    def _send(self, user: User, word: dict[str, Any], thumb: Thumb | None = None) -> None:
        """Send feedback after the user's delay, beside the conversation; now and then twice."""
        word["idempotency_key"] = f"{user.name}-{self.rng.getrandbits(64):016x}"
        times = 2 if user.repeats(self.rng) else 1
        task = asyncio.create_task(self._deliver(word, user.waits(self.rng), times, thumb))
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)

    async def _deliver(self, word: dict[str, Any], delay_s: float, times: int, thumb: Thumb | None) -> None:
        await asyncio.sleep(delay_s)
        for _ in range(times):
            self.ledger.feedback_sent += 1
            try:
                response = await self.http.post("/v1/feedback", json=word)
                response.raise_for_status()
            except httpx.HTTPError as error:
                self.ledger.feedback_refused(f"feedback: {type(error).__name__}: {error}")
                return
            self.ledger.acknowledged(response.json()["id"], thumb)

    def _session(self, user: User) -> str:
        return f"{user.name}-{self.turns}-{self.rng.getrandbits(32):08x}"

    def _utility(self, user: User, question: Question, answer: str) -> float:
        return user.utility(question, answer, self.rng, domain_language=self.traffic.domain_language)

    def _gold(self, question: Question, answer: str) -> float:
        traffic = self.traffic
        return gold.score(
            question, answer, domain_language=traffic.domain_language, weights=traffic.preferences.gold
        ).total
