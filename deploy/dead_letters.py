"""`attune dead-letter ...`: what readers could not read or the log did not take, and putting it back.

Shows bytes as they lie on the log. Sealed content stays sealed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.times import when
from exchange.log.port import EventLog
from exchange.reading.letters import Letter, letter, letters, replay, replayed, why_not
from schemas.errors import InvalidInput, Refused

app = typer.Typer(help="Records that could not be read: list, show, replay.", no_args_is_help=True)
ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="A server's or trainer's TOML file: names the log.")]
_SHOWN_BYTES = 64 * 2**10


def _open(config: Path) -> EventLog:
    from deploy.settings_file import load_any  # loads what reads settings of both processes

    return load_any(config).open_log()


@app.command("list")
def list_letters(config: ConfigFile = Path("server.toml")) -> None:
    """Every dead letter: its number, when it was buried, from where, why, and its size."""
    table = Table("number", "buried", "from", "type", "bytes", "why")
    with _open(config) as log:
        for one in letters(log):
            kind = dict(one.headers).get("ce_type", b"-").decode(errors="replace")
            values = (str(one.number), when(one.record.timestamp_ms), one.origin, kind, str(len(one.record.value)))
            table.add_row(*(escape(_plain(value)) for value in (*values, one.reason)))
    Console().print(table if table.row_count else "There are no dead letters.")


@app.command()
def show(
    number: Annotated[int, typer.Argument(min=0, help="As `attune dead-letter list` has it.")],
    config: ConfigFile = Path("server.toml"),
) -> None:
    """One dead letter: its headers, and its body as text, or as hex where it is none. Sealed parts stay sealed."""
    with _open(config) as log:
        one = letter(log, number)
    for line in described(one):
        typer.echo(line)


def described(one: Letter) -> list[str]:
    """A letter in lines that are safe to print on a terminal."""
    value = one.record.value
    lines = [f"number  {one.number}", f"from    {_plain(one.origin)}", f"why     {_plain(one.reason)}"]
    lines += [f"buried  {when(one.record.timestamp_ms)}", f"key     {_text_or_hex(one.record.key)}", "headers"]
    lines += [f"  {_plain(name)}: {_text_or_hex(content)}" for name, content in one.headers]
    lines += [f"body    {len(value)} bytes", _text_or_hex(value[:_SHOWN_BYTES])]
    return [*lines, f"... and {len(value) - _SHOWN_BYTES} bytes more"] if len(value) > _SHOWN_BYTES else lines


@app.command("replay")
def replay_letters(
    numbers: Annotated[list[int] | None, typer.Argument(min=0, help="Which; default: with --all, all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that can be.")] = False,
    config: ConfigFile = Path("server.toml"),
) -> None:
    """Put letters back onto their topics, each once: those that this version of Attune can read.

    A record that is put back has the header attune_replayed; replaying it again does nothing. One that was replayed
    longer ago than its topic keeps records may be put back again, which is harmless: readers count an event id once.

    Exit code 1 where a letter that was named could not be replayed.
    """
    if bool(numbers) == every:
        raise InvalidInput("Name the letters to replay, or give --all", field="numbers")
    failed = 0
    with _open(config) as log:
        chosen = list(letters(log)) if every else [letter(log, number) for number in dict.fromkeys(numbers or [])]
        done = replayed(log, chosen)
        for one in chosen:
            why = why_not(one)
            if one.identity in done:
                typer.echo(f"{one.number}: replayed before")
            elif why is not None:
                failed += 1
                typer.echo(f"{one.number}: not replayed: {_plain(why)}")
            else:
                place = replay(log, one)
                done.add(one.identity)
                typer.echo(f"{one.number}: now {place}")
    if failed and not every:
        raise Refused(f"{failed} of {len(chosen)} letters were not replayed")


def _text_or_hex(content: bytes) -> str:
    """Text as it is where all of it can be shown, else hex."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return content.hex()
    return text if all(character.isprintable() or character in "\n\t" for character in text) else content.hex()


def _plain(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
