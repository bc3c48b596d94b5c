"""What made a version, from the registry alone: its snapshot, the feedback in it, gates, example answers, recipe.

Knows manifests; knows no log, no journal and no code of the trainer.
"""

from __future__ import annotations

from exchange.registry.port import Registry
from schemas.base import version_name
from schemas.errors import NotFound
from schemas.explanations import FeedbackUsed, VersionExplained
from schemas.manifests import SnapshotManifest

_KIND = "words."


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
    )


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
    )
