"""`attune policy ...`: look at versions, read their cards, promote, take back. Talks to a server's admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.client import AttuneClient
from deploy.explain import show as show_explanation
from deploy.times import when
from schemas.base import parse_version_name

app = typer.Typer(help="Versions of a policy: list, show, explain, card, promote, roll back.", no_args_is_help=True)
Url = Annotated[str, typer.Option("--url", envvar="ATTUNE_URL", help="The server.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="ATTUNE_API_KEY", help="A key with the scope admin.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Kept in the journal for ever.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def _client(url: str, api_key: str | None) -> AttuneClient:
    return AttuneClient(url, api_key)


@app.command("list")
def list_policies(url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Every policy with its stable version and canary."""
    table = Table("policy", "stable", "canary", "versions", "generation")
    for state in _client(url, api_key).policies():
        canary = f"{state['canary']} ({state['canary_share']:.0%})" if state["canary"] else "-"
        table.add_row(state["policy"], state["stable"], canary, str(len(state["versions"])), str(state["generation"]))
    Console().print(table)


@app.command()
def show(
    policy: Annotated[str, typer.Argument(help="e.g. support")],
    history: Annotated[bool, typer.Option("--history", help="Every journal entry as well.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """The versions of a policy and what this server really serves."""
    console, client = Console(), _client(url, api_key)
    _print_state(console, client.policy(policy))
    if history:
        table = Table("when", "entry", "version", "by", "outcome", "reason", title="journal")
        for line in client.history(policy):
            outcome = "applied" if line["applied"] else f"refused: {line['refused']}"
            version = line.get("version")
            words = (line["actor"], outcome, line.get("reason", ""))
            at = when(line["at"]) if line["at"] else "-"
            table.add_row(at, line["entry"], version or "-", *map(escape, words))
        console.print(table)


@app.command()
def explain(
    version: Annotated[str, typer.Argument(help="e.g. support@v3")],
    recipe: Annotated[bool, typer.Option("--recipe", help="Every setting and figure of its training as well.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Where a version came from: feedback, gates, example answers, lineage."""
    policy, number = parse_version_name(version)
    show_explanation(_client(url, api_key).explain(policy, f"v{number}"), Console(), recipe=recipe)


@app.command()
def card(
    version: Annotated[str, typer.Argument(help="e.g. support@v3")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the cards and their pictures to this new folder instead.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Name of the base on the Hugging Face Hub, for the card's head.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """The model card of a version and of its reward model, in Hugging Face's format (Markdown).

    Printed without --out, the version's card alone, pictures left out.
    """
    # Here, so that other commands don't wait for the Hub's library.
    from deploy.cards import README, card_texts, write_card

    policy, number = parse_version_name(version)
    told = _client(url, api_key).card(policy, f"v{number}")
    if out is None:
        typer.echo(card_texts(told, base_model)[README])
        return
    for path in write_card(told, out, base_model):
        typer.echo(path)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="e.g. support@v3")],
    reason: Reason = "promoted by hand",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Make a version the stable one."""
    state = _client(url, api_key).promote(version.partition("@")[0], version, reason)
    _print_state(Console(), state)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="A policy (its stable version is taken back), or a version of it.")],
    to: Annotated[str | None, typer.Option(help="The version to go back to; default: the stable one before.")] = None,
    reason: Reason = "rolled back by hand",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Take a version back."""
    policy, at, _ = name.partition("@")
    state = _client(url, api_key).rollback(policy, version=name if at else None, to=to, reason=reason)
    _print_state(Console(), state)


def _print_state(console: Console, state: dict[str, Any]) -> None:
    table = Table("version", "stage", "since", "parent", "KL to base (nats/seq)", "reason", title=state["policy"])
    styles = {"stable": "bold green", "canary": "yellow", "rolled_back": "red", "rejected": "red"}
    for version in state["versions"]:
        table.add_row(
            version["version"],
            version["stage"],
            when(version["since"]) if version["since"] else "-",
            version["parent"] or "-",
            f"{version['kl_nats_per_sequence']:.3f}",
            escape(version["reason"]),
            style=styles.get(version["stage"], ""),
        )
    console.print(table)
    console.print(f"loaded here: {', '.join(state['serving'])}", highlight=False)
    for version, why in state.get("refused", {}).items():
        console.print(f"[red]refused here:[/red] {version}: {escape(why)}", highlight=False)
    if "seconds" in state:
        console.print(f"in effect after {state['seconds']:.3f} s", highlight=False)
