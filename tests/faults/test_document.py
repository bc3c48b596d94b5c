"""The page that the fault suite writes: new rows replace old ones, the rest stays, failures show."""

from __future__ import annotations

from tests.faults.document import updated
from tests.faults.outcome import HEADINGS, Outcome


def row(what: str) -> list[str]:
    return [what] * (len(HEADINGS) - 1)


def test_rows_of_scenes_that_did_not_run_stay_in_the_order_of_the_suite() -> None:
    scenes = ["first", "second", "third"]
    page = updated("", scenes, {"third": row("old"), "second": row("old"), "gone": row("old")})
    page = updated(page, scenes, {"second": row("n|w"), "first": row("new")})
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert lines[0] == f"| {' | '.join(HEADINGS)} |"
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" first ", " new "],
        [" second ", " n/w "],
        [" third ", " old "],
    ]


def test_a_failure_is_the_first_thing_a_row_says() -> None:
    cells = Outcome(acknowledged=1200, found=1199, missing=1, faults=("1 is missing",), notes=("a note",)).cells()
    assert cells[:3] == ("1,200", "1,199", "1")
    assert cells[-1] == "**failed: 1 is missing**; a note"
