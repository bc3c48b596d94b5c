"""`attune keys ...`: make, list and revoke API keys in the server's key file, and make a new key for feedback handles.

A running server sees changes of API keys at once, and of handle keys when it starts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from schemas.completion import ConsentLevel
from schemas.errors import ConfigError
from server.auth import ALL_ALIASES, KeyFile, Scope
from server.secrets import rotate_handle_key
from server.settings import load_settings

_SCOPES = (
    "What it may do; repeat for several. chat: chats, comparisons, consent. feedback: feedback for its tenant. "
    "read: policies, fates, metrics, stored completions. admin: promote, roll back, erase."
)
app = typer.Typer(
    help="API keys of a server: create, list, revoke; the key of its handles: rotate.", no_args_is_help=True
)
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The server's TOML file.")]
DEFAULT_CONFIG = Path("server.toml")


def _keys(config: Path) -> KeyFile:
    return KeyFile(load_settings(config).server.api_keys)


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose users and conversations its requests speak of.")],
    scope: Annotated[list[Scope], typer.Option(help=_SCOPES)] = [  # noqa: B006
        Scope.CHAT,
        Scope.FEEDBACK,
    ],
    alias: Annotated[list[str], typer.Option(help="Policies it may use; repeat for several.")] = [ALL_ALIASES],  # noqa: B006
    consent: Annotated[
        ConsentLevel, typer.Option(help="What its users allow unless a request says otherwise.")
    ] = ConsentLevel.TRAIN,
    raters: Annotated[bool, typer.Option("--raters", help="May send feedback as rater, ai or implicit.")] = False,
    by_id: Annotated[
        bool,
        typer.Option("--by-id", help="May send feedback by completion id, without the handle (TensorZero's body)."),
    ] = False,
    retention: Annotated[
        str, typer.Option(help="Retention class of what its requests leave; see docs/privacy.md.")
    ] = "standard",
    label: Annotated[str, typer.Option(help="For operators.")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Make a key. Its text is shown once and stored only hashed."""
    key, text = _keys(config).create(
        tenant=tenant,
        scopes=tuple(scope),
        aliases=tuple(alias),
        default_consent=consent,
        may_claim_sources=raters,
        may_name_completions=by_id,
        retention=retention,
        label=label,
    )
    Console(stderr=True).print(f"key {key.id} for {tenant}: {', '.join(scope)}; shown this once:", highlight=False)
    typer.echo(text)


@app.command("list")
def list_keys(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """All keys, revoked ones too; never their secrets."""
    table = Table(Column("id", no_wrap=True), "tenant", "scopes", "policies", "consent", "created", "revoked", "label")
    for key in _keys(config).list():
        table.add_row(
            key.id,
            key.tenant,
            " ".join(key.scopes),
            " ".join(key.aliases),
            key.default_consent,
            _day(key.created_at),
            _day(key.revoked_at),
            key.label,
        )
    Console().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `attune keys list` shows it.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Make a key useless for good."""
    Console().print(f"revoked {_keys(config).revoke(key_id).id}", highlight=False)


@app.command("rotate-handles")
def rotate_handles(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make a new key for feedback handles. Handles made with the three before it still hold.

    Give the changed secrets.json to every replica, and restart them one after the other.
    """
    settings = load_settings(config)
    if settings.chat.secret is not None:
        raise ConfigError(
            "handle keys follow from chat.secret here",
            field="chat.secret",
            remedy="Another secret makes all handles void, and every user a stranger.",
        )
    Console().print(f"new handles are made with {rotate_handle_key(settings.server.data_dir)}", highlight=False)


def _day(at_ms: int | None) -> str:
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d")
