"""One made-up instance of every stored contract, with fixed ids, times and bytes.

`python -m tests.golden.samples` writes the goldens that are missing. It never rewrites one: a golden is a promise to
every log already written.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from schemas.base import Record
from schemas.completion import (
    Arm,
    CompletionChoice,
    CompletionRecorded,
    Consent,
    ConsentLevel,
    SamplingParameters,
    Shown,
)
from schemas.events import AnswerDisplayed, ConsentChanged, ErasureApplied, ErasureRequested, ReplicaReported
from schemas.feedback import (
    AnswerTarget,
    CandidateRef,
    Comment,
    Comparison,
    ComparisonTarget,
    Correction,
    FeedbackReceived,
    FeedbackSource,
    Labeller,
    Outcome,
    Ranking,
    Rating,
    Retraction,
    Signal,
    Thumbs,
)
from schemas.imported import FeedbackImported
from schemas.journal import (
    CanaryStarted,
    CandidatePublished,
    LeaseAcquired,
    LeaseReleased,
    VersionPromoted,
    VersionRejected,
    VersionReserved,
    VersionRolledBack,
)
from schemas.manifests import (
    AdapterManifest,
    Agreement,
    AnswerExample,
    FileDigest,
    GateReport,
    GateResult,
    GuidanceInForce,
    GuidanceKind,
    GuidanceManifest,
    OffsetRange,
    Probe,
    SnapshotManifest,
    files_digest,
)
from schemas.raters import RaterEvidence, RaterJudged
from schemas.sealed import Sealed

FOLDER = Path(__file__).parent / "v1"
AT = 1_790_000_000_000
SHA = "0f" * 32
SEALED = Sealed(subject="user_9c1b", key_id="key_1", data=base64.b64encode(bytes(range(40))).decode())
TARGET = AnswerTarget(completion_id="cmpl_1", choice=0, version=3)
PAIR = (
    CandidateRef(completion_id="cmpl_2", choice=0, version=3),
    CandidateRef(completion_id="cmpl_3", choice=0, version=4),
)
COMPARED = ComparisonTarget(comparison_id="cmp_1", candidates=PAIR)


def _feedback(signal: Signal, target: AnswerTarget | ComparisonTarget = TARGET, **more: object) -> FeedbackReceived:
    fields: dict[str, object] = {
        "id": f"fb_{signal.kind}",
        "at": AT,
        "policy": "support",
        "tenant": "acme",
        "conversation": "conv_1",
        "end_user": "user_9c1b",
        "api_key_id": "app",
        "target": target,
        "signal": signal,
    }
    return FeedbackReceived.model_validate(fields | more)


COMPLETION = CompletionRecorded(
    id="cmpl_1",
    at=AT,
    policy="support",
    tenant="acme",
    completion_id="cmpl_1",
    protocol="chat.completions",
    version=3,
    adapter_digest=SHA,
    base_fingerprint=SHA,
    chat_template_hash=SHA,
    arm=Arm.STABLE,
    shown=Shown.DIRECT,
    api_key_id="app",
    end_user="user_9c1b",
    conversation="conv_1",
    consent=Consent(level=ConsentLevel.TRAIN, source="key"),
    language="en",
    domain="orders",
    metadata={"channel": "web"},
    sampling=SamplingParameters(temperature=0.7, top_p=1.0, top_k=0, min_p=0.0, seed=7, max_tokens=64),
    logprobs_mode="processed_logprobs",
    started_at=AT - 900,
    finished_at=AT,
    first_token_ms=41.5,
    prompt_token_count=4,
    choices=(
        CompletionChoice(index=0, token_count=3, logprobs=(-0.5, -0.25, -0.1), finish_reason="stop", seen=True),
        CompletionChoice(index=1, token_count=2, logprobs=None, finish_reason="length", seen=False),
    ),
    content=SEALED,
)
_FILES = {
    "adapter_config.json": FileDigest(sha256=SHA, size=400),
    "adapter_model.safetensors": FileDigest(sha256=SHA, size=90_000),
}
_ENTRY = {"at": AT, "policy": "support", "actor": "trainer"}

SAMPLES: dict[str, Record] = {
    "completion": COMPLETION,
    "feedback_thumbs": _feedback(Thumbs(value="up"), aspects={"tone": 0.5}, reasons=("clear",), idempotency_key="k1"),
    "feedback_rating": _feedback(Rating(stars=4), source=FeedbackSource.RATER),
    "feedback_comparison": _feedback(Comparison(verdict="winner", winner=1), COMPARED),
    "feedback_comparison_tie": _feedback(Comparison(verdict="tie"), COMPARED, id="fb_tie"),
    "feedback_ranking": _feedback(Ranking(order=((1,), (0,))), COMPARED),
    "feedback_correction": _feedback(Correction(), content=SEALED),
    "feedback_comment": _feedback(Comment(), content=SEALED),
    "feedback_outcome": _feedback(Outcome(name="resolved", value=True), source=FeedbackSource.IMPLICIT),
    "feedback_ai": _feedback(
        Comparison(verdict="winner", winner=0),
        COMPARED,
        id="fb_ai",
        source=FeedbackSource.AI,
        labeller=Labeller(model="org/judge-8b", constitution=SHA),
    ),
    "feedback_retraction": _feedback(Retraction(), supersedes="fb_thumbs"),
    "feedback_imported": FeedbackImported(
        id="imp_1",
        at=AT,
        policy="support",
        tenant="acme",
        conversation="conv_1",
        end_user="user_9c1b",
        kind="thumbs",
        liked=False,
        target="vote_1",
        consent=Consent(level=ConsentLevel.TRAIN, source="import"),
        source="open-webui",
        actor="operator",
        language="en",
        domain="orders",
        content=SEALED,
    ),
    "feedback_imported_preference": FeedbackImported(
        id="imp_2",
        at=AT,
        policy="support",
        tenant="acme",
        conversation="conv_2",
        end_user=None,
        kind="preference",
        target="vote_2",
        consent=Consent(level=ConsentLevel.TRAIN, source="import"),
        source="jsonl",
        actor="operator",
        content=SEALED,
    ),
    "displayed": AnswerDisplayed(
        id="disp_1",
        at=AT,
        policy="support",
        tenant="acme",
        conversation="conv_1",
        end_user="user_9c1b",
        surface="comparison",
        comparison_id="cmp_1",
        candidates=PAIR,
    ),
    "consent_changed": ConsentChanged(
        id="cons_1", at=AT, policy="support", tenant="acme", end_user="user_9c1b", level=ConsentLevel.NONE, actor="app"
    ),
    "erasure_requested": ErasureRequested(
        id="er_1", at=AT, policy="support", tenant="acme", subject="user_9c1b", actor="operator"
    ),
    "erasure_applied": ErasureApplied(
        id="er_1.ledger.support",
        at=AT,
        policy="support",
        tenant="acme",
        erasure_id="er_1",
        subject="user_9c1b",
        part="ledger",
        counts={"rows": 17},
        actor="trainer_1",
    ),
    "rater_judged": RaterJudged(
        id="rj_1",
        at=AT,
        policy="support",
        tenant="acme",
        rater="user_9c1b",
        verdict="quarantined",
        why="9 of 40 words agree with what others say",
        actor="trainer_1",
        evidence=RaterEvidence(
            test="agreement", words=40, agreed=9, people=0.75, expected=0.625, p_value=2e-7, until=AT
        ),
    ),
    "rater_released": RaterJudged(
        id="rj_2",
        at=AT,
        policy="support",
        tenant="acme",
        rater="user_9c1b",
        verdict="released",
        why="a new colleague",
        actor="key:k_1",
    ),
    "replica_reported": ReplicaReported(
        id="rep_1",
        at=AT,
        policy="support",
        tenant="operator",
        replica_id="replica_1",
        generation=9,
        stable=3,
        canary=4,
        loaded={0: None, 3: SHA},
        refused={4: "wrong base"},
    ),
    "journal_lease_acquired": LeaseAcquired(id="j_1", holder="trainer_1", ttl_ms=60_000, **_ENTRY),
    "journal_lease_released": LeaseReleased(id="j_2", epoch=1, **_ENTRY),
    "journal_version_reserved": VersionReserved(id="j_3", epoch=1, version=1, **_ENTRY),
    "journal_candidate_published": CandidatePublished(
        id="j_4", epoch=1, version=1, digest=SHA, parent=0, kl_nats_per_sequence=1.5, **_ENTRY
    ),
    "journal_canary_started": CanaryStarted(id="j_5", version=1, share=0.2, **_ENTRY),
    "journal_version_promoted": VersionPromoted(
        id="j_6", version=1, expected_generation=3, **_ENTRY | {"reason": "41 of 60 blinded votes"}
    ),
    "journal_version_rejected": VersionRejected(id="j_7", version=2, **_ENTRY | {"reason": "KL over budget"}),
    "journal_version_rolled_back": VersionRolledBack(id="j_8", version=1, to=0, **_ENTRY),
    "adapter_manifest": AdapterManifest(
        policy="support",
        version=1,
        parent=0,
        created_at=AT,
        files=_FILES,
        digest=files_digest(_FILES),
        base_fingerprint=SHA,
        chat_template_hash=SHA,
        rank=16,
        target_modules=("q_proj", "v_proj"),
        snapshot=SHA,
        reward_model=SHA,
        gates=GateReport(
            results=(
                GateResult(
                    name="kl_budget", passed=True, value=1.5, threshold=6.0, unit="nats/sequence", explanation="within"
                ),
            )
        ),
        kl_nats_per_sequence=1.5,
        kl_budget_nats_per_sequence=6.0,
        recipe={"clip": 0.2},
        probes=(Probe(prompt_token_ids=(1, 2), answer_token_ids=(3,), logprobs=(-0.5,)),),
        metrics={"clip_fraction": 0.1},
        code_version="0.1.0",
        seed=0,
    ),
    "snapshot_manifest": SnapshotManifest(
        policy="support",
        digest=SHA,
        files={"pairs.parquet": FileDigest(sha256=SHA, size=1_000)},
        offsets={"attune.feedback/0": OffsetRange(start=0, end=10)},
        watermark=AT,
        feedback_window_ms=60_000,
        counts={"pairs": 5},
        counts_by_version={3: 5},
        excluded={"late": 1},
        filters={"max_versions_behind": 4},
    ),
}


SAMPLES["explained_adapter_manifest"] = SAMPLES["adapter_manifest"].model_copy(
    update={"examples": (AnswerExample(name="add", question="17 + 25?", before="I do not know.", after="42"),)}
)
SAMPLES["counted_snapshot_manifest"] = SAMPLES["snapshot_manifest"].model_copy(
    update={
        "words_by_source": {"user": 5},
        "words_by_language": {"en": 5},
        "words_by_domain": {"orders": 4, "unspecified": 1},
        "funnel": {"answered": 40, "rated": 6, "reward_model": 5},
        "reasons": {"late": "it came after the feedback window of its answer"},
    }
)
_RULES = {"guidelines.md": FileDigest(sha256=SHA, size=700)}
SAMPLES["guidance_manifest"] = GuidanceManifest(
    kind=GuidanceKind.GUIDELINES,
    policy="support",
    version=2,
    created_at=AT,
    files=_RULES,
    digest=files_digest(_RULES),
    note="clearer",
)
_IN_FORCE = (GuidanceInForce(kind=GuidanceKind.GUIDELINES, version=2, digest=files_digest(_RULES), since=AT),)
for _name in ("adapter_manifest", "snapshot_manifest"):
    SAMPLES[f"guided_{_name}"] = SAMPLES[_name].model_copy(update={"guidance": _IN_FORCE})

SAMPLES["agreed_snapshot_manifest"] = SAMPLES["counted_snapshot_manifest"].model_copy(
    update={
        "agreement": {
            "thumbs": Agreement(alpha=0.625, items=3, people=5, judgements=9),
            "pairs": Agreement(alpha=None, items=0, people=0, judgements=0),
        }
    }
)


def missing() -> list[str]:
    """Names of samples that have no golden yet."""
    return [name for name in SAMPLES if not (FOLDER / f"{name}.json").exists()]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in missing():
        body = SAMPLES[name].model_dump(mode="json")
        (FOLDER / f"{name}.json").write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
