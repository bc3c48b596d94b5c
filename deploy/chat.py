"""`attune chat`: a person at a terminal. Streams answers, presses thumbs, rates, corrects, compares two answers.

Knows the HTTP surface through `deploy.client` alone, as any app would.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Prompt

from deploy.client import AttuneClient
from schemas.base import new_id
from schemas.errors import AttuneError

HELP = """[b]/up[/b] [b]/down[/b]        thumb on the last answer        [b]/rate N[/b]     1-5 stars
[b]/fix TEXT[/b]         what it should have said        [b]/undo[/b]       take your last word back
[b]/compare QUESTION[/b] two blinded answers; you choose [b]/new[/b]        start over
[b]/help[/b]             this                            [b]/quit[/b]       leave (or Ctrl-D)"""


@dataclass
class Talk:
    """One conversation at the terminal."""

    client: AttuneClient
    console: Console
    model: str
    user: str
    max_tokens: int
    session: str = field(default_factory=lambda: new_id("term"))
    messages: list[dict[str, str]] = field(default_factory=list)
    handle: str | None = None
    last_feedback: tuple[str, str] | None = None  # handle and id

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages,
            "user": self.user,
            "session_id": self.session,
            "max_tokens": self.max_tokens,
        }

    def say(self, text: str) -> None:
        """Send one message and print the answer as it streams."""
        self.messages.append({"role": "user", "content": text})
        answer, version = "", "?"
        try:
            for chunk in self.client.stream_chat(**self._body(self.messages)):
                if attune := chunk.get("attune"):
                    version = attune["version"]
                    self.handle = attune["handles"][0] if attune["handles"] else None
                for choice in chunk.get("choices", ()):
                    piece = choice.get("delta", {}).get("content") or ""
                    answer += piece
                    self.console.print(piece, end="", markup=False, highlight=False)
        except AttuneError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer})
        self.console.print(f"\n[dim]{version} · /up /down /rate N /fix TEXT[/dim]")

    def tell(self, handle: str | None, **signal: Any) -> None:
        """Send feedback and say what became of it."""
        if handle is None:
            self.console.print("[yellow]There is no answer yet that feedback could speak of.[/yellow]")
            return
        answer = self.client.feedback(handle=handle, **signal)
        self.last_feedback = (handle, answer["id"])
        self.console.print(f"[green]{answer['status']}[/green] [dim]{answer['id']}[/dim]")

    def compare(self, question: str) -> None:
        """Show two blinded answers side by side and send the choice."""
        asked = [*self.messages, {"role": "user", "content": question}]
        comparison = self.client.compare(**self._body(asked), k=2)
        for candidate in comparison["candidates"]:
            self.console.print(Panel(candidate["content"], title=f"answer {candidate['index'] + 1}"), markup=False)
        choice = Prompt.ask("Better?", choices=["1", "2", "tie", "both_bad", "skip"], default="skip")
        if choice in ("1", "2"):
            self.tell(comparison["handle"], kind="comparison", verdict="winner", winner=int(choice) - 1)
        elif choice != "skip":
            self.tell(comparison["handle"], kind="comparison", verdict=choice)

    def command(self, line: str) -> bool:
        """Do what a line asks for; False to leave."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/quit":
            return False
        if word in ("/up", "/down"):
            self.tell(self.handle, kind="thumbs", value=word[1:])
        elif word == "/rate" and rest.isdigit():
            self.tell(self.handle, kind="rating", stars=int(rest))
        elif word == "/fix" and rest:
            self.tell(self.handle, kind="correction", text=rest)
        elif word == "/undo" and self.last_feedback:
            handle, feedback_id = self.last_feedback
            self.tell(handle, kind="retraction", supersedes=feedback_id)
        elif word == "/compare" and rest:
            self.compare(rest)
        elif word == "/new":
            self.messages, self.handle, self.session = [], None, new_id("term")
        elif word.startswith("/"):
            self.console.print(HELP)
        else:
            self.say(line)
        return True


def chat(
    model: Annotated[str, typer.Option(help="Policy alias, or a pinned version such as support@v3.")] = "support",
    url: Annotated[str, typer.Option("--url", envvar="ATTUNE_URL", help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="ATTUNE_API_KEY", help="A key with the scope chat.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Who is talking; default: the login name.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens at most in one answer.")] = 256,
) -> None:
    """Talk to a policy, press thumbs, compare two answers."""
    talk = Talk(AttuneClient(url, api_key), Console(), model, user or getpass.getuser(), max_tokens)
    talk.console.print(Panel(HELP, title=f"attune chat · {model}"))
    while True:
        try:
            line = talk.console.input("[b cyan]> [/b cyan]").strip()
            if line and not talk.command(line):
                return
        except AttuneError as error:
            talk.console.print(f"[red]{escape(str(error))}[/red]", highlight=False)
        except (EOFError, KeyboardInterrupt):
            talk.console.print()
            return
