"""The stream decorator on its own: any cut of the bytes gives the same events, and only the end is held back."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from server.request.decorate import Rename, StreamDecorator, decorated_json

ATTUNE = {"version": "support@v1"}


def event(**content: object) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def chunk(text: str, reason: str | None = None) -> bytes:
    return event(model="support@v0", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": reason}])


DONE = b"data: [DONE]\n\n"
USAGE = event(choices=[], usage={"total_tokens": 3})
TRICKY = chunk('say "finish_reason":"stop" and "model":"support@v0"')


def parsed(stream: bytes) -> list[dict[str, object]]:
    return [json.loads(part[6:]) for part in stream.decode().split("\n\n") if part.startswith("data: {")]


def through(*pieces: bytes, rename: Rename | None = None) -> bytes:
    decorator = StreamDecorator(ATTUNE, rename)
    return b"".join(decorator.feed(piece) for piece in pieces) + decorator.close()


@given(st.lists(st.integers(0, 600), max_size=12), st.booleans(), st.booleans())
def test_cuts_do_not_matter(cuts: list[int], usage: bool, done: bool) -> None:
    stream = chunk("a") + b": keep-alive\n\n" + TRICKY + chunk("ü") + chunk("", "stop")
    stream += (USAGE if usage else b"") + (DONE if done else b"")
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    whole = through(stream)
    assert through(*(stream[start:end] for start, end in itertools.pairwise(edges))) == whole
    events = parsed(whole)
    assert [index for index, one in enumerate(events) if "attune" in one] == [0, len(events) - 1]
    assert [{k: v for k, v in one.items() if k != "attune"} for one in events] == parsed(stream)
    assert whole.endswith(DONE) is done


def test_only_what_may_be_the_end_waits() -> None:
    decorator = StreamDecorator(ATTUNE)
    assert parsed(decorator.feed(chunk("a")))[0]["attune"] == ATTUNE
    assert decorator.feed(chunk("b")) == chunk("b")
    assert decorator.feed(TRICKY) == TRICKY
    assert decorator.feed(chunk("", "stop")) == b""
    assert decorator.feed(chunk("other choice")) == chunk("", "stop") + chunk("other choice")
    assert decorator.feed(chunk("", "length")) == b""
    last = decorator.feed(DONE)
    assert parsed(last)[0]["attune"] == ATTUNE
    assert last.endswith(DONE)
    assert decorator.close() == b""


def test_a_stream_that_breaks_off_still_says_who_spoke() -> None:
    failed = event(error={"message": "no"})
    assert [("attune" in one) for one in parsed(through(chunk("a"), chunk("b"), failed, DONE))] == [True, False, True]
    assert [("attune" in one) for one in parsed(through(chunk("a")))] == [True]


def test_renaming_leaves_content_alone() -> None:
    events = parsed(through(TRICKY, chunk("x"), DONE, rename=Rename("support@v0", "sales@v0")))
    assert [one["model"] for one in events] == ["sales@v0", "sales@v0"]
    assert '"model":"support@v0"' in json.dumps(events[0]["choices"][0]["delta"]["content"]).replace("\\", "")  # type: ignore[index]


def test_bodies_that_are_no_objects_stay() -> None:
    assert decorated_json(b"[1]", ATTUNE, "m") == b"[1]"
    assert decorated_json(b"oops", ATTUNE, "m") == b"oops"
    assert json.loads(decorated_json(b'{"model": "x", "id": 1}', ATTUNE, "m")) == {
        "model": "m",
        "id": 1,
        "attune": ATTUNE,
    }
