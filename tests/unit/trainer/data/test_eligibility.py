"""Which answers PPO may learn from: each rule by itself, and the flag of the contract agrees."""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

import pytest

from schemas.completion import Arm, SamplingParameters, Shown
from tests.factories import PLAIN, Maker
from tests.unit.trainer.data.support import SCOPE, facts, joined, reasons
from trainer.intake.facts import Answer
from trainer.joining.eligibility import Scope, ppo_reasons
from trainer.joining.exclusions import Reason

RULES: list[tuple[dict[str, Any], Reason]] = [
    ({"sampling": PLAIN.model_copy(update={"temperature": 0.0})}, Reason.TEMPERATURE_ZERO),
    ({"sampling": PLAIN.model_copy(update={"top_k": 1})}, Reason.TEMPERATURE_ZERO),
    ({"sampling": PLAIN.model_copy(update={"min_p": 0.1})}, Reason.TRUNCATED_SAMPLING),
    ({"sampling": PLAIN.model_copy(update={"presence_penalty": 0.1})}, Reason.PENALTIES),
    ({"sampling": PLAIN.model_copy(update={"frequency_penalty": -0.1})}, Reason.PENALTIES),
    ({"sampling": PLAIN.model_copy(update={"repetition_penalty": 1.1})}, Reason.PENALTIES),
    ({"sampling": PLAIN.model_copy(update={"logit_bias": True})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"bad_words": True})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"allowed_token_ids": True})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"structured_output": True})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"forced_tool": True})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"min_tokens": 2})}, Reason.MASKED),
    ({"sampling": PLAIN.model_copy(update={"opaque": True})}, Reason.OPAQUE),
    ({"logprobs": False}, Reason.MISSING_LOGPROBS),
    ({"logprobs_mode": "raw_logits"}, Reason.OTHER_LOGPROBS),
    (
        {"logprobs_mode": "raw_logprobs", "sampling": PLAIN.model_copy(update={"temperature": 0.7})},
        Reason.OTHER_LOGPROBS,
    ),
    ({"logprobs_mode": "raw_logprobs", "sampling": PLAIN.model_copy(update={"top_p": 0.9})}, Reason.OTHER_LOGPROBS),
    ({"logprobs_mode": "raw_logprobs", "sampling": PLAIN.model_copy(update={"top_k": 9})}, Reason.OTHER_LOGPROBS),
    ({"finish_reason": "length"}, Reason.CUT_OFF),
    ({"finish_reason": "abort"}, Reason.CUT_OFF),
    ({"finish_reason": "error"}, Reason.CUT_OFF),
    ({"finish_reason": "repetition"}, Reason.CUT_OFF),
    ({"seen": False}, Reason.CUT_OFF),
    ({"arm": Arm.SHADOW}, Reason.SHADOW),
    ({"shown": Shown.HIDDEN}, Reason.HIDDEN),
]


@pytest.mark.parametrize(("change", "reason"), RULES, ids=lambda value: str(value)[:60])
def test_each_rule_excludes_from_ppo_by_name_and_not_from_the_reward_model(
    change: dict[str, Any], reason: Reason
) -> None:
    make = Maker()
    answer = make.completion(**change)
    thumb = make.thumb(answer)
    result = joined(answer, thumb)
    assert result.trainable == ()
    assert reasons(result) == {f"{answer.completion_id}/0": {reason}}
    assert [word.feedback.id for word in result.words] == [thumb.id]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shown": Shown.COMPARISON},
        {"arm": Arm.EXPLORATION},
        {"logprobs_mode": "raw_logprobs"},
        {"sampling": PLAIN.model_copy(update={"temperature": 0.7, "seed": 1, "stop_strings": 2, "max_tokens": 9})},
        {"sampling": PLAIN.model_copy(update={"top_p": 0.8, "top_k": 20, "temperature": 0.7})},
    ],
    ids=str,
)
def test_what_leaves_the_distribution_whole_or_can_be_replayed_trains_ppo(change: dict[str, Any]) -> None:
    make = Maker()
    assert len(joined(make.completion(**change)).trainable) == 1


@pytest.mark.parametrize(("version", "fit"), [(9, True), (5, True), (4, False), (12, True)])
def test_at_most_four_versions_old(version: int, fit: bool) -> None:
    make = Maker()
    result = joined(make.completion(version=version), scope=Scope(SCOPE.base_fingerprint, current_version=9))
    assert bool(result.trainable) is fit
    assert [exclusion.reason for exclusion in result.exclusions] == ([] if fit else [Reason.TOO_OLD])


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan")])
def test_a_logprob_that_is_no_number_excludes(value: float) -> None:
    make = Maker()
    completion = facts(make.completion())
    packed = b64encode(struct.pack("<3f", -0.1, value, -0.2)).decode()
    answer = Answer(completion, completion.choices[0].model_copy(update={"logprobs": packed}))
    assert ppo_reasons(answer, SCOPE) == (Reason.MISSING_LOGPROBS,)


def test_all_reasons_of_one_answer_are_named() -> None:
    make = Maker()
    greedy = SamplingParameters(temperature=0, top_p=0.9, top_k=0, min_p=0.1)
    answer = make.completion(sampling=greedy, finish_reason="length")
    assert reasons(joined(answer))[f"{answer.completion_id}/0"] == {
        Reason.TEMPERATURE_ZERO,
        Reason.TRUNCATED_SAMPLING,
        Reason.CUT_OFF,
    }


@pytest.mark.parametrize("change", [change for change, _ in RULES if "sampling" in change], ids=str)
def test_the_contract_calls_the_same_sampling_partial_but_for_what_is_replayed(change: dict[str, Any]) -> None:
    make = Maker()
    reasons_found = ppo_reasons(Answer(completion := facts(make.completion(**change)), completion.choices[0]), SCOPE)
    sampling = change["sampling"]
    if sampling.top_k != 1:
        sampling = sampling.model_copy(update={"top_p": 1.0, "top_k": 0})
    whole = sampling.full_distribution
    assert whole is (not set(reasons_found) - {Reason.OTHER_LOGPROBS})
