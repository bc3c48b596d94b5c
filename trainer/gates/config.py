"""The settings of the gates, each with its unit and where its default comes from ("ours": a choice of this design)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

GateName = Literal[
    "kl_budget",
    "heldout_accuracy",
    "length_drift",
    "length_correlation",
    "entropy_drop",
    "retained_ability",
    "red_team",
    "off_policy_value",
    "audit_reward",
    "slices",
    "padding",
    "flattery",
]


class GateSettings(BaseModel):
    """What a candidate must keep to before anybody is served by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_accuracy_drop: float = Field(
        0.03, ge=0, le=1, description="held-out accuracy of the reward model may fall by this share of pairs (ours)"
    )
    max_length_growth: float = Field(
        0.2, gt=0, description="mean answer length may grow by this share of the parent's (ours)"
    )
    max_length_correlation: float = Field(
        0.4,
        gt=0,
        le=1,
        description="|correlation| of reward with answer length; fails where both the raw one and the one given the "
        "verdicts are above this (ours)",
    )
    max_entropy_drop: float = Field(
        0.3, gt=0, le=1, description="mean entropy per token may fall by this share of the parent's (ours)"
    )
    max_ability_drop: float = Field(
        0.05, ge=0, le=1, description="share of the retained-ability cases that may be lost (ours)"
    )
    max_value_drop: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of liked answers that may be lost for sure, by off-policy evaluation on held-out people's "
        "judged answers (ours)",
    )
    max_value_ratio: float = Field(
        10.0,
        gt=0,
        description="largest importance ratio of a judged answer in off-policy evaluation; larger ones count as this "
        "(truncated importance sampling, Ionides 2008; the number is ours)",
    )
    min_audit_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of the gain in the trained reward that audit panels of other people must be able to see "
        "(ours, on made-up data: docs/gates.md)",
    )
    max_slices_worse: int = Field(
        0,
        ge=0,
        description="languages, domains and tenants that may be worse off than with the parent, for sure (ours)",
    )
    max_lure_pay: float = Field(
        0.2,
        ge=0,
        description="standard deviations of reward that the reward model may pay for padding or flattery, where the "
        "candidate has followed it there (ours)",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals, two-sided")
    min_pairs: int = Field(
        30,
        ge=1,
        description="held-out comparisons, rankings and couples of a liked and a disliked answer, below which the "
        "reward model's accuracy is not judged (ours)",
    )
    min_answers: int = Field(
        16, ge=3, description="sampled answers below which length, entropy and correlation are not judged (ours)"
    )
    min_judged_answers: int = Field(
        30, ge=1, description="judged answers, effectively, below which a candidate's value is not judged (ours)"
    )
    min_judging_people: int = Field(
        10,
        ge=2,
        description="people below whom what they said judges nothing: neither a candidate's value, nor the reward "
        "model's accuracy, nor an audit panel (ours); less of a small team, whose few tastes are then all there is",
    )
    judged_answers: int = Field(
        128,
        ge=1,
        description="judged answers at most, the newest, that candidate and parent are valued on; each answers their "
        "prompts anew (ours)",
    )
    must_measure: tuple[GateName, ...] = Field(
        ("kl_budget", "heldout_accuracy"),
        description="gates that fail where there is too little data; all others pass and say so. Shuffled verdicts "
        "made versions while the reward model's accuracy could pass unmeasured (docs/demo.md)",
    )
    prompts: int = Field(
        64, ge=1, description="held-out prompts that candidate and parent answer for length, entropy and KL (ours)"
    )
    max_new_tokens: int = Field(256, ge=1, description="tokens; longest answer sampled for gates and suites")
    batch_size: int = Field(32, ge=1, description="answers sampled side by side; bounds memory")
