"""`attune guidance ...`: publish, list and show what guides those who judge a policy's answers, and its prompt sets.

Works on the registry that a settings file names; no server is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from deploy.settings_file import load_any
from deploy.times import when
from exchange.guidance import find_guidance, publish_guidance, published_guidance, read_guidance
from exchange.open import open_registry
from exchange.registry.port import Registry
from schemas.base import PolicyName, parse_version_name, version_name
from schemas.errors import InvalidInput
from schemas.guidance import MAX_BYTES
from schemas.manifests import GuidanceKind

app = typer.Typer(
    help="Guidelines, constitution and prompt sets of a policy: publish, list, show. docs/learning.md says what for.",
    no_args_is_help=True,
)
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="A server's or trainer's TOML file.")]
Kind = Annotated[
    GuidanceKind,
    typer.Argument(
        help="guidelines: Markdown for raters. constitution: TOML, tables `principles` of id and text, for raters and "
        "`attune label`. prompts: JSONL, one {'name', 'language'?, 'domain'?, 'messages'} a line, for `attune collect` "
        "and `attune label`."
    ),
]
DEFAULT_CONFIG = Path("server.toml")
_POLICY: TypeAdapter[str] = TypeAdapter(PolicyName)


@app.command()
def publish(
    kind: Kind,
    policy: Annotated[str, typer.Argument(help="e.g. support")],
    file: Annotated[Path, typer.Argument(help="What to publish.")],
    note: Annotated[str, typer.Option("--note", "-m", help="Why, for operators; kept with the version.")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Publish the next version, which is in force from now on. What is published never changes.

    A file that says what the newest version says is not published again.
    """
    registry, of = _registry(config), _policy(policy)
    manifest, fresh = publish_guidance(registry, kind, of, _read(kind, file), note=note)
    name = version_name(policy, manifest.version)
    told = "published" if fresh else "is in force already: it says the same"
    Console().print(f"{kind.value} {name} {told}, digest {manifest.digest[:12]}", highlight=False)


@app.command("list")
def list_guidance(
    policy: Annotated[str, typer.Argument(help="e.g. support")], config: ConfigFile = DEFAULT_CONFIG
) -> None:
    """Every published version of a policy, and which is in force."""
    table = Table("kind", Column("version", no_wrap=True), "in force", "published", "digest", "note")
    published = published_guidance(_registry(config), _policy(policy))
    newest = {one.kind: one.version for one in published}
    for one in published:
        now = "yes" if newest[one.kind] == one.version else ""
        name = version_name(policy, one.version)
        table.add_row(one.kind.value, name, now, when(one.created_at), one.digest[:12], escape(one.note))
    Console().print(table)


@app.command()
def show(
    kind: Kind,
    name: Annotated[str, typer.Argument(help="A policy, for what is in force, or a version: support@v2.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """The file of a version, as it can be published again."""
    policy, version = parse_version_name(name) if "@" in name else (_policy(name), None)
    registry = _registry(config)
    typer.echo(read_guidance(registry, find_guidance(registry, kind, policy, version)), nl=False)


def _registry(config: Path) -> Registry:
    return open_registry(load_any(config).registry)


def _policy(name: str) -> str:
    try:
        return _POLICY.validate_python(name)
    except ValidationError as error:
        raise InvalidInput(f"{name!r} is no name of a policy", field="policy") from error


def _read(kind: GuidanceKind, path: Path) -> bytes:
    """At most one byte more than the kind may have, so that an endless file fills no memory."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES[kind] + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", field="file") from error
