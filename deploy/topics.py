"""`attune topics ...`: the topics of a Kafka cluster, as the table in schemas/topics.py has them. Only ever adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from exchange.log.layout import Change, faults
from schemas.errors import Refused

app = typer.Typer(help="The topics of a Kafka cluster: what they should be, made so.", no_args_is_help=True)
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="A server's or trainer's TOML file.")]


@app.callback()
def _group() -> None:
    """Keeps `apply` a subcommand while it is the only one."""


@app.command()
def apply(
    config: ConfigFile = Path("server.toml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make topics that are missing, add partitions, mend their settings.

    Shows the difference first. Nothing is ever deleted or shortened: what would be is refused, with the reason.
    Replication is 3, and 2 copies must have a record, where the cluster has three brokers; `replication_factor` and
    `min_insync_replicas` in the section kafka say otherwise. Needs an operator's credentials where the cluster asks for
    some: set them in the environment, e.g. ATTUNE_KAFKA__USERNAME and ATTUNE_KAFKA__PASSWORD.

    Exit code 1 where something had to be refused.
    """
    from deploy.settings_file import load_any
    from exchange.log.kafka import topics
    from exchange.log.kafka.clients import Clients
    from exchange.open import is_kafka, kafka_servers

    settings, console = load_any(config), Console()
    if not is_kafka(settings.log):
        console.print("An embedded log makes its own topics: there is nothing to do.")
        return
    clients = Clients(kafka_servers(settings.log), settings.kafka)
    try:
        plan = clients.ask(lambda admin: topics.plan_of(admin, settings.kafka))
        show(plan.changes, plan.brokers, console)
        todo = [change for change in plan.changes if change.refused is None]
        if todo and not dry_run and (yes or typer.confirm("Make these changes?")):
            found = clients.ask(lambda admin: topics.apply(admin, plan, settings.kafka))
            console.print(f"Done: {len(todo)} changes.")
            for fault in faults(found):
                console.print(f"[yellow]still wrong:[/yellow] {fault.words}", highlight=False)
    finally:
        clients.close()
    if refused := [change for change in plan.changes if change.refused]:
        raise Refused(f"{len(refused)} differences are left as they are; the table says why")


def show(changes: tuple[Change, ...], brokers: int, console: Console) -> None:
    """The differences as a table."""
    if not changes:
        console.print("The topics are as they should be: nothing to do.")
        return
    table = Table("topic", "what", "is", "will be", "", title=f"topics on {brokers} broker{'s' * (brokers != 1)}")
    for change in changes:
        after = change.after if change.refused is None else f"[strike]{change.after}[/strike]"
        note = "" if change.refused is None else f"[red]left as it is: {change.refused}[/red]"
        table.add_row(change.topic, change.what, change.before or "[dim]not there[/dim]", after, note)
    console.print(table)
