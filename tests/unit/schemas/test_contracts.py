"""What the contracts accept, refuse, and say about it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.arrays import Float32Array, Int32Array
from schemas.base import new_id, parse_version_name, version_name
from schemas.completion import CompletionChoice, SamplingParameters
from schemas.errors import HandleRefused, InvalidInput, UnknownEvent
from schemas.feedback import (
    Comparison,
    CorrectionBody,
    FeedbackBody,
    FeedbackContent,
    Ranking,
    Thumbs,
    content_of,
    signal_of,
)
from schemas.manifests import FileDigest, files_digest
from schemas.wire import decode_event

BODY: TypeAdapter[FeedbackBody] = TypeAdapter(FeedbackBody)


class Arrays(BaseModel):
    ids: Int32Array
    logprobs: Float32Array


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.floats(width=32, allow_nan=False)),
)
def test_arrays_survive_the_wire_exactly(ids: list[int], logprobs: list[float]) -> None:
    made = Arrays(ids=ids, logprobs=logprobs)
    assert Arrays.model_validate_json(made.model_dump_json()) == made
    assert made.ids == tuple(ids)
    assert made.logprobs == tuple(logprobs)


def test_arrays_are_little_endian_and_round_to_float32() -> None:
    made = Arrays(ids=[1, -1], logprobs=[0.1])
    assert made.model_dump(mode="json")["ids"] == "AQAAAP////8="
    assert made.logprobs == struct.unpack("<f", struct.pack("<f", 0.1))


@pytest.mark.parametrize("bad", ["!", "AQ==", "AAAAAAA", [2**31], [float("nan")], 5, None, ["x"]])
def test_broken_arrays_are_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        Arrays.model_validate({"ids": bad, "logprobs": bad})


def test_version_names() -> None:
    assert parse_version_name("support@v12") == ("support", 12)
    assert version_name("support", 0) == "support@v0"
    for bad in ("support", "support@12", "support@v01", "Support@v1", "@v1", "support@v1\n", "../x@v1"):
        with pytest.raises(InvalidInput):
            parse_version_name(bad)


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id("cmpl", at) for at in (1, 2, 300)]
    assert ids == sorted(ids)
    assert len({new_id("x", 1) for _ in range(1000)}) == 1000


def sampling(**more: object) -> SamplingParameters:
    plain: dict[str, object] = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    return SamplingParameters.model_validate(plain | more)


def test_only_plain_sampling_is_the_full_distribution() -> None:
    assert sampling(seed=3, max_tokens=5, stop_strings=1).full_distribution
    for spoilt in (
        {"temperature": 0},
        {"top_p": 0.9},
        {"top_k": 20},
        {"min_p": 0.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"min_tokens": 1},
        {"logit_bias": True},
        {"bad_words": True},
        {"allowed_token_ids": True},
        {"structured_output": True},
        {"forced_tool": True},
        {"opaque": True},
    ):
        assert not sampling(**spoilt).full_distribution, spoilt


def test_logprobs_must_match_the_tokens() -> None:
    with pytest.raises(ValidationError, match="1 logprobs for 2 tokens"):
        CompletionChoice(index=0, token_count=2, logprobs=(-1.0,), finish_reason="stop", seen=True)


def test_a_feedback_body_splits_into_signal_and_personal_part() -> None:
    thumb = BODY.validate_python({"handle": "h", "kind": "thumbs", "value": "down", "comment": "wrong order"})
    assert signal_of(thumb) == Thumbs(value="down")
    assert content_of(thumb) == FeedbackContent(comment="wrong order")
    fixed = BODY.validate_python({"handle": "h", "kind": "correction", "text": "Order 5 is on its way."})
    assert isinstance(fixed, CorrectionBody)
    assert content_of(fixed) == FeedbackContent(correction="Order 5 is on its way.")
    assert "Order 5" not in str(signal_of(fixed))
    assert content_of(BODY.validate_python({"handle": "h", "kind": "rating", "stars": 3})) is None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"handle": "h", "kind": "thumbs", "value": "sideways"}, "value"),
        ({"handle": "h", "kind": "thumbs", "value": "up", "user": "mallory"}, "user"),
        ({"handle": "h", "kind": "rating", "stars": 6}, "stars"),
        ({"handle": "h", "kind": "comparison"}, "winner is required"),
        ({"handle": "h", "kind": "comparison", "verdict": "tie", "winner": 0}, "only for it"),
        ({"handle": "h", "kind": "ranking", "order": [[0], [0]]}, "exactly once"),
        ({"handle": "h", "kind": "retraction"}, "supersedes"),
        ({"handle": "h", "kind": "applause"}, "thumbs"),
        ({"kind": "thumbs", "value": "up"}, "handle"),
        ({"handle": "h", "kind": "outcome", "name": "a b", "value": 1}, "name"),
        ({"handle": "h", "kind": "thumbs", "value": "up", "aspects": {"tone": 2}}, "tone"),
    ],
)
def test_bad_feedback_is_refused_by_name(body: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        BODY.validate_python(body)


def test_rankings_and_comparisons_read_as_meant() -> None:
    assert Ranking(order=((2,), (0, 1))).order[0] == (2,)
    assert Comparison(verdict="both_bad").winner is None


def test_a_digest_is_of_content_not_of_order() -> None:
    a, b = FileDigest(sha256="a" * 64, size=1), FileDigest(sha256="b" * 64, size=2)
    assert files_digest({"x": a, "y": b}) == files_digest({"y": b, "x": a})
    assert files_digest({"x": a, "y": b}) != files_digest({"x": b, "y": a})
    assert files_digest({"x": a}) != files_digest({"x": FileDigest(sha256="a" * 64, size=2)})


def test_records_that_cannot_be_read_say_why_and_never_what() -> None:
    with pytest.raises(InvalidInput, match="ce_type"):
        decode_event(b"{}", ())
    with pytest.raises(UnknownEvent, match=r"attune\.feedback\.received\.v2"):
        decode_event(b"{}", (("ce_type", b"attune.feedback.received.v2"),))
    with pytest.raises(InvalidInput) as caught:
        decode_event(b'{"id": "secret words"}', (("ce_type", b"attune.feedback.received.v1"),))
    assert "secret" not in str(caught.value)
    assert "conversation" in str(caught.value) or "at" in str(caught.value)


def test_an_error_again_says_the_same_and_shares_nothing_that_raising_changes() -> None:
    first = HandleRefused("expired", "this handle has expired")
    again = first.again()
    assert (type(again), str(again), again.args) == (HandleRefused, str(first), first.args)
    assert (again.reason, again.field, again.__cause__) == ("expired", "handle", first)
    with pytest.raises(HandleRefused):
        raise again
    assert first.__traceback__ is None
