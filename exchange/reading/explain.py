"""What made a version, from the registry alone: its snapshot, the feedback in it, gates, example answers, recipe,
curves, and how its reward model came out.

Knows manifests; knows no log, no journal and no code of the trainer.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from exchange.registry.port import Registry
from schemas.base import Record, version_name
from schemas.errors import IntegrityError, NotFound
from schemas.explanations import CardFacts, FeedbackUsed, VersionExplained
from schemas.manifests import SnapshotManifest
from schemas.reports import CURVES_FILE, REWARD_REPORT_FILE, Curves, RewardReport
from schemas.wire import validation_summary

_KIND = "words."
_R = TypeVar("_R", bound=Record)


def explain_version(registry: Registry, policy: str, version: int) -> VersionExplained:
    """What made `POLICY@vN`. The snapshot is None where the registry does not hold it any more.

    Raises:
        NotFound: no such version was published: it is the base, or it was rejected.
        IntegrityError: a manifest cannot be read.
        Unavailable: the registry cannot be reached.
    """
    manifest = registry.adapter(policy, version)
    try:
        feedback = _feedback(registry.snapshot(manifest.snapshot))
    except NotFound:
        feedback = None
    return VersionExplained(
        version=version_name(policy, version),
        parent=version_name(policy, manifest.parent),
        created_at=manifest.created_at,
        digest=manifest.digest,
        base_fingerprint=manifest.base_fingerprint,
        snapshot=manifest.snapshot,
        feedback=feedback,
        reward_model=manifest.reward_model,
        gates=manifest.gates.results,
        kl_nats_per_sequence=manifest.kl_nats_per_sequence,
        kl_budget_nats_per_sequence=manifest.kl_budget_nats_per_sequence,
        examples=manifest.examples,
        metrics=manifest.metrics,
        recipe=manifest.recipe,
        code_version=manifest.code_version,
        seed=manifest.seed,
        guidance=manifest.guidance,
    )


def card_facts(registry: Registry, policy: str, version: int) -> CardFacts:
    """What the model card of `POLICY@vN` is written from. Raises as `explain_version` does."""
    manifest = registry.adapter(policy, version)
    return CardFacts(
        explained=explain_version(registry, policy, version),
        curves=_kept(registry, "reports", manifest.report, CURVES_FILE, Curves),
        reward_model=_kept(registry, "reward-models", manifest.reward_model, REWARD_REPORT_FILE, RewardReport),
    )


def _kept(registry: Registry, kind: str, digest: str | None, name: str, model: type[_R]) -> _R | None:
    """One JSON file of an artifact; None where it is not there."""
    if digest is None:
        return None
    try:
        data = registry.read_artifact_file(kind, digest, name)
    except NotFound:
        return None
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"{name} of {kind} {digest} cannot be read: {validation_summary(error)}") from error


def _feedback(snapshot: SnapshotManifest) -> FeedbackUsed:
    kinds = {name.removeprefix(_KIND): count for name, count in snapshot.counts.items() if name.startswith(_KIND)}
    return FeedbackUsed(
        watermark=snapshot.watermark,
        feedback_window_ms=snapshot.feedback_window_ms,
        rows={name: count for name, count in snapshot.counts.items() if not name.startswith(_KIND)},
        by_kind=kinds,
        by_source=snapshot.words_by_source,
        by_language=snapshot.words_by_language,
        by_domain=snapshot.words_by_domain,
        answers_by_version={version_name(snapshot.policy, n): count for n, count in snapshot.counts_by_version.items()},
        funnel=snapshot.funnel,
        excluded=snapshot.excluded,
        reasons=snapshot.reasons,
        agreement=snapshot.agreement,
    )
