"""Votes out of files: every shape that is understood, and what is said of what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.votes import records
from deploy.votes.reading import Format, Found, VoteReader
from deploy.votes.vote import MAX_VOTE_BYTES, Vote
from schemas.errors import ConfigError, InvalidInput
from tests.unit.votes.exports import langfuse_score, langfuse_trace, open_webui_row

ASKED = [{"role": "user", "content": "hello"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def lines(folder: Path, *values: Any, name: str = "votes.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return path


def read(*paths: Path, **options: Any) -> list[Found]:
    return list(VoteReader(paths, **options).read())


def only(*paths: Path, **options: Any) -> Vote:
    (found,) = read(*paths, **options)
    assert found.vote is not None, found
    return found.vote


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "hello", "chosen": "hi", "rejected": "go"},
        {"prompt": ASKED, "chosen": said("hi"), "rejected": said("go")},
        {"messages": ASKED, "chosen": "hi", "rejected": "go"},
        {"chosen": ASKED + said("hi"), "rejected": ASKED + said("go")},
        {"prompt": "hello", "chosen": " hi", "rejected": " go"},
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            "chosen": "hi",
            "rejected": "go",
        },
    ],
    ids=["plain", "conversational", "ours", "implicit prompt", "leading space", "text parts"],
)
def test_preferences_come_in_trls_shapes_and_ours(tmp_path: Path, line: dict[str, Any]) -> None:
    vote = only(lines(tmp_path, line))
    assert [message.model_dump() for message in vote.messages] == ASKED
    assert (vote.answers, vote.liked) == (("hi", "go"), None)


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "hello", "completion": "hi", "label": False},
        {"prompt": ASKED, "completion": said("hi"), "label": False},
        {"messages": ASKED, "answer": "hi", "liked": False},
    ],
)
def test_thumbs_come_in_trls_shapes_and_ours(tmp_path: Path, line: dict[str, Any]) -> None:
    vote = only(lines(tmp_path, line))
    assert [message.model_dump() for message in vote.messages] == ASKED
    assert (vote.answers, vote.liked) == (("hi",), False)


def test_what_a_line_says_beside_the_vote_is_kept_and_other_columns_are_named(tmp_path: Path) -> None:
    line = {
        "messages": ASKED,
        "answer": "hi",
        "liked": True,
        "user": "u",
        "session": "s",
        "at": "2026-01-02T03:04:05Z",
        "language": "en",
        "domain": "orders",
        "source": "survey",
        "score_chosen": 3,
    }
    (found,) = read(lines(tmp_path, line))
    vote = found.vote
    assert vote is not None
    assert (vote.user, vote.session, vote.at, vote.language, vote.domain, vote.source) == (
        "u", "s", 1_767_323_045_000, "en", "orders", "survey",
    )  # fmt: skip
    assert found.unread == {"score_chosen"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{nonsense", "no JSON"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("[1, 2]", "no JSON object"),
        ({"prompt": "hello"}, "answer: needs"),
        ({"prompt": "hello", "chosen": "hi"}, "rejected: rejected is missing"),
        ({"prompt": "hello", "chosen": "hi", "rejected": "hi"}, "rejected: chosen and rejected are the same"),
        ({"prompt": "hello", "completion": "hi", "label": 1}, "label: label must be true or false"),
        ({"prompt": "hello", "completion": "hi", "label": True, "liked": True}, "mean the same"),
        ({"prompt": "hello", "completion": "  ", "label": True}, "answer: an answer is empty"),
        ({"completion": "hi", "label": True}, "messages: there is no conversation"),
        ({"prompt": 5, "completion": "hi", "label": True}, "prompt: neither"),
        ({"prompt": [{"role": "wizard", "content": "x"}], "completion": "hi", "label": True}, "role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "hi", "liked": True}, "only text"),
        ({"prompt": "hello", "answer": said("a") + said("b"), "liked": True}, "one message of the assistant"),
        ({"prompt": "hello", "answer": "hi", "liked": True, "at": "soon"}, "at: at is no moment"),
        ({"prompt": "hello", "answer": "hi", "liked": True, "at": 5}, "at: at must be"),
        ({"prompt": "hello", "answer": "hi", "liked": True, "user": ["ann"]}, "user: user must be"),
        ({"prompt": "hello", "answer": "hi", "liked": True, "domain": "two words"}, "domain: domain must be"),
        ('{"prompt": "hello", "answer": "\\ud800", "liked": true}', "no valid Unicode"),
        ({"prompt": "x" * MAX_VOTE_BYTES, "answer": "hi", "liked": True}, "bytes of text"),
    ],
)
def test_a_bad_line_is_named_by_number_and_field_and_the_others_are_read(tmp_path: Path, line: Any, fault: str) -> None:
    good = {"prompt": "hello", "chosen": "hi", "rejected": "go"}
    found = read(lines(tmp_path, good, line, "", good), format=Format.JSONL)
    assert [one.place for one in found] == ["line 1", "line 2", "line 4"]
    assert found[0].vote is not None
    assert found[2].vote is not None
    assert fault in str(found[1].bad)
    assert "hello" not in str(found[1].bad), "a fault never repeats what the file holds"


def test_bytes_that_are_no_utf8_spoil_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    good = json.dumps({"prompt": "hello", "chosen": "hi", "rejected": "go"}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b'\r\n{"prompt": "\xff"}\n' + good)
    found = read(path)
    assert [one.bad for one in found] == [None, "no valid UTF-8", None]


def test_an_item_larger_than_the_bound_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ITEM_CHARS", 1000)
    small, large = {"prompt": "hello", "answer": "hi", "liked": True}, {"prompt": "x" * 200_000}
    assert [bool(one.bad) for one in read(lines(tmp_path, small, large, small))] == [False, True, False]
    path = tmp_path / "array.json"
    path.write_text(json.dumps([small, large, small]))
    found = read(path)
    assert [bool(one.bad) for one in found] == [False, True]
    assert "what follows was not read" in str(found[1].bad)


@settings(max_examples=50, deadline=None)
@given(
    items=st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.lists(st.text(max_size=3)))),
    indent=st.sampled_from([None, 2]),
)
def test_an_array_is_read_as_json_reads_it(
    items: list[Any], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("array") / "items.json"
    path.write_text(json.dumps(items, indent=indent))
    assert [item.value for item in records.read_items(path)] == items


@pytest.mark.parametrize("text", ["[", "[{}", "[{},", "[{} {}]", "[{}]x", '[{"a": }]', "[1]"])
def test_a_broken_array_ends_in_a_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text)
    assert list(records.read_items(path))[-1].fault


def test_files_that_are_neither_are_refused(tmp_path: Path) -> None:
    for text in ("id,rating\n1,1\n", "hello"):
        with pytest.raises(InvalidInput, match="neither JSONL nor a JSON array"):
            read(lines(tmp_path, text))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(tmp_path / "missing.jsonl")
    assert read(lines(tmp_path)) == []


def test_reading_tells_how_far_it_is_over_all_files(tmp_path: Path) -> None:
    good = {"prompt": "hello", "chosen": "hi", "rejected": "go"}
    reader = VoteReader([lines(tmp_path, good, name="a.jsonl"), lines(tmp_path, good, name="b.jsonl")])
    told: list[int] = []
    places = [found.place for found in reader.read(told.append)]
    assert places == ["a.jsonl, line 1", "b.jsonl, line 1"]
    assert told == sorted(told)
    assert told[-1] == reader.size


# --- Open WebUI -------------------------------------------------------------------------------------------------


def export(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "feedback-history-export-1.json"
    path.write_text(json.dumps(rows))
    return path


def test_open_webui_rates_one_message_of_a_tree(tmp_path: Path) -> None:
    thought = 'so <details type="reasoning" done="true">\n<summary>Thought</summary>\n> hm\n</details>\nhello yourself'
    row = open_webui_row(-1)
    chat = row["snapshot"]["chat"]["chat"]
    chat["history"]["messages"]["a2"]["content"] = thought
    chat["params"]["system"] = "be brief"
    vote = only(export(tmp_path, row))
    assert [(message.role, message.content) for message in vote.messages] == [("system", "be brief"), ("user", "hello")]
    assert (vote.answers, vote.liked) == (("so hello yourself",), False)
    assert (vote.user, vote.session, vote.at, vote.source) == ("u-17", "c-1", 1_750_000_100_000, "open-webui")


def test_open_webui_rows_without_a_vote_are_left_out_by_reason(tmp_path: Path) -> None:
    circle = open_webui_row()
    circle["snapshot"]["chat"]["chat"]["history"]["messages"]["q"]["parentId"] = "a2"
    image = open_webui_row()
    image["snapshot"]["chat"]["chat"]["history"]["messages"]["q"]["content"] = [{"type": "image_url"}]
    rows = {
        "neutral": open_webui_row(0),
        "not_a_rating": open_webui_row(type="comment"),
        "no_snapshot": open_webui_row(snapshot=None),
        "no_text": image,
    }
    found = read(export(tmp_path, open_webui_row("1"), *rows.values(), open_webui_row(None), circle))
    assert found[0].vote is not None
    assert [one.left_out for one in found[1:]] == [*rows, "neutral", "no_snapshot"]
    (bad,) = read(export(tmp_path, {"id": 1}), format=Format.OPEN_WEBUI)
    assert bad.bad is not None


# --- Langfuse ---------------------------------------------------------------------------------------------------


def test_langfuse_joins_scores_with_their_traces_whatever_the_order(tmp_path: Path) -> None:
    traces = lines(tmp_path, langfuse_trace("t1"), langfuse_trace("t2"), name="traces.jsonl")
    scores = lines(tmp_path, langfuse_score("t2", 0), langfuse_score("t1", 1), name="scores.jsonl")
    for order in ((traces, scores), (scores, traces)):
        votes = [found.vote for found in read(*order)]
        assert [vote.liked for vote in votes if vote] == [True, False]
    vote = votes[0]
    assert vote is not None
    assert [message.model_dump() for message in vote.messages] == ASKED
    assert (vote.answers, vote.user, vote.session) == (("hello yourself",), "u-17", "s-1")
    assert (vote.at, vote.source) == (1_780_062_420_000, "langfuse")


def test_langfuse_blob_storage_writes_snake_case(tmp_path: Path) -> None:
    trace = {
        "id": "t1", "timestamp": "2026-05-29 13:46:19.963000", "name": "chat", "user_id": "u-17", "session_id": "s-1",
        "input": [{"role": "user", "content": "hello"}], "output": {"choices": [{"message": {"content": "hi"}}]},
    }  # fmt: skip
    score = {
        "id": "x", "timestamp": "2026-05-29 13:47:00.000000", "trace_id": "t1", "observation_id": None, "name": "thumb",
        "value": 0, "source": "ANNOTATION", "data_type": "CATEGORICAL", "string_value": "Good",
    }  # fmt: skip
    vote = only(lines(tmp_path, trace, name="t.jsonl"), lines(tmp_path, score, name="s.jsonl"))
    assert (vote.answers, vote.liked, vote.user, vote.at) == (("hi",), True, "u-17", 1_780_062_420_000)


def test_langfuse_traces_may_carry_their_scores_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    path.write_text(
        json.dumps([langfuse_trace(**{"user-feedback": [1]}), langfuse_trace("t2", **{"user-feedback": None})])
    )
    first, second = read(path, score="user-feedback")
    assert first.vote is not None
    assert first.vote.liked is True
    assert second.left_out == "unscored"


def test_langfuse_observations_take_their_own_scores_and_roots_their_traces(tmp_path: Path) -> None:
    seen = {"startTime": "2026-05-29T13:46:19.963Z", "input": "hello", "output": "hi", "userId": "u"}
    rows = lines(
        tmp_path,
        {"id": "o1", "traceId": "t1", "parentObservationId": None, **seen},
        {"id": "o2", "traceId": "t1", "parentObservationId": "o1", **seen},
        {"id": "o3", "traceId": "t2", "parentObservationId": "o9", **seen},
        langfuse_score("t1", 1),
        langfuse_score("t2", 0, observationId="o3"),
    )
    assert [found.vote.liked if found.vote else found.left_out for found in read(rows)] == [True, "unscored", False]


def test_langfuse_rows_without_a_vote_are_left_out_by_reason(tmp_path: Path) -> None:
    scores = {
        "contradicting": [langfuse_score("a", 1), langfuse_score("a", 0)],
        "not_a_person": [langfuse_score("b", 1, source="EVAL")],
        "not_a_thumb": [langfuse_score("c", 0.5, dataType="NUMERIC", stringValue=None)],
        "no_text": [langfuse_score("d", 1)],
        "unscored": [],
    }
    traces = [langfuse_trace(name) for name in "abce"]
    traces.insert(3, langfuse_trace("d", output=None))
    path = lines(tmp_path, *traces, *(score for some in scores.values() for score in some))
    assert [found.left_out for found in read(path)] == list(scores)


def test_langfuse_wants_to_know_which_score_is_the_vote(tmp_path: Path) -> None:
    path = lines(tmp_path, langfuse_trace(), langfuse_score(), langfuse_score(name="toxicity", value=0))
    with pytest.raises(InvalidInput, match="several names: toxicity, user-feedback") as refused:
        read(path)
    assert refused.value.field == "score"
    assert only(path, score="user-feedback").liked is True
    with pytest.raises(ConfigError, match="only Langfuse"):
        read(lines(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}, name="x.jsonl"), score="x")
