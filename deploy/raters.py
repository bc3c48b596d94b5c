"""`attune raters ...`: whose words are not believed, why, and an operator's say in it. Talks to the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Prompt
from rich.table import Table

from deploy.asking import Asking, Said
from deploy.client import AttuneClient
from deploy.policy import DEFAULT_URL, ApiKey, Url
from deploy.times import when
from schemas.errors import InvalidInput, NotFound
from trainer.quality.gold import read_items

app = typer.Typer(
    help="Raters: who is quarantined and why; quarantine, release, ask. Known by pseudonym alone.",
    epilog="A quarantined person's words are not learnt from, as of the next snapshot, and their votes decide no "
    "canary. A released one is not quarantined again for what they had said until then.",
    no_args_is_help=True,
)
Policy = Annotated[str, typer.Option("--policy", help="The policy whose raters are meant.")]
Person = Annotated[str | None, typer.Argument(help="A pseudonym, as `attune raters list` shows it.")]
User = Annotated[str | None, typer.Option("--user", help="Instead: the person, as your app names them in `user`.")]
Reason = Annotated[str, typer.Option("--why", "-m", help="Kept on the log for ever; names nobody.")]


@app.command("list")
def list_raters(policy: Policy = "support", url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Everybody who is quarantined, and who was."""
    table = Table("rater", "", "since", "by", "agreed", "why")
    for rater in AttuneClient(url, api_key).raters(policy):
        last = rater["history"][-1]
        standing = "[red]quarantined[/red]" if rater["quarantined"] else "released"
        table.add_row(
            rater["rater"], standing, when(rater["since"]), last["by"], _figures(last["evidence"]), escape(last["why"])
        )
    Console().print(table)


@app.command()
def show(
    person: Annotated[str, typer.Argument(help="A pseudonym, as `attune raters list` shows it.")],
    policy: Policy = "support",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """All that was decided about one rater, and on what evidence."""
    for rater in AttuneClient(url, api_key).raters(policy):
        if rater["rater"] == person:
            _show(rater)
            return
    raise NotFound("nothing was ever decided about this rater", remedy="Their words count like everybody's.")


@app.command()
def quarantine(
    why: Reason,
    person: Person = None,
    user: User = None,
    policy: Policy = "support",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Do not learn from this person any more, until they are released."""
    _show(AttuneClient(url, api_key).judge_rater(policy, verdict="quarantined", why=why, **_named(person, user)))


@app.command()
def release(
    person: Person = None,
    user: User = None,
    why: Reason = "released by hand",
    policy: Policy = "support",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Believe this person again: all they said counts, as of the next snapshot."""
    _show(AttuneClient(url, api_key).judge_rater(policy, verdict="released", why=why, **_named(person, user)))


@app.command()
def ask(
    items: Annotated[Path, typer.Argument(help="JSONL: {'messages'} a line; of gold items also 'answer' and 'good'.")],
    user: Annotated[str, typer.Option("--user", help="Who judges, as your app names people in `user`.")],
    model: Annotated[str, typer.Option(help="Policy alias.")] = "support",
    limit: Annotated[int, typer.Option(min=1, help="Questions at most.")] = 20,
    as_rater: Annotated[bool, typer.Option("--rater", help="Speak as a rater; the key must have that right.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="ATTUNE_API_KEY", help="A key with the scopes chat and feedback.")
    ] = None,
) -> None:
    """Judge answers at the terminal. Name the file as `gold` in the trainer section `raters` to see who is right."""
    console = Console()

    def judge(question: str, answer: str) -> Said:
        console.print(Panel(escape(question), title="question"), Panel(escape(answer), title="answer"))
        said: Said = Prompt.ask("Good?", choices=["up", "down", "skip", "quit"], default="skip")  # type: ignore[assignment]
        return said

    asking = Asking(AttuneClient(url, api_key), model, user, judge)
    done = asking.run(read_items(items), limit, source="rater" if as_rater else "user")
    console.print(f"{done.answered} judged, {done.skipped} skipped", highlight=False)


def _named(person: str | None, user: str | None) -> dict[str, str]:
    if (person is None) == (user is None):
        raise InvalidInput("name exactly one of PERSON and --user", field="person")
    return {"rater": person} if person is not None else {"user": str(user)}


def _show(rater: dict[str, Any]) -> None:
    console = Console()
    standing = "[red]quarantined[/red]" if rater["quarantined"] else "believed"
    console.print(f"[b]{escape(rater['rater'])}[/b] is {standing} since {when(rater['since'])}", highlight=False)
    for said in rater["history"]:
        words = f"{when(said['at'])} {said['verdict']} by {said['by']}: {said['why']}"
        console.print(f"  {escape(words)}", highlight=False, soft_wrap=True)
        found = said["evidence"]
        if found is not None:
            gold = f", {found['gold_right']} of {found['gold']} gold items right" if found["gold"] else ""
            figures = (
                f"{_figures(found)} words agree with what others say{gold}; of people's words {found['people']:.0%} "
                f"do, {found['expected']:.0%} are expected at least; chance {found['p_value']:.1g}"
            )
            console.print(f"    {figures}", highlight=False, soft_wrap=True)


def _figures(evidence: dict[str, Any] | None) -> str:
    return "-" if evidence is None else f"{evidence['agreed']} of {evidence['words']}"
