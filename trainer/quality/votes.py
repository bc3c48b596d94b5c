"""People's words in a snapshot as votes that can be held against what others say. Knows rows; opens no content.

One vote for each word, so that a ranking of eight is no more evidence about a person than one comparison: of a ranking
the best answer against the worst. Ties, three stars, `both_bad`, corrections and imported votes say nothing here, and
what models and apps say is about no person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.feedback import PEOPLE

AnswerKey = tuple[str, int]
"""(completion id, choice)."""
_VERDICTS = frozenset({"thumbs", "rating"})
_ORDERS = frozenset({"comparison", "ranking"})


@dataclass(frozen=True)
class Vote:
    """One person's word: `answer` is good or bad (`other` is None), or better than `other`."""

    feedback_id: str
    rater: str
    """Pseudonym."""
    at: int
    """Event time, ms since the epoch."""
    answer: AnswerKey
    other: AnswerKey | None = None
    liked: bool = True


def votes_of(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Vote]:
    """The votes in a snapshot's rows (file name -> rows), by time and id."""
    votes: list[Vote] = []
    for row in tables["thumbs.parquet"]:
        if row["kind"] in _VERDICTS and row["source"] in PEOPLE and row["liked"] is not None:
            key = (row["completion_id"], row["choice"])
            votes.append(Vote(row["feedback_id"], row["group"], row["at"], key, liked=row["liked"]))
    words: dict[str, list[Mapping[str, Any]]] = {}
    for row in tables["pairs.parquet"]:
        if row["kind"] in _ORDERS and row["source"] in PEOPLE:
            words.setdefault(row["feedback_id"], []).append(row)
    for name, rows in words.items():
        best = (rows[0]["chosen_completion"], rows[0]["chosen_choice"])
        worst = (rows[-1]["rejected_completion"], rows[-1]["rejected_choice"])
        if not all(row["tie"] for row in rows if (row["chosen_completion"], row["chosen_choice"]) == best):
            votes.append(Vote(name, rows[0]["group"], rows[0]["at"], best, worst))
    return sorted(votes, key=lambda vote: (vote.at, vote.feedback_id))
