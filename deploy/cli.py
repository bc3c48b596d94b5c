"""The `attune` command. Each subcommand is a thin call; what is heavy is imported only when it runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deploy import backup as backup_command
from deploy import chat as chat_command
from deploy import collect as collect_command
from deploy import dead_letters as dead_letters_command
from deploy import erase as erase_command
from deploy import feedback as feedback_command
from deploy import guidance as guidance_command
from deploy import keys as keys_command
from deploy import policy as policy_command
from deploy import raters as raters_command
from deploy import topics as topics_command
from deploy.doctor import command as doctor_command
from deploy.labelling import command as label_command
from deploy.votes import command as votes_command
from schemas.errors import AttuneError

app = typer.Typer(
    name="attune",
    help="A chat server that learns from the people who use it.",
    epilog="To begin: `attune demo` shows the whole loop. Your own: `attune init home --model NAME`, then "
    "`attune serve -c home/server.toml` and `attune train -c home/trainer.toml`; `attune chat` talks to it, and "
    "`attune doctor` says what keeps it from learning. The API describes itself at /openapi.json.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
feedback_command.app.command("import")(votes_command.import_votes)
feedback_command.app.command("export")(votes_command.export_votes)
app.add_typer(policy_command.app, name="policy")
app.add_typer(keys_command.app, name="keys")
app.add_typer(feedback_command.app, name="feedback")
app.add_typer(guidance_command.app, name="guidance")
app.add_typer(raters_command.app, name="raters")
app.add_typer(topics_command.app, name="topics")
app.add_typer(dead_letters_command.app, name="dead-letter")
app.command(name="chat")(chat_command.chat)
app.command(name="doctor")(doctor_command.doctor)
app.command(name="collect")(collect_command.collect)
app.command(name="label")(label_command.label)
app.command(name="erase")(erase_command.erase)
app.command(name="backup")(backup_command.backup)
app.command(name="restore")(backup_command.restore_backup)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="TOML file; see docs/configuration.md.")]


@app.command()
def serve(config: ConfigFile = Path("server.toml")) -> None:
    """Serve the chat API, feedback API and admin API, and follow the policy journal."""
    from server.main import run_server
    from server.settings import load_settings

    _log_to_stderr()
    raise typer.Exit(run_server(load_settings(config)))


@app.command()
def train(
    config: ConfigFile = Path("trainer.toml"),
    once: Annotated[bool, typer.Option("--once", help="Do one turn, then stop (exit code 3: nothing to do).")] = False,
) -> None:
    """Turn feedback into versions, for ever."""
    from trainer.main import run_trainer
    from trainer.settings import load_settings

    _log_to_stderr()
    raise typer.Exit(run_trainer(load_settings(config), once=once))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where server.toml and trainer.toml go.")] = Path("."),
    model: Annotated[str, typer.Option(help="A Hugging Face model: name or path.")] = "Qwen/Qwen3-0.6B",
    policy: Annotated[str, typer.Option(help="The public name of the policy.")] = "support",
    log: Annotated[str, typer.Option(help="Event log: sqlite:///PATH or kafka://HOST:PORT.")] = "sqlite:///log.db",
) -> None:
    """Write configurations for a server and a trainer that belong together, and make their first API keys."""
    from deploy.init import write_home

    home = write_home(folder, model=model, policy=policy, log=log)
    typer.echo(f"Wrote {home.server} and {home.trainer}. API keys, shown this once:")
    typer.echo(f"  app    {home.app_key}\n  admin  {home.admin_key}")
    typer.echo(f"Next:  attune serve -c {home.server}\n       attune train -c {home.trainer}")


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="A server's or trainer's TOML file.")]) -> None:
    """Read a configuration as the process would, and show every setting with secrets hidden."""
    from deploy.check_config import describe

    typer.echo(describe(file))


@app.command()
def sft(
    demonstrations: Annotated[Path, typer.Option(help="JSONL: one {'messages': [...]} a line, answer last.")],
    model: Annotated[str, typer.Option(help="Model to start from: name or path.")],
    out: Annotated[Path, typer.Option(help="Folder for the tuned model or adapter.")],
    lora: Annotated[bool, typer.Option(help="Train an adapter instead of all weights.")] = False,
) -> None:
    """Teach a base model from demonstrations, before any feedback exists."""
    from trainer.stages import run_sft

    _log_to_stderr()
    run_sft(demonstrations=demonstrations, model=model, out=out, lora=lora)


@app.command()
def demo(
    model: Annotated[str | None, typer.Option(help="Any Hugging Face model instead of the tiny one made here.")] = None,
    turns: Annotated[
        int,
        typer.Option(min=1, help="Turns of the loop; up to two more where none of them came to a promoted version."),
    ] = 3,
    log: Annotated[str, typer.Option(help="sqlite, or kafka for a real broker.")] = "sqlite",
    replicas: Annotated[int, typer.Option(min=1, help="Servers on the one log, each with an engine of its own.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it serving at the end.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON here as well.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Working folder; default: a new one under .attune/.")] = None,
    taste: Annotated[str | None, typer.Option(help="Who the users are: mixed (the default), brief or warm.")] = None,
    users: Annotated[Path | None, typer.Option(help="TOML file of your own users; see docs/demo.md.")] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Deal verdicts at random: the gain must vanish.")] = False,
    sabotage: Annotated[
        bool, typer.Option("--sabotage", help="At the end, serve a version of flipped verdicts and take it back.")
    ] = False,
) -> None:
    """Watch the whole loop: made-up users talk to a real server, and it learns what they like."""
    from deploy.demo.run import DemoOptions, run_demo

    options = DemoOptions(
        model=model,
        turns=turns,
        log=log,
        replicas=replicas,
        keep=keep,
        report=report,
        seed=seed,
        work=work,
        taste=taste,
        users=users,
        shuffle=shuffle,
        sabotage=sabotage,
    )
    raise typer.Exit(run_demo(options))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)  # it tells of every connection and metadata refresh


def main() -> None:
    """Run the command; an error raised on purpose ends it with its message alone and exit code 1."""
    try:
        app()
    except AttuneError as error:
        Console(stderr=True).print(f"[red]attune:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
