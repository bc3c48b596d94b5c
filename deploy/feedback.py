"""`attune feedback ...`: what became of a word of feedback. Asks a running server, or reads log and registry itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deploy.client import AttuneClient
from deploy.times import when

app = typer.Typer(help="Feedback: what became of it; votes in and out of files.", no_args_is_help=True)
DEFAULT_URL = "http://127.0.0.1:8000"
_STYLES = {"waiting": "yellow", "in_snapshot": "cyan", "in_version": "green", "excluded": "red"}


@app.command()
def trace(
    feedback_id: Annotated[str, typer.Argument(help="As POST /v1/feedback answered it: fb_...")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A trainer's TOML file: read its log and registry; no server is needed."),
    ] = None,
    url: Annotated[str, typer.Option("--url", envvar="ATTUNE_URL", help="The server.")] = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="ATTUNE_API_KEY", help="A key of the tenant: scope feedback, read or admin."),
    ] = None,
) -> None:
    """Accepted, joined, in snapshot S, in version V - or left out, and why."""
    if config is None:
        show(AttuneClient(url, api_key).fate(feedback_id), Console())
    else:
        show(read_fate(config, feedback_id), Console())


def read_fate(config: Path, feedback_id: str) -> dict[str, Any]:
    """The fate of a word from the log and the registry that a trainer's settings name, however old it is.

    Raises:
        NotFound: the log does not hold it (any more).
        ConfigError, Unavailable: settings, log or registry cannot be read.
    """
    from exchange.open import open_log, open_registry
    from exchange.reading.accepted import AcceptedWords  # heavy, and not needed where a server answers
    from exchange.reading.fates import Fates
    from trainer.settings import load_settings

    settings = load_settings(config)
    opened = open_log(settings.log, kafka=settings.kafka, registry=settings.registry)
    with opened as log, closing(AcceptedWords(log, timeout_s=math.inf)) as words:
        found = words.find(feedback_id, search=True)
        fate = Fates(open_registry(settings.registry)).of(found)
    return fate.model_dump(mode="json")


def show(fate: Mapping[str, Any], console: Console) -> None:
    """A fate as a few lines."""
    style = _STYLES.get(fate["status"], "")
    console.print(f"[b]{fate['id']}[/b]  {fate['kind']} on {fate['policy']}", highlight=False)
    accepted = fate["accepted"]
    place = f"{accepted['topic']}/{accepted['partition']} at offset {accepted['offset']}"
    _line(console, "accepted", f"{when(accepted['at'])}, {place}")
    if joined := fate["joined"]:
        held = ", held out" if joined["held_out"] else ""
        _line(
            console, "joined", f"first in snapshot {joined['snapshot'][:12]} (up to {when(joined['watermark'])}){held}"
        )
    if fate["versions"]:
        _line(console, "taught", ", ".join(fate["versions"]))
    if fate["judged"]:
        _line(console, "judged", ", ".join(fate["judged"]))
    if excluded := fate["excluded"]:
        what = "waits" if fate["status"] == "waiting" else "left out"
        _line(console, what, f"{excluded['reason']}, says snapshot {excluded['snapshot'][:12]}")
    console.print(f"[{style}]{fate['status']}[/{style}]: {escape(fate['explanation'])}", highlight=False)
    if not fate["complete"]:
        console.print("[dim]Some snapshots could not be looked at; more may hold it.[/dim]")


def _line(console: Console, name: str, words: str) -> None:
    console.print(f"  [dim]{name:<9}[/dim] {escape(words)}", highlight=False, soft_wrap=True)
