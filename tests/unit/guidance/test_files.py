"""What a file of guidance must hold, and that its faults are named."""

from __future__ import annotations

import json

import pytest

from schemas.errors import InvalidInput
from schemas.guidance import MAX_BYTES, MAX_PRINCIPLES, checked_text, parse_constitution, parse_prompts
from schemas.manifests import GuidanceKind
from tests.unit.guidance.support import CONSTITUTION, GUIDELINES, PROMPTS

RULES, PRINCIPLES, ASKED = GuidanceKind.GUIDELINES, GuidanceKind.CONSTITUTION, GuidanceKind.PROMPTS


def test_files_are_kept_as_they_were_written() -> None:
    for kind, raw in ((RULES, GUIDELINES), (PRINCIPLES, CONSTITUTION), (ASKED, PROMPTS)):
        assert checked_text(kind, raw).encode() == raw
        assert checked_text(kind, b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")).encode() == raw
    assert [one.id for one in parse_constitution(CONSTITUTION.decode()).principles] == ["true", "brief"]
    first, second = parse_prompts(PROMPTS.decode())
    assert (first.name, first.domain, second.messages[0].content) == ("where", "orders", "refund")


def principle(**fields: object) -> bytes:
    return "\n".join(["[[principles]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]).encode()


def prompt(**fields: object) -> bytes:
    return json.dumps({"name": "a", "messages": [{"role": "user", "content": "hi"}]} | fields).encode()


@pytest.mark.parametrize(
    ("kind", "raw", "words"),
    [
        (RULES, b" \n", "there is no text"),
        (RULES, b"\xff", "not UTF-8 at byte 0"),
        (RULES, b"read\x1b[2Jthis", "U\\+001B at place 4"),
        (RULES, "left‮right".encode(), "U\\+202E"),
        (RULES, b"x" * (MAX_BYTES[RULES] + 1), "400001 bytes"),
        (RULES, b"x" * 100_001, "100000 characters"),
        (PRINCIPLES, b"principles = ", "no TOML"),
        (PRINCIPLES, b"a = " + b"[" * 5000, "no TOML"),
        (PRINCIPLES, b"", "principles: Field required"),
        (PRINCIPLES, principle(id="a b", text="x"), "principles.0.id"),
        (PRINCIPLES, principle(id="a", text="bell \x07"), "principles.0.text.*U\\+0007"),
        (PRINCIPLES, principle(id="a", text="x", weight=2), "principles.0.weight"),
        (PRINCIPLES, principle(id="a", text="x") + b"\n" + principle(id="a", text="y"), "two principles"),
        (PRINCIPLES, b"\n".join(principle(id=f"p{n}", text="x") for n in range(MAX_PRINCIPLES + 1)), "at most 64"),
        (ASKED, b"\n\n", "there are 0 prompts"),
        (ASKED, b"\n{", "line 2 is no prompt"),
        (ASKED, b'{"messages": ' + b"[" * 5000, "line 1 is no prompt"),
        (ASKED, prompt(name="../a"), "line 1 is no prompt: name"),
        (ASKED, prompt(messages=[]), "messages"),
        (ASKED, prompt(messages=[{"role": "assistant", "content": "hi"}]), "the last message must be the user's"),
        (ASKED, prompt(messages=[{"role": "tool", "content": "hi"}]), "messages.0.role"),
        (ASKED, prompt(answer="yes"), "answer"),
        (ASKED, prompt() + b"\n" + prompt(language="de"), "line 2: the name a is taken"),
    ],
)
def test_a_faulty_file_is_refused_with_what_is_wrong(kind: GuidanceKind, raw: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        checked_text(kind, raw)
    assert refused.value.field == kind.value
