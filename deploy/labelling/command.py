"""`attune label`: from options to a run of the labeller, with a bar while it runs and the counts at its end."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress

from deploy.client import AttuneClient
from deploy.collect import find_prompts
from deploy.labelling.labeller import JUNK, REFUSED, SAME, Labeller, Plan
from schemas.base import Id
from schemas.errors import ConfigError, InvalidInput, NotFound
from schemas.guidance import GuidanceNow, GuidanceShown, parse_constitution

KEY_VARIABLE = "ATTUNE_LABELLER_KEY"
_NO_KEY = "none"
"""Local endpoints ask for no key, and the openai library insists on one."""
_MODEL: TypeAdapter[str] = TypeAdapter(Id)
_CAME = {
    "first": "preferences sent",
    "second": "preferences sent",
    "tie": "ties sent",
    "inconsistent": "dropped: the verdict changed with the order",
    SAME: "dropped: both answers were the same",
    JUNK: "dropped: the reply was no verdict",
    REFUSED: "dropped: the server or the endpoint refused it",
}


def label(
    endpoint: Annotated[str, typer.Option(help="Base path of an OpenAI-compatible API, e.g. http://judge:8000/v1.")],
    model: Annotated[str, typer.Option(help="The judging model, as its endpoint calls it. Each is one voice.")],
    policy: Annotated[str, typer.Option(help="Whose answers are judged.")] = "support",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Pairs in all; then it stops.")] = 100,
    prompt_set: Annotated[
        str | None, typer.Option(help="A published prompt set, e.g. support@v2; default: the policy's newest.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts from a file instead, as for `attune collect`.")] = None,
    endpoint_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the endpoint's API key; default: the environment's {KEY_VARIABLE}, else none."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=600, help="Seconds for one reply. Two must fit into the feedback window.")
    ] = 20.0,
    temperature: Annotated[float, typer.Option(min=0.05, max=2, help="Of the answers that are judged.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most in one of them.")] = 512,
    url: Annotated[str, typer.Option("--url", envvar="ATTUNE_URL", help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="ATTUNE_API_KEY",
            help="A key of its own: scopes chat, feedback and read, made with --raters.",
        ),
    ] = None,
) -> None:
    """Let a model judge pairs of answers by the policy's constitution, and send its words marked as a model's.

    Each pair is judged in both orders; what is not said both times alike is dropped.

    In the trainer such words weigh at most feedback.ai_share of what people say.

    The endpoint is sent curated prompts and the policy's answers, no person's words.
    """
    from openai import OpenAI  # slow to import

    from deploy.labelling.judge import Judge

    name = _named(model)
    client = AttuneClient(url, api_key, timeout_s=600)
    constitution = _in_force(client, policy)
    lines, origin = find_prompts(client, prompts, prompt_set if prompts or prompt_set else policy)
    asks = OpenAI(base_url=endpoint, api_key=_endpoint_key(endpoint_key_file), timeout=timeout, max_retries=0)
    plan = Plan(policy, name, constitution.digest, count, temperature, max_tokens)
    console = Console(stderr=True)
    by = f"constitution {constitution.version}, digest {constitution.digest[:12]}"
    console.print(f"{len(lines)} prompts of {origin.name}; {by}", highlight=False, markup=False)
    with Progress(console=console) as bars:
        bar = bars.add_task("pairs", total=count)

        def tell(done: Counter[str], words: str) -> None:
            bars.update(bar, completed=done.total(), description=words[:60] or "pairs")

        judge = Judge(asks, name, parse_constitution(constitution.text))
        done = Labeller(client, judge, plan, lines, tell=tell).run()
    console.print(summary(done), highlight=False, markup=False)


def summary(done: Counter[str]) -> str:
    """What came of the pairs, in words."""
    said: Counter[str] = Counter()
    for came, number in done.items():
        said[_CAME[came]] += number
    return f"{done.total()} pairs: " + ", ".join(f"{said[words]} {words}" for words in dict.fromkeys(_CAME.values()))


def _named(model: str) -> str:
    try:
        return _MODEL.validate_python(model)
    except ValidationError as error:
        raise InvalidInput("the model's name has characters that no name has", field="model") from error


def _in_force(client: AttuneClient, policy: str) -> GuidanceShown:
    found = GuidanceNow.model_validate(client.request("GET", f"/v1/guidance/{quote(policy, safe='')}")).constitution
    if found is None:
        raise NotFound(
            f"{policy} has no constitution to judge by", remedy="Publish one: `attune guidance publish constitution`."
        )
    return found


def _endpoint_key(file: Path | None) -> str:
    """The key in a file, else in the environment. Never shown, and never an option, which process lists would show."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or _NO_KEY
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read", field="endpoint-key-file") from error
    if not key or not key.isprintable() or not key.isascii():
        raise ConfigError(f"{file} holds no API key", field="endpoint-key-file")
    return key
