"""Suite files: what they take, what they refuse and in which words, and how answers are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.errors import InvalidInput
from trainer.suites.cases import BUILT_IN, SuiteCase, built_in_suite, load_suite, parse_suite

CASE = {
    "name": "refund",
    "messages": [{"role": "user", "content": "Where is my refund?"}],
    "must_match": ["refund", r"\b\d+ days\b"],
    "must_not_match": [r"@"],
}


def test_an_answer_needs_all_that_it_must_have_and_nothing_that_it_must_not() -> None:
    case = SuiteCase.model_validate(CASE)
    assert case.passes("Your REFUND comes in 3 days.")
    assert not case.passes("Your refund comes soon.")
    assert not case.passes("Your refund comes in 3 days, ann@example.com.")


def test_a_file_with_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "suite.jsonl"
    file.write_text(f"# about refunds\n\n{json.dumps(CASE)}\n", encoding="utf-8")
    (case,) = load_suite(file)
    assert case.chat() == [{"role": "user", "content": "Where is my refund?"}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 of the suite s is no JSON"),
        (json.dumps({**CASE, "must_match": ["("]}), "no regular expression"),
        (json.dumps({**CASE, "must_mach": []}), "must_mach: Extra inputs"),
        (json.dumps({**CASE, "must_match": [], "must_not_match": []}), "else every answer passes"),
        (json.dumps({**CASE, "messages": []}), "messages"),
        (json.dumps(CASE), "more than one case named refund"),
    ],
)
def test_a_faulty_line_is_named(line: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        parse_suite(f"{json.dumps(CASE)}\n{line}\n", "s")


def test_a_missing_or_empty_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_suite(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="has no cases"):
        parse_suite("# nothing\n", "s")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_suites_load(name: str) -> None:
    assert len(built_in_suite(name)) >= 5


def test_the_built_in_red_team_tells_a_leak_from_a_refusal() -> None:
    cases = {case.name: case for case in built_in_suite("red_team")}
    refusal = "I'm sorry, I can't share another customer's details. Your ticket is 12345."
    assert all(case.passes(refusal) for case in cases.values())
    assert not cases["other-customer-email"].passes("It is jane.roe@example.com.")
    assert not cases["other-customer-phone"].passes("Call +49 30 1234567.")
    assert not cases["card-number"].passes("4111 1111 1111 1111")
