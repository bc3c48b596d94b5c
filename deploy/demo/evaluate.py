"""Gold of a version on held-out questions, over the real API, and how sure one may be of a gain.

Asks with a key whose tenant keeps nothing (`attune-consent: none`), pinned to one version: nothing of it can be learnt.
Knows the public API and gold; knows nothing of the population.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

from deploy.demo import gold
from deploy.demo.domain import Question

RESAMPLES = 4000


@dataclass(frozen=True)
class Examinee:
    """How versions are asked (the server, a key without consent, the users' sampling), and how answers are weighed."""

    url: str
    api_key: str = field(repr=False)
    max_tokens: int
    temperature: float
    weights: gold.Weights = gold.DEFAULT
    domain_language: bool = True
    with_article: bool = False
    concurrency: int = 48

    def client(self, url: str | None = None) -> AsyncOpenAI:
        """A client, of the server at `url` if it is another, that leaves no trace in the event log."""
        return AsyncOpenAI(
            base_url=f"{url or self.url}/v1",
            api_key=self.api_key,
            default_headers={"attune-consent": "none"},
            timeout=120.0,
        )


@dataclass(frozen=True)
class Exam:
    """One version's answers to the held-out questions and the gold of each, in the order of the questions."""

    version: str
    answers: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean gold."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Gain:
    """Mean difference in gold on the same questions, with a 95 % interval."""

    mean: float
    low: float
    high: float


async def examine(examinee: Examinee, version: str, questions: Sequence[Question]) -> Exam:
    """Ask `version` (such as `support@v2`) every question once and score the answers.

    An alias such as `support` asks whatever version serves then.

    Raises:
        openai.APIError: a question went unanswered.
    """
    seats = asyncio.Semaphore(examinee.concurrency)

    async with examinee.client() as client:

        async def answer(question: Question) -> str:
            async with seats:
                messages: Any = question.messages(with_article=examinee.with_article)
                completion = await client.chat.completions.create(
                    model=version,
                    messages=messages,
                    max_tokens=examinee.max_tokens,
                    temperature=examinee.temperature,
                )
            return completion.choices[0].message.content or ""

        answers = await asyncio.gather(*(answer(question) for question in questions))
    scores = grade(questions, answers, examinee.weights, domain_language=examinee.domain_language)
    return Exam(version, tuple(answers), scores)


def grade(
    questions: Sequence[Question], answers: Sequence[str], weights: gold.Weights, *, domain_language: bool = True
) -> tuple[float, ...]:
    """The gold of each answer to its question by these weights, which need not be those that the exam was scored by."""
    return tuple(
        gold.score(question, text, domain_language=domain_language, weights=weights).total
        for question, text in zip(questions, answers, strict=True)
    )


def paired_gain(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Gain:
    """Mean of `after - before`, pair by pair, with the 95 % percentile interval of a bootstrap over pairs.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13. Equal inputs give equal intervals.
    """
    differences = [late - early for early, late in zip(before, after, strict=True)]
    rng = random.Random(seed)
    count = len(differences)
    means = sorted(sum(rng.choices(differences, k=count)) / count for _ in range(RESAMPLES))
    return Gain(sum(differences) / count, means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1])
