"""Where a version came from: what the registry holds, what the journal says, and what there is of a rejected one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exchange.journal import PolicyJournal
from exchange.log.port import EventLog
from exchange.reading.explain import card_facts, explain_version
from exchange.registry.artifacts import describe_folder
from exchange.registry.port import Registry
from schemas.errors import IntegrityError, InvalidInput, NotFound
from schemas.manifests import (
    AnswerExample,
    GateReport,
    GateResult,
    GuidanceInForce,
    GuidanceKind,
    SnapshotManifest,
    canonical_json,
    files_digest,
)
from schemas.reports import Curves, RewardReport
from server.control.explanations import explained
from tests.golden.samples import SAMPLES
from tests.unit.server.control.world import Operator, publish

EXAMPLE = AnswerExample(name="add", question="17 + 25?", before="no idea", after="42")
IN_FORCE = GuidanceInForce(kind=GuidanceKind.GUIDELINES, version=2, digest="a" * 64, since=5)
GATE = GateResult(name="kl_budget", passed=True, value=1.5, threshold=6.0, unit="nats", explanation="within")


@pytest.fixture
def journal(log: EventLog) -> Iterator[PolicyJournal]:
    with closing(PolicyJournal(log)) as made:
        yield made


def publish_snapshot(registry: Registry, folder: Path) -> str:
    folder.mkdir()
    (folder / "thumbs.parquet").write_bytes(b"rows")
    files = describe_folder(folder)
    counts = {"words": 7, "words.thumbs": 5, "words.comparison": 2, "pairs": 2}
    sample = SAMPLES["counted_snapshot_manifest"]
    assert isinstance(sample, SnapshotManifest)
    manifest = sample.model_copy(update={"files": files, "digest": files_digest(files), "counts": counts})
    registry.publish_snapshot(folder, manifest)
    return manifest.digest


async def test_a_version_is_explained_from_its_feedback_to_its_answers(
    journal: PolicyJournal, operator: Operator, registry: Registry, tmp_path: Path
) -> None:
    snapshot = publish_snapshot(registry, tmp_path / "snapshot")
    made = publish(
        registry,
        tmp_path,
        1,
        snapshot=snapshot,
        examples=(EXAMPLE,),
        gates=GateReport(results=(GATE,)),
        recipe={"a": 1},
        guidance=(IN_FORCE,),
    )
    operator.candidate(1, made.digest)
    operator.canary(1)
    journal.refresh()
    for name in ("v1", "support@v1"):
        found = await explained(journal, registry, "support", name)
        assert (found["version"], found["stage"]) == ("support@v1", "canary")
        about = found["made"]
        assert (about["parent"], about["snapshot"], about["digest"]) == ("support@v0", snapshot, made.digest)
        assert about["feedback"]["by_kind"] == {"thumbs": 5, "comparison": 2}
        assert about["feedback"]["rows"] == {"words": 7, "pairs": 2}
        assert about["feedback"]["by_source"] == {"user": 5}
        assert about["feedback"]["by_domain"] == {"orders": 4, "unspecified": 1}
        assert about["feedback"]["reasons"] == {"late": "it came after the feedback window of its answer"}
        assert about["guidance"] == [IN_FORCE.model_dump(mode="json")]
        assert about["gates"] == [GATE.model_dump(mode="json")]
        assert about["examples"] == [EXAMPLE.model_dump(mode="json")]
        assert (about["recipe"], about["code_version"]) == ({"a": 1}, "test")


def test_a_card_is_written_from_manifest_curves_and_the_reward_model_s_report(
    registry: Registry, tmp_path: Path
) -> None:
    curves = Curves.of([{"loss": 1.0}, {"loss": 0.5}])
    report = RewardReport(learnt_from={"pairs": 3}, figures={"margin": 0.5}, curves=curves)
    digests = []
    for kind, name, kept in (("reports", "curves.json", curves), ("reward-models", "report.json", report)):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / name).write_bytes(canonical_json(kept))
        digests.append(registry.publish_artifact(kind, folder, describe_folder(folder)))
    publish(registry, tmp_path, 1, report=digests[0], reward_model=digests[1])
    facts = card_facts(registry, "support", 1)
    assert (facts.curves, facts.reward_model) == (curves, report)
    assert facts.explained == explain_version(registry, "support", 1)


def test_a_version_of_before_reports_were_kept_has_a_card(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path, 1)
    facts = card_facts(registry, "support", 1)
    assert (facts.curves, facts.reward_model) == (None, None)
    with pytest.raises(NotFound):
        card_facts(registry, "support", 2)


def test_a_report_that_is_none_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "curves.json").write_text('{"steps": "all"}', encoding="utf-8")
    publish(registry, tmp_path, 1, report=registry.publish_artifact("reports", folder, describe_folder(folder)))
    with pytest.raises(IntegrityError, match=r"curves.json of reports .* cannot be read"):
        card_facts(registry, "support", 1)


async def test_without_its_snapshot_a_version_is_still_explained(
    journal: PolicyJournal, operator: Operator, registry: Registry, tmp_path: Path
) -> None:
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    journal.refresh()
    assert (await explained(journal, registry, "support", "v1"))["made"]["feedback"] is None


async def test_what_was_never_published_has_its_stage_and_reason_alone(
    journal: PolicyJournal, registry: Registry
) -> None:
    base = await explained(journal, registry, "support", "v0")
    assert (base["stage"], base["made"]) == ("stable", None)
    with pytest.raises(NotFound, match=r"newest is support@v0"):
        await explained(journal, registry, "support", "v9")
    for bad in ("9", "sales@v0", "../v1", "v01"):
        with pytest.raises(InvalidInput):
            await explained(journal, registry, "support", bad)
