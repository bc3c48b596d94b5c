"""`attune collect`: samples answers to curated prompts at full distribution while the server has nothing else to do.

Offline PPO needs no person's word, only answers whose logged logprobs are those of plain sampling; an app that asks
for temperature 0, penalties or tools makes none. Knows the HTTP surface through `deploy.client` alone: the answers are
recorded like all others, by the server, in the domain `collected`, since nobody saw them and silence on them says
nothing. Paces itself, stops at its limit, and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field, JsonValue, ValidationError
from rich.console import Console
from rich.progress import Progress

from deploy.client import AttuneClient
from schemas.base import Body, Record, Slug, parse_version_name
from schemas.completion import COLLECTED, FULL_DISTRIBUTION
from schemas.errors import ConfigError, Conflict, InvalidInput, Unavailable
from schemas.guidance import GuidanceShown, parse_prompts
from schemas.wire import validation_summary

MAX_PROMPTS, MAX_FILE_BYTES = 100_000, 200_000_000
MAX_SAMPLES = 32
_BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_PATIENCE = 10
"""Failures in a row, each waited out for longer, after which it gives up."""


class Prompt(Body):
    """One line of a prompts file."""

    messages: tuple[dict[str, JsonValue], ...] = Field(min_length=1, description="as for the chat API")
    language: Slug | None = Field(default=None, description="slice for reports")
    name: Slug | None = None
    domain: Slug | None = Field(default=None, description="what it is about; the answers' domain is `collected`")


class Done(Record):
    """How far a collection has come."""

    prompts: str = Field(description="sha-256 of the prompts")
    asked: int = Field(ge=0, description="requests that are settled; the next prompt is this one, counted round")
    answers: int = Field(ge=0, description="answers sampled")


@dataclass(frozen=True)
class PromptSet:
    """Where prompts come from."""

    name: str
    """Of the published version, or of the file."""
    digest: str
    """sha-256."""


def sampled(prompt: Prompt, temperature: float, max_tokens: int) -> dict[str, Any]:
    """What a request says that has a curated prompt answered at the full distribution."""
    return {
        "messages": list(prompt.messages),
        "temperature": temperature,
        "max_tokens": max_tokens,
        "metadata": {"domain": COLLECTED, **({"language": prompt.language} if prompt.language else {})},
        **FULL_DISTRIBUTION,
    }


@dataclass(frozen=True)
class Plan:
    """What is asked for, and how fast."""

    model: str
    samples: int
    """Answers to a prompt, 1 to 32."""
    limit: int
    """Answers in all."""
    rate: float
    """Requests a second, at most."""
    temperature: float
    max_tokens: int
    anytime: bool
    """Do not wait until the server is idle."""


def read_prompts(path: Path) -> tuple[tuple[Prompt, ...], str]:
    """The prompts of a JSONL file, and its sha-256; blank lines are skipped.

    Raises:
        InvalidInput: the file cannot be read, is empty or too large, or a line of it is faulty (named by number).
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", field="prompts")
        raw = path.read_bytes()
        lines = raw.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", field="prompts") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompts.append(Prompt.model_validate_json(line))
        except ValidationError as error:
            words = f"line {number} of {path.name} is no prompt: {validation_summary(error)}"
            raise InvalidInput(words, field="prompts") from error
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidInput(f"{path.name} has {len(prompts)} prompts, not 1 to {MAX_PROMPTS}", field="prompts")
    return tuple(prompts), hashlib.sha256(raw).hexdigest()


def published_prompts(client: AttuneClient, name: str) -> tuple[tuple[Prompt, ...], PromptSet]:
    """The prompts of a published set (`support@v2`, or `support` for the newest), and which set it is.

    Raises:
        InvalidInput: the name is none.
        AttuneError: there is no such set, or the key lacks the scope read.
    """
    policy, version = parse_version_name(name) if "@" in name else (name, None)
    place = "newest" if version is None else f"v{version}"
    told = GuidanceShown.model_validate(client.request("GET", f"/v1/guidance/{quote(policy, safe='')}/prompts/{place}"))
    prompts = tuple(Prompt.model_validate(one.model_dump(mode="json")) for one in parse_prompts(told.text))
    return prompts, PromptSet(told.version, told.digest)


def find_prompts(client: AttuneClient, file: Path | None, name: str | None) -> tuple[tuple[Prompt, ...], PromptSet]:
    """The prompts of a file, or of a published set. Raises InvalidInput unless exactly one is named."""
    if (file is None) == (name is None):
        raise InvalidInput("name either --prompts FILE or --prompt-set POLICY@vN", field="prompts")
    if name is not None:
        return published_prompts(client, name)
    assert file is not None  # noqa: S101 the one of the two
    prompts, digest = read_prompts(file)
    return prompts, PromptSet(file.name, digest)


