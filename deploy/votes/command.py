"""`attune feedback import` and `export`: votes in and out of files, with a look before anything is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from deploy.votes.importing import SHOWN_FAULTS, Destination, Survey, imported_ids, survey, write
from deploy.votes.reading import Format, VoteReader
from exchange.open import open_keys, open_log, open_registry
from schemas.completion import ConsentLevel
from schemas.errors import ConfigError, InvalidInput
from server.auth import KeyFile
from server.secrets import derive_secrets, load_secrets
from server.settings import ServerSettings, load_settings

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The server's TOML file.")]
DEFAULT_CONFIG = Path("server.toml")
Step = Callable[[int, int], None]
"""Called with what is done and what there is."""


def import_votes(
    files: Annotated[list[Path], typer.Argument(help="Votes; Langfuse's traces and scores together.")],
    consent: Annotated[
        ConsentLevel, typer.Option(help="What the people who voted allow; `train`, or there is nothing to import.")
    ],
    format: Annotated[Format, typer.Option(help="What the files are; jsonl is ours and TRL's.")] = Format.AUTO,
    policy: Annotated[str | None, typer.Option(help="Whose votes they become; default: the only policy.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose users voted; default: that of all API keys.")] = None,
    score: Annotated[str | None, typer.Option(help="Name of Langfuse's score that is the vote.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what is not understood.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and say what would be imported.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Bring in votes from elsewhere to warm the reward model. They never train PPO: nobody logged their logprobs."""
    if consent is not ConsentLevel.TRAIN:
        raise ConfigError(
            f"with consent {consent} nothing may be learnt from these votes, and they are good for nothing else",
            field="consent",
            remedy="Import only votes of people who allow it, with --consent train.",
        )
    settings = load_settings(config)
    destination = Destination(
        policy=policy_of(settings, policy),
        tenant=tenant or _only_tenant(settings),
        consent=consent,
        pseudonym_key=_pseudonym_key(settings),
    )
    console = Console(stderr=True)
    opened = open_log(settings.server.log, kafka=settings.kafka, registry=settings.server.registry)
    with opened as log, closing(open_keys(settings.server.keys)) as keys:
        reader = VoteReader(files, format, score)
        with progress(console, "looking at the log") as step:
            known = imported_ids(log, destination.policy, step)
        with progress(console, "looking at the files") as step:
            looked = survey(reader.read(lambda read: step(read, reader.size)), destination, known)
        _show(console, looked, reader.format)
        if looked.bad and not skip_bad:
            raise InvalidInput(
                f"{looked.bad} items were not understood, and nothing was imported",
                field="file",
                remedy="Mend them, or leave them out with --skip-bad.",
            )
        total = looked.fresh.total()
        if dry_run:
            console.print("a dry run: nothing was imported", highlight=False)
            return
        with progress(console, "importing") as step:
            done = write(reader.read(), destination, log, keys, known, lambda wrote: step(wrote, total))
    typer.echo(f"imported {done} votes for {destination.policy}, tenant {destination.tenant}")


def export_votes(
    out: Annotated[Path, typer.Option(help="A new file; none is ever replaced.")],
    shape: Annotated[str, typer.Option("--format", help="trl-preference, trl-unpaired or jsonl.")] = "trl-preference",
    snapshot: Annotated[str | None, typer.Argument(help="A digest, or POLICY@vN; default: the newest.")] = None,
    policy: Annotated[str | None, typer.Option(help="Whose newest snapshot; default: the only policy.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write the labels of a snapshot as text, for use elsewhere. Needs the key store; erased people are left out."""
    from deploy.votes.exporting import Shape, export, snapshot_named

    if shape not in tuple(Shape):
        raise ConfigError(f"there is no format {shape!r}", field="format", remedy=f"Choose one of: {', '.join(Shape)}.")
    settings = load_settings(config)
    registry = open_registry(settings.server.registry)
    manifest = snapshot_named(registry, policy_of(settings, policy) if snapshot is None else "", snapshot)
    with closing(open_keys(settings.server.keys)) as keys, tempfile.TemporaryDirectory() as cache:
        folder = registry.fetch_artifact("snapshots", manifest.digest, Path(cache))
        exported = export(folder, manifest, keys, Shape(shape), out)
    total = sum(exported.written.values()) + sum(exported.left_out.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(exported.written.items())) or "nothing"
    typer.echo(f"{manifest.policy}, snapshot {manifest.digest[:12]}: wrote {kinds} of {total} labels to {out}")
    for reason, count in exported.left_out.most_common():
        typer.echo(f"  left out: {count} {reason}")
    Console(stderr=True).print("The file is text in the clear: an erasure no longer reaches it.", highlight=False)


def policy_of(settings: ServerSettings, named: str | None) -> str:
    """The policy named, or the only one. Raises ConfigError where it is not served, or there are several."""
    policies = settings.server.policies
    if named is None and len(policies) == 1:
        return policies[0]
    if named not in policies:
        said = "there are several policies" if named is None else f"there is no policy {named!r}"
        raise ConfigError(said, field="policy", remedy=f"Name one with --policy: {', '.join(policies)}.")
    return named


def _only_tenant(settings: ServerSettings) -> str:
    tenants = {key.tenant for key in KeyFile(settings.server.api_keys).list() if key.revoked_at is None}
    if len(tenants) != 1:
        raise ConfigError(
            f"the API keys are of {len(tenants)} tenants", field="tenant", remedy="Say with --tenant whose users voted."
        )
    return tenants.pop()


def _pseudonym_key(settings: ServerSettings) -> bytes:
    """The server's own, so that a person is the same in votes brought in and in chats."""
    root = settings.chat.secret
    found = load_secrets(settings.server.data_dir) if root is None else derive_secrets(root.get_secret_value())
    return found.pseudonym_key


def _show(console: Console, looked: Survey, format: Format) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    total = looked.fresh.total()
    kinds = ", ".join(f"{count} {verdict}" for verdict, count in sorted(looked.fresh.items()))
    line(f"{format}: {total} votes of {len(looked.people)} people" + (f": {kinds}" if kinds else ""))
    for reason, count in looked.left_out.most_common():
        line(f"  left out: {count} {reason}")
    if looked.undated:
        line(f"  without a time of their own, so they get today's: {looked.undated}")
    if looked.unread:
        line(f"  fields left unread: {', '.join(sorted(looked.unread))}")
    for place, fault in looked.faults:
        line(f"  {place}: {fault}")
    if looked.bad > SHOWN_FAULTS:
        line(f"  ... and {looked.bad - SHOWN_FAULTS} more that were not understood")


@contextmanager
def progress(console: Console, what: str) -> Iterator[Step]:
    """A bar while something takes long, on a terminal; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
