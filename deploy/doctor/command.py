"""The command: reads settings, shows findings and the funnel, and says by its exit code whether learning is blocked."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deploy.doctor.findings import Finding, Weight
from schemas.errors import ConfigError

BLOCKED = 1
_STYLES = {Weight.BLOCKS: "bold red", Weight.WAITS: "yellow", Weight.SLOWS: "yellow", Weight.NOTE: "dim"}


def doctor(
    config: Annotated[
        list[Path],
        typer.Option("--config", "-c", help="The trainer's TOML file, and the server's as well where it is at hand."),
    ] = [Path("trainer.toml")],  # noqa: B006 - typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
) -> None:
    """Say in plain words what keeps the loop from learning, and the remedy. Exit code 1 where something blocks it.

    Works beside running processes and changes nothing.
    """
    from deploy.doctor.look import Examination  # heavy

    files = [(path, _is_server(path)) for path in config]
    trainers = [path for path, server in files if not server]
    servers = [path for path, server in files if server]
    if len(trainers) != 1 or len(servers) > 1:
        raise ConfigError(
            "the doctor looks at one trainer, and at one server beside it",
            field="config",
            remedy="Write `attune doctor -c trainer.toml -c server.toml`.",
        )
    from server.settings import load_settings as load_server
    from trainer.settings import load_settings as load_trainer

    server = load_server(servers[0]) if servers else None
    examination = Examination(server, load_trainer(trainers[0]))
    found = sorted(examination.findings(), key=lambda finding: list(Weight).index(finding.weight))
    stages = examination.funnel.stages() if examination.funnel else {}
    blocked = any(finding.weight is Weight.BLOCKS for finding in found)
    if as_json:
        typer.echo(json.dumps({"blocked": blocked, "funnel": stages, "findings": [asdict(one) for one in found]}))
    else:
        _show(found, stages, Console())
    raise typer.Exit(BLOCKED if blocked else 0)


def _is_server(path: Path) -> bool:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}", field="config") from error
    return bool({"server", "engine", "chat", "swap"} & values.keys())


def _show(found: list[Finding], stages: dict[str, int], console: Console) -> None:
    if stages:
        words = ", ".join(f"{count} {stage.replace('_', ' ')}" for stage, count in stages.items())
        console.print(f"[b]funnel[/b]  {words}", highlight=False, soft_wrap=True)
    for finding in found:
        style = _STYLES[finding.weight]
        console.print(
            f"[{style}]{finding.weight:<7}[/{style}] {escape(finding.message)}", highlight=False, soft_wrap=True
        )
        if finding.remedy:
            console.print(f"        [dim]{escape(finding.remedy)}[/dim]", highlight=False, soft_wrap=True)
    if not any(finding.weight is Weight.BLOCKS for finding in found):
        console.print("[green]Nothing keeps this loop from learning.[/green]")