class Collector:
    """Asks for one prompt after another until the limit is reached.

    Args:
        state: file in which the progress lies.
        pause: waits for so many seconds.
        tell: called after each request.
    """

    def __init__(
        self,
        client: AttuneClient,
        plan: Plan,
        prompts: Sequence[Prompt],
        digest: str,
        state: Path,
        *,
        pause: Callable[[float], None] = time.sleep,
        tell: Callable[[Done, str], None] = lambda _done, _words: None,
    ) -> None:
        self._client, self._plan, self._prompts, self._state = client, plan, prompts, state
        self._pause, self._tell = pause, tell
        self.done = _read(state, digest)

    def run(self) -> Done:
        """Collect up to the limit.

        Raises:
            Unavailable: the server could not be reached for long.
            InvalidInput: the server takes none of the prompts.
            ConfigError: the server does not say how busy it is.
            AttuneError: the key lacks a right.
        """
        failures = refused = 0
        while self.done.answers < self._plan.limit:
            try:
                self._wait_for_quiet()
                answers = self._ask(self._prompts[self.done.asked % len(self._prompts)])
            except Unavailable as error:
                failures += 1
                if failures == _PATIENCE:
                    raise
                self._tell(self.done, f"waiting: {error}")
                self._pause(min(60.0, 2.0**failures))
                continue
            except InvalidInput as error:
                refused += 1
                if refused == len(self._prompts):
                    raise
                answers = 0
                self._tell(self.done, f"a prompt was refused: {error}")
            else:
                failures = refused = 0
            asked, total = self.done.asked + 1, self.done.answers + answers
            self.done = self.done.model_copy(update={"asked": asked, "answers": total})
            _write(self._state, self.done)
            self._tell(self.done, "")
            self._pause(1 / self._plan.rate)
        return self.done

    def _ask(self, prompt: Prompt) -> int:
        plan = self._plan
        body: dict[str, Any] = {
            "model": plan.model,
            "n": min(plan.samples, plan.limit - self.done.answers),
            **sampled(prompt, plan.temperature, plan.max_tokens),
        }
        answer = self._client.request("POST", "/v1/chat/completions", body, headers={"attune-consent": "train"})
        return len(answer["choices"])

    def _wait_for_quiet(self) -> None:
        """Until no one else's request runs or waits on the server; our own has been answered by then."""
        pause = 1.0
        while not self._plan.anytime and (busy := self._busy()) > 0:
            self._tell(self.done, f"waiting: the server answers {busy:.0f} others")
            self._pause(pause)
            pause = min(30.0, 2 * pause)

    def _busy(self) -> float:
        families = text_string_to_metric_families(self._client.text("/metrics"))
        values = [sample.value for family in families for sample in family.samples if sample.name in _BUSY]
        if not values:
            raise ConfigError(
                "the server's metrics do not say how busy it is", remedy="Collect with --anytime while it is idle."
            )
        return sum(values)


def _read(state: Path, digest: str) -> Done:
    if not state.exists():
        return Done(prompts=digest, asked=0, answers=0)
    try:
        done = Done.model_validate_json(state.read_bytes())
    except ValidationError as error:
        raise InvalidInput(f"{state} is damaged", field="state", remedy="Remove it to begin anew.") from error
    if done.prompts != digest:
        raise Conflict(f"{state} is of other prompts", field="state", remedy="Name another with --state, or remove it.")
    return done


def _write(state: Path, done: Done) -> None:
    beside = state.with_name(f"{state.name}.new")
    beside.write_text(json.dumps(done.model_dump()), encoding="utf-8")
    os.replace(beside, state)


def collect(
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL: one {'messages': [...]} a line; may have name, language, domain.")
    ] = None,
    prompt_set: Annotated[
        str | None,
        typer.Option(help="Instead: a published prompt set, e.g. support@v2; support is the newest."),
    ] = None,
    model: Annotated[str, typer.Option(help="Policy alias.")] = "support",
    url: Annotated[str, typer.Option("--url", envvar="ATTUNE_URL", help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="ATTUNE_API_KEY", help="A key with the scopes chat and read.")
    ] = None,
    samples: Annotated[int, typer.Option("--n", min=1, max=MAX_SAMPLES, help="Answers to each prompt.")] = 4,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Answers in all; then it stops.")] = 1000,
    rate: Annotated[float, typer.Option(min=0.001, max=1000, help="Requests a second at most.")] = 1.0,
    temperature: Annotated[float, typer.Option(min=0.05, max=2, help="Sampling temperature.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most in one answer.")] = 512,
    state: Annotated[
        Path | None,
        typer.Option(help="Where progress lies; default: beside the prompts, or for a set here, by its name."),
    ] = None,
    anytime: Annotated[bool, typer.Option("--anytime", help="Do not wait until the server is idle.")] = False,
) -> None:
    """Sample answers to curated prompts at full distribution, for PPO to learn from, while the server is idle."""
    client = AttuneClient(url, api_key, timeout_s=600)
    lines, origin = find_prompts(client, prompts, prompt_set)
    plan = Plan(model, samples, limit, rate, temperature, max_tokens, anytime)
    console = Console(stderr=True)
    console.print(f"{len(lines)} prompts of {origin.name}, digest {origin.digest[:12]}", highlight=False, markup=False)
    with Progress(console=console) as bars:
        bar = bars.add_task("answers", total=limit)

        def tell(done: Done, words: str) -> None:
            bars.update(bar, completed=done.answers, description=words[:60] or "answers")

        where = state or (prompts or Path(origin.name)).with_name(f"{origin.name}.collected.json")
        done = Collector(client, plan, lines, origin.digest, where, tell=tell).run()
    console.print(f"{done.answers} answers to {min(done.asked, len(lines))} prompts of {origin.name}", highlight=False)
