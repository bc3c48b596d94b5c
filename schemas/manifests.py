"""Manifests: what lies beside an adapter or a snapshot and says where it came from. Immutable once written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from schemas.arrays import Float32Array, Int32Array
from schemas.base import Id, Millis, PolicyName, Record, Sha256, VersionNumber


class FileDigest(Record):
    """One file of an artifact."""

    sha256: Sha256
    size: int = Field(ge=0, description="bytes")


def files_digest(files: Mapping[str, FileDigest]) -> str:
    """One sha-256 over names, digests and sizes, whatever order they come in."""
    lines = [f"{name}\0{files[name].sha256}\0{files[name].size}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class GuidanceKind(StrEnum):
    """What guides those who judge a policy's answers, and what the policy is asked by hand."""

    GUIDELINES = "guidelines"
    CONSTITUTION = "constitution"
    PROMPTS = "prompts"


GuidanceVersion = Annotated[int, Field(ge=1, lt=2**31, description="counted by kind and policy")]


class GuidanceManifest(Record):
    """One published version of a policy's guidance. The newest of its kind is in force until the next one."""

    kind: GuidanceKind
    policy: PolicyName
    version: GuidanceVersion
    created_at: Millis = Field(description="from when on it is in force")
    files: dict[str, FileDigest]
    digest: Sha256 = Field(description="files_digest(files)")
    note: str = Field(default="", max_length=2000, description="why it was published, for operators")


class GuidanceInForce(Record):
    """Guidance that was in force while the words of a snapshot were said."""

    kind: GuidanceKind
    version: GuidanceVersion
    digest: Sha256
    since: Millis


class GateResult(Record):
    """What one gate measured and decided."""

    name: Id
    passed: bool
    value: float | None = Field(description="None where there was too little data to measure")
    threshold: float | None
    unit: str
    explanation: str = Field(description="in words, for whoever must decide")


class GateReport(Record):
    """All gates of one candidate. It passes only if every gate does."""

    results: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)


class Probe(Record):
    """A fixed prompt and answer with the trainer's own logprobs; the server must find the same before it routes.

    It tells an adapter that never reached the engine, or was bound to other modules, from one that did.
    """

    prompt_token_ids: Int32Array = Field(description="from a curated prompt, never a person's")
    answer_token_ids: Int32Array
    logprobs: Float32Array = Field(description="nats per answer token, at temperature 1")


class AnswerExample(Record):
    """One curated question with the greedy answers of the parent and of the candidate: what a version changed.

    Questions come from the suites, never from people.
    """

    name: Id = Field(description="of the case in its suite")
    question: str = Field(description="the last message, cut where it is long")
    before: str = Field(description="the parent's answer, cut where it is long")
    after: str = Field(description="the candidate's")


class AdapterManifest(Record):
    """The birth certificate of a policy version."""

    policy: PolicyName
    version: VersionNumber
    parent: VersionNumber
    created_at: Millis
    files: dict[str, FileDigest]
    digest: Sha256 = Field(description="files_digest(files)")
    base_fingerprint: Sha256
    chat_template_hash: Sha256
    rank: int = Field(ge=1, description="LoRA rank")
    target_modules: tuple[str, ...]
    snapshot: Sha256 = Field(description="digest of the snapshot it was trained on")
    reward_model: Sha256 = Field(description="digest of the reward model's files")
    gates: GateReport
    kl_nats_per_sequence: float = Field(description="to the frozen base, mean over prompts")
    kl_budget_nats_per_sequence: float
    recipe: dict[str, JsonValue] = Field(description="the learning settings, whole")
    probes: tuple[Probe, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict, description="final training metrics by name")
    code_version: str
    seed: int
    examples: tuple[AnswerExample, ...] = ()
    report: Sha256 | None = Field(
        default=None, description="digest of its gate report and training curves in the registry (`reports`)"
    )
    guidance: tuple[GuidanceInForce, ...] = Field(default=(), description="that of its snapshot")


class OffsetRange(Record):
    """Records of one partition that went into a snapshot: start inclusive, end exclusive."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Agreement(Record):
    """How far people agree on what several of them judged."""

    alpha: float | None = Field(
        description="Krippendorff's, nominal: 1 agrees wholly, 0 as by chance; None: not measurable, nothing is shared "
        "or nobody ever said anything else"
    )
    items: int = Field(ge=0, description="answers, or pairs of answers, that more than one person judged")
    people: int = Field(ge=0, description="who judged one of them")
    judgements: int = Field(ge=0, description="one for each person and item")

    def in_words(self) -> str:
        """The figure with what it rests on, or that there is none."""
        shared = f"{self.items} shared by {self.people} people, {self.judgements} judgements"
        if self.alpha is not None:
            return f"alpha {self.alpha:.2f} ({shared})"
        return f"not measurable ({shared if self.items else 'nothing was judged by more than one person'})"


class SnapshotManifest(Record):
    """What a preference snapshot holds and what it left out. The same log gives the same snapshot, byte for byte."""

    policy: PolicyName
    digest: Sha256 = Field(description="files_digest(files)")
    files: dict[str, FileDigest]
    offsets: dict[str, OffsetRange] = Field(description="'topic/partition' -> records read")
    watermark: Millis = Field(description="event time up to which completions had their whole feedback window")
    feedback_window_ms: int
    counts: dict[str, int] = Field(description="rows by kind, e.g. pairs, thumbs, answers")
    counts_by_version: dict[int, int]
    counts_by_language: dict[str, int] = Field(default_factory=dict)
    counts_by_domain: dict[str, int] = Field(default_factory=dict)
    excluded: dict[str, int] = Field(description="reason -> how many")
    filters: dict[str, JsonValue]
    words_by_source: dict[str, int] = Field(default_factory=dict, description="words of feedback by who speaks")
    words_by_language: dict[str, int] = Field(default_factory=dict, description="by the language of their answers")
    words_by_domain: dict[str, int] = Field(default_factory=dict, description="by the domain of their answers")
    funnel: dict[str, int] = Field(default_factory=dict, description="stage -> how many, from answered to used")
    reasons: dict[str, str] = Field(default_factory=dict, description="each reason in `excluded`, in plain words")
    agreement: dict[str, Agreement] = Field(
        default_factory=dict, description="of people on equal answers to equal questions: `thumbs`, `pairs`"
    )
    guidance: tuple[GuidanceInForce, ...] = Field(
        default=(), description="what was in force from its first word to its watermark, by kind and version"
    )


def canonical_json(model: Record) -> bytes:
    """Stable bytes of a record: sorted keys, no spaces, one line."""
    return (json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":")) + "\n").encode()
