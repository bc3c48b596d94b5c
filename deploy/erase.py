"""`attune erase`: erase a person through a running server's admin API, and see what that reached and what not."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deploy.client import AttuneClient
from deploy.policy import DEFAULT_URL, ApiKey, Url
from deploy.times import when
from schemas.errors import InvalidInput

_POLL_S = 0.5


def erase(
    user: Annotated[str | None, typer.Argument(help="The person, as your app names them in `user`.")] = None,
    session: Annotated[str | None, typer.Option(help="Instead: a conversation without a user, by its session.")] = None,
    subject: Annotated[str | None, typer.Option(help="Instead: a pseudonym or conversation id.")] = None,
    status: Annotated[str | None, typer.Option(help="Erase nothing; ask what became of this erasure.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Also take versions that learnt from the person out of service.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for trainers to follow.")] = 10.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Make everything a person said unreadable. Asking again is harmless; it cannot be undone."""
    named = {"user": user, "session": session, "subject": subject}
    body = {name: value for name, value in named.items() if value is not None}
    if len(body) + (status is not None) != 1:
        raise InvalidInput("Name exactly one of USER, --session, --subject and --status", field="user")
    client, console = AttuneClient(url, api_key), Console()
    if status is None:
        console.print("destroying the key and looking through the snapshots ...", highlight=False)
        answer = client.request("POST", "/v1/admin/erasures", {**body, "rebuild": rebuild})
    else:
        answer = client.request("GET", f"/v1/admin/erasures/{status}")
    rebuilt = answer.get("rebuilt", [])
    deadline = time.monotonic() + wait
    while answer["waiting_for"] and time.monotonic() < deadline:
        time.sleep(min(_POLL_S, wait))
        answer = client.request("GET", f"/v1/admin/erasures/{answer['id']}")
    _show(console, {**answer, "rebuilt": rebuilt})


def _show(console: Console, answer: dict[str, Any]) -> None:
    table = Table("what", "policy", "when", "how many", title=f"erasure {answer['id']}")
    for done in answer["applied"]:
        counts = ", ".join(f"{count} {name}" for name, count in done["counts"].items())
        policy = done["policy"] if done["part"] == "ledger" else "all"
        table.add_row(_WORDS.get(done["part"], done["part"]), policy, when(done["at"]), counts)
    console.print(table)
    for one in answer["waiting_for"]:
        console.print(f"not yet: {one} (attune erase --status {answer['id']})", highlight=False)
    for found in answer["influenced"]:
        for group, words in _INFLUENCE.items():
            if found[group]:
                console.print(f"{words}: {', '.join(found[group])}", highlight=False)
    if not answer["influenced"]:
        console.print("no published version learnt from this person", highlight=False)
    for change in answer["rebuilt"]:
        to = f", {change['to']} serves" if change["to"] else ""
        became = f"refused: {change['refused']}" if change["refused"] else f"{change['change']}{to}"
        console.print(f"{change['version']}: {became}", highlight=False)
    if answer["influenced"]:
        console.print(answer["note"], highlight=False)


_WORDS = {"keys": "key destroyed", "ledger": "ledger rows are tombstones"}
_INFLUENCE = {
    "direct": "learnt from this person",
    "inherited": "continue from such a version",
    "unknown": "may have learnt from this person, their snapshots cannot be read",
}
