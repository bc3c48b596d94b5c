"""Clients that never stop: they chat, rate every answer, and remember what they were told.

Chats and feedback go in threads of their own, so that feedback that waits keeps no chat from being asked. A word that
is not acknowledged is sent again with the same idempotency key until it is, or the load ends. Knows HTTP and its own
account; knows nothing of the log.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from tests.faults.serving import Server

CHAT_TIMEOUT_S = 25.0
"""A chat that takes longer has failed: nothing that happens to the log may hold it up."""
WORD_TIMEOUT_S = 60.0
SETTLE_S = 120.0


@dataclass
class Account:
    """What the clients saw. Only written under the load's lock."""

    words: dict[str, str] = field(default_factory=dict)
    """Acknowledged feedback: its id, and the completion it spoke of."""
    said: set[str] = field(default_factory=set)
    """Completions that feedback was sent on, acknowledged or not."""
    answered: set[str] = field(default_factory=set)
    """Completions that came whole to a client."""
    versions: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Chats that failed while the server was meant to be up, and how."""
    broken: int = 0
    """Chats that broke off with the server, or found none, while it was killed, down or starting."""
    refused: Counter[str] = field(default_factory=Counter)
    """Feedback refused, by the message; it is sent again."""
    refused_badly: list[str] = field(default_factory=list)
    """Refusals that are not 503 with a reason, and Retry-After."""
    acknowledged_as: Counter[str] = field(default_factory=Counter)
    """What the acknowledgement says of where the word is."""
    unsettled: int = 0
    """Words never acknowledged when the load ended: they may be on the log or not."""
    slowest_s: float = 0.0
    """The slowest chat that was answered."""
    unready: Counter[str] = field(default_factory=Counter)
    """Looks at readyz that were refused while the server was meant to be up."""

    def add(self, other: Account) -> None:
        """Take in what other clients saw."""
        self.words |= other.words
        self.said |= other.said
        self.answered |= other.answered
        self.versions += other.versions
        self.failed += other.failed
        self.broken += other.broken
        self.refused += other.refused
        self.refused_badly += other.refused_badly
        self.acknowledged_as += other.acknowledged_as
        self.unsettled += other.unsettled
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.unready += other.unready


class Load:
    """A continuous load on one server while the context lasts.

    Args:
        chatters, raters: threads.
        pause_s: mean pause of a chatter between two chats; bounds the load.
    """

    def __init__(
        self, server: Server, *, chatters: int = 3, raters: int = 3, pause_s: float = 0.05, seed: int = 0, **body: Any
    ) -> None:
        self.account = Account()
        self._server = server
        self._pause_s = pause_s
        self._body = body
        self._lock = threading.Lock()
        self._handles: queue.Queue[tuple[str, str, int]] = queue.Queue()
        self._no_more_chats = threading.Event()
        self._quit = threading.Event()
        self._down = True  # until it is started inside `server_down`
        self._epoch = 0
        self._errors: list[BaseException] = []
        self._chatters = [self._thread(self._chat, seed + number) for number in range(chatters)]
        self._others = [self._thread(self._rate, seed + number) for number in range(raters)]
        self._others.append(self._thread(self._watch, seed))

    def __enter__(self) -> Self:
        for thread in [*self._chatters, *self._others]:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._no_more_chats.set()
        self._quit.set()
        self._join(self._chatters)
        self._join(self._others)

    def settle(self, patience_s: float = SETTLE_S) -> Account:
        """End the chats, wait for every word to be acknowledged as long as patience lasts, and end the load."""
        self._no_more_chats.set()
        self._join(self._chatters)
        deadline = time.monotonic() + patience_s
        while self._handles.unfinished_tasks and time.monotonic() < deadline and not self._errors:
            time.sleep(0.02)
        self._quit.set()
        self._join(self._others)
        alive = [thread.name for thread in [*self._chatters, *self._others] if thread.is_alive()]
        assert not alive, f"clients hang: {alive}"
        if self._errors:
            raise self._errors[0]
        self.account.unsettled = self._handles.unfinished_tasks
        return self.account

    @contextmanager
    def server_down(self) -> Iterator[None]:
        """Within the block the server is dead or dying: chats that touch it are broken, not failed."""
        with self._lock:
            self._down, self._epoch = True, self._epoch + 1
        try:
            yield
        finally:
            with self._lock:
                self._down, self._epoch = False, self._epoch + 1

    def count(self) -> tuple[int, int]:
        """Chats answered and words acknowledged so far."""
        with self._lock:
            return len(self.account.answered), len(self.account.words)

    def until_more(self, chats: int = 0, words: int = 0, patience_s: float = 120.0) -> None:
        """Wait until so many more chats were answered and words acknowledged than now."""
        chats_now, words_now = self.count()
        deadline = time.monotonic() + patience_s
        while True:
            answered, acknowledged = self.count()
            if answered >= chats_now + chats and acknowledged >= words_now + words:
                return
            if self._errors:
                raise self._errors[0]
            assert time.monotonic() < deadline, (
                f"the load stands still: {answered - chats_now} of {chats} chats, "
                f"{acknowledged - words_now} of {words} words; failed: {self.account.failed[-3:]}, "
                f"refused: {self.account.refused.most_common(3)}"
            )
            time.sleep(0.02)

    def _thread(self, role: Any, number: int) -> threading.Thread:
        return threading.Thread(target=self._guarded, args=(role, number), name=f"load{role.__name__}")

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(WORD_TIMEOUT_S + CHAT_TIMEOUT_S)

    def _guarded(self, role: Any, number: int) -> None:
        try:
            with httpx.Client(base_url=self._server.url, timeout=CHAT_TIMEOUT_S) as client:
                role(client, random.Random(number))
        except BaseException as error:
            self._errors.append(error)

    def _moment(self) -> tuple[bool, int]:
        with self._lock:
            return self._down, self._epoch

    def _excused(self, before: tuple[bool, int]) -> bool:
        return before[0] or self._moment() != before

    def chat_once(self, question: str) -> str | None:
        """Ask one question of one's own; the answer is rated as all others. What went wrong, or None."""
        rng = random.Random(len(question))
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            return self._ask(client, rng, {"messages": [{"role": "user", "content": question}], "stream": False})

    def _chat(self, client: httpx.Client, rng: random.Random) -> None:
        while not self._no_more_chats.is_set():
            before, began = self._moment(), time.monotonic()
            wrong = self._ask(client, rng, self._body)
            if wrong is not None and self._excused(before):
                with self._lock:
                    self.account.broken += 1
                time.sleep(0.2)
            elif wrong is not None:
                with self._lock:
                    self.account.failed.append(f"{wrong} after {time.monotonic() - began:.1f} s")
            self._no_more_chats.wait(rng.uniform(0, 2 * self._pause_s))

    def _ask(self, client: httpx.Client, rng: random.Random, more: Mapping[str, Any]) -> str | None:
        """Ask, and have the answer rated; what is wrong with it, or None where it came whole."""
        user = f"user-{rng.randrange(40)}"
        question = f"This is {user}. Where is my order {rng.randrange(10_000)}?"
        body = {
            "model": "support",
            "messages": [{"role": "user", "content": question}],
            "user": user,
            "max_tokens": 48,
            "stream": rng.random() < 0.25,
            "top_p": 1.0,
            "top_k": 0,
            **more,
        }
        began = time.monotonic()
        try:
            answer = client.post("/v1/chat/completions", json=body, headers=self._server.app())
        except httpx.TransportError as error:
            return type(error).__name__
        wrong = _wrong(answer, streamed=bool(body["stream"]))
        if wrong is None:
            completion = answer.headers["attune-completion-id"]
            with self._lock:
                self.account.answered.add(completion)
                self.account.said.add(completion)
                self.account.versions[int(answer.headers["attune-version"].rpartition("v")[2])] += 1
                self.account.slowest_s = max(self.account.slowest_s, time.monotonic() - began)
            self._handles.put((completion, answer.headers["attune-handle"], rng.randrange(10)))
        return wrong

    def _rate(self, client: httpx.Client, rng: random.Random) -> None:
        while not self._quit.is_set():
            try:
                completion, handle, dice = self._handles.get(timeout=0.1)
            except queue.Empty:
                continue
            word: dict[str, Any] = {"handle": handle, "kind": "thumbs", "value": "up" if dice % 2 else "down"}
            if dice == 9:
                word = {"handle": handle, "kind": "correction", "text": f"Your order {rng.random()} is on its way."}
            word["idempotency_key"] = completion
            while not self._quit.is_set():
                if (acknowledged := self._say(client, word)) is not None:
                    with self._lock:
                        self.account.words[acknowledged] = completion
                    self._handles.task_done()
                    break
                self._quit.wait(rng.uniform(0.1, 0.4))

    def _say(self, client: httpx.Client, word: dict[str, Any]) -> str | None:
        """The id under which the word was acknowledged; None where it was not."""
        before = self._moment()
        try:
            answer = client.post("/v1/feedback", json=word, timeout=WORD_TIMEOUT_S)
        except httpx.TransportError as error:
            if not self._excused(before):
                with self._lock:
                    self.account.refused_badly.append(type(error).__name__)
            return None
        if answer.status_code == 200:
            told = answer.json()
            with self._lock:
                self.account.acknowledged_as[" ".join(str(told[name]) for name in told if name != "id")] += 1
            found: str = told["id"]
            return found
        with self._lock:
            message = str(answer.json().get("error", {}).get("message", answer.text))
            self.account.refused[message] += 1
            clear = answer.status_code == 503 and message and "retry-after" in answer.headers
            if not clear and not self._excused(before):
                self.account.refused_badly.append(f"{answer.status_code} {message}")
        return None

    def _watch(self, client: httpx.Client, rng: random.Random) -> None:
        while not self._quit.wait(0.25):
            before = self._moment()
            why = self._server.unready()
            # A look of its own has no more right to fail than a chat.
            if why is not None and not self._excused(before):
                with self._lock:
                    self.account.unready[why] += 1


def _wrong(answer: httpx.Response, *, streamed: bool) -> str | None:
    """What is wrong with an answer; None where it came whole."""
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:200]}"
    if streamed:
        return None if answer.text.rstrip().endswith("data: [DONE]") else "a stream without its end"
    return None if answer.json()["choices"][0]["message"]["content"] is not None else "an answer without words"
