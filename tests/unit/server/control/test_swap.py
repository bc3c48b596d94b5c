"""What a replica loads and routes by, as the journal moves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from exchange.log.port import EventLog
from exchange.registry.port import Registry
from schemas.errors import NotFound
from tests.unit.server.control.world import POLICY, Operator, probe, publish, replica, until


async def test_two_replicas_on_one_log_converge(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    digests = {number: publish(registry, tmp_path, number).digest for number in (1, 2)}
    operator.candidate(1, digests[1])
    operator.promote(1)
    async with replica(log, registry, tmp_path / "c1", name="r1") as first:
        await until(lambda: first.routed() == (1, None))
        operator.candidate(2, digests[2])
        operator.canary(2, share=0.25)
        async with replica(log, registry, tmp_path / "c2", name="r2") as second:
            both = (first, second)
            for one in both:
                await until(lambda: all(one.routed() == (1, 2) for one in both))
                table = one.swapper.table(POLICY)
                assert table.canary_share == 0.25
                assert table.loaded == {0: None, 1: digests[1], 2: digests[2]}
            operator.promote(2)
            await until(lambda: all(one.routed() == (2, None) for one in both))
            operator.rollback(2)
            await until(lambda: all(one.routed() == (1, None) for one in both))
            await until(lambda: all(one.engine.loaded() == ["support@v1"] for one in both))
            assert first.swapper.follows(POLICY)
            await until(lambda: bool(second.reports) and second.reports[-1].generation == 8)
            last = second.reports[-1]
            assert (last.replica_id, last.stable, last.canary) == ("r2/support", 1, None)
            assert last.loaded == {0: None, 1: digests[1]}


async def test_a_change_is_routed_at_once_and_measured(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    async with replica(log, registry, tmp_path / "cache") as one:
        operator.canary(1)
        await until(lambda: one.routed() == (0, 1))
        took = []
        for version_of_traffic in (1, 0, 1, 0, 1):
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            change = operator.promote if version_of_traffic else operator.rollback
            await asyncio.to_thread(change, 1)
            await until(lambda: one.routed() == (version_of_traffic, None))  # noqa: B023
            took.append(time.perf_counter() - began)
            if not version_of_traffic:  # taken back for good, so it is let go; have it back before the next turn
                await asyncio.to_thread(operator.canary, 1)
                await until(lambda: one.routed() == (0, 1))
        assert min(took) < 0.5  # a few milliseconds on an idle machine; a wait for some poll would show
        count = one.sample("attune_swap_seconds_count", policy=POLICY, arm="stable")
        assert count == 5
        assert one.sample("attune_served_version", policy=POLICY, arm="stable") == 1
        assert one.sample("attune_served_version", policy=POLICY, arm="canary") == -1


async def test_rollback_is_instant_and_answers_end_on_the_version_they_began_on(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    for number in (1, 2):
        operator.candidate(number, publish(registry, tmp_path, number).digest)
        operator.promote(number)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: one.routed() == (2, None) and "support@v1" in one.engine.loaded())
        with one.engine.hold("support@v2"):
            operator.rollback(2)
            one.journal.refresh()
            one.swapper.changed()
            assert one.routed() == (1, None)  # at once: no task had a turn yet
            await asyncio.sleep(0.05)
            assert one.engine.loaded() == ["support@v2", "support@v1"]  # somebody still listens to v2
            assert 2 not in one.swapper.table(POLICY).loaded  # and nobody new may begin with it
            assert any((tmp_path / "cache").iterdir())
        await until(lambda: one.engine.loaded() == ["support@v1"])


async def test_a_version_comes_back_after_it_was_unloaded_and_while_it_drains(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    operator.promote(1)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: one.routed() == (1, None))
        operator.rollback(1)
        await until(lambda: one.engine.loaded() == [] and not list((tmp_path / "cache").iterdir()))
        operator.promote(1)
        await until(lambda: one.routed() == (1, None))
        with one.engine.hold("support@v1"):
            operator.rollback(1)
            await until(lambda: one.routed() == (0, None))
            operator.promote(1)
            await until(lambda: one.routed() == (1, None))
        await asyncio.sleep(0.05)
        assert one.engine.loaded() == ["support@v1"]


async def test_slots_are_kept_for_what_serves(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    async with replica(log, registry, tmp_path / "cache", slots=3) as one:
        for number in range(1, 7):
            operator.candidate(number, publish(registry, tmp_path, number).digest)
            operator.canary(number)
            await until(lambda: one.routed()[1] == number)  # noqa: B023
            assert len(one.engine.loaded()) <= 3
            operator.promote(number)
            await until(lambda: one.routed() == (number, None))  # noqa: B023
        await until(lambda: one.engine.loaded() == ["support@v5", "support@v6"])  # v5: what a rollback goes back to


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_fingerprint": "a" * 64}, "another base model"),
        ({"chat_template_hash": "b" * 64}, "another chat template"),
        ({"target_modules": ("q_proj", "lm_head")}, "adapts lm_head"),
        ({"rank": 64}, "has rank 64, and this server takes 16"),
        ({"probes": (probe("support@v9"),)}, "nats per token away from the trainer's logprobs"),
    ],
)
async def test_an_adapter_that_is_refused_leaves_the_old_one_serving(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    operator.candidate(1, publish(registry, tmp_path, 1).digest)
    operator.promote(1)
    operator.candidate(2, publish(registry, tmp_path, 2, **changes).digest)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: one.routed() == (1, None))
        operator.promote(2)
        await until(lambda: 2 in one.swapper.refused(POLICY))
        assert why in one.swapper.refused(POLICY)[2]
        assert one.routed() == (1, None)
        assert one.engine.loaded() == ["support@v1"]
        assert one.sample("attune_adapters_refused", policy=POLICY) == 1
        assert one.sample("attune_adapter_load_seconds_count", policy=POLICY, outcome="refused") == 1
        await until(lambda: bool(one.reports) and 2 in one.reports[-1].refused)
        assert not await one.swapper.wait_until_followed(POLICY, 5.0)
        operator.rollback(2)
        await until(lambda: one.swapper.follows(POLICY) and one.swapper.refused(POLICY) == {})
        assert one.sample("attune_adapters_refused", policy=POLICY) == 0


async def test_an_adapter_other_than_the_journal_promised_is_refused(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    publish(registry, tmp_path, 1)
    operator.candidate(1, "f" * 64)
    operator.promote(1)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: 1 in one.swapper.refused(POLICY))
        assert "and the journal promised ffffffffffff" in one.swapper.refused(POLICY)[1]
        assert one.routed() == (0, None)
        assert not one.swapper.settled


async def test_altered_bytes_and_a_failing_engine_are_refused(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    digests = [publish(registry, tmp_path, number).digest for number in (1, 2)]
    for number, digest in enumerate(digests, start=1):
        operator.candidate(number, digest)
    weights = tmp_path / "registry" / "artifacts" / "adapters" / digests[0] / "adapter_model.safetensors"
    weights.write_bytes(b"X" + weights.read_bytes()[1:])
    async with replica(log, registry, tmp_path / "cache") as one:
        one.engine.unloadable.add("support@v2")
        operator.promote(1)
        operator.canary(2)
        await until(lambda: len(one.swapper.refused(POLICY)) == 2)
        assert "are not those of its manifest" in one.swapper.refused(POLICY)[1]
        assert "cannot be loaded" in one.swapper.refused(POLICY)[2]
        assert one.routed() == (0, None)


async def test_what_is_not_there_yet_is_tried_again(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    elsewhere = type(registry).at(f"file://{tmp_path}/elsewhere")  # type: ignore[attr-defined]
    operator.candidate(1, publish(elsewhere, tmp_path, 1).digest)
    operator.promote(1)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: 1 in one.swapper.refused(POLICY))
        publish(registry, tmp_path, 1)
        await until(lambda: one.routed() == (1, None))
        assert one.swapper.refused(POLICY) == {}


async def test_when_the_successor_is_refused_what_was_taken_back_does_not_serve_on(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    for number, changes in ((1, {}), (2, {"rank": 99}), (3, {})):
        operator.candidate(number, publish(registry, tmp_path, number, **changes).digest)
        operator.promote(number)
    async with replica(log, registry, tmp_path / "cache") as one:
        await until(lambda: one.routed() == (3, None))
        operator.rollback(3)  # back to v2, which cannot be served here
        await until(lambda: one.routed()[0] != 3)
        assert 2 in one.swapper.refused(POLICY)


async def test_a_policy_that_is_not_served_is_not_found(log: EventLog, registry: Registry, tmp_path: Path) -> None:
    async with replica(log, registry, tmp_path / "cache") as one:
        assert one.swapper.table(POLICY).loaded == {0: None}
        with pytest.raises(NotFound):
            one.swapper.table("other")


async def test_no_request_fails_while_versions_come_and_go(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        operator.candidate(number, publish(registry, tmp_path, number).digest)
    async with replica(log, registry, tmp_path / "cache", slots=3, seconds_per_step=0.001) as one:
        stop = asyncio.Event()
        answered: set[str] = set()

        async def user() -> None:
            while not stop.is_set():
                table = one.swapper.table(POLICY)
                for version in {table.stable, table.canary} - {None}:
                    name = f"{POLICY}@v{version}"
                    with one.engine.hold(name):
                        await asyncio.sleep(0.003)
                        answered.add(name + (await one.engine.probe(name))[:0])

        async with asyncio.TaskGroup() as group:
            users = [group.create_task(user()) for _ in range(8)]
            for version in (1, 2, 3):
                await asyncio.to_thread(operator.canary, version)
                await until(lambda: one.routed()[1] == version)  # noqa: B023
                await asyncio.to_thread(operator.promote, version)
                await until(lambda: one.routed() == (version, None))  # noqa: B023
            for version in (3, 2, 1):
                await asyncio.to_thread(operator.rollback, version)
                await until(lambda: one.routed() == (version - 1, None))  # noqa: B023
            stop.set()
        assert all(user.done() and user.exception() is None for user in users)
        assert answered == {"support@v0", "support@v1", "support@v2", "support@v3"}


async def test_what_killed_processes_left_is_removed_once_all_is_loaded(
    log: EventLog, registry: Registry, operator: Operator, tmp_path: Path
) -> None:
    cache, digest = tmp_path / "cache", publish(registry, tmp_path, 1).digest
    for name in (".staging-1", ".discarded-2", "a" * 64):
        (cache / name).mkdir(parents=True)
        (cache / name / "adapter_model.safetensors").write_bytes(b"large")
    operator.candidate(1, digest)
    operator.promote(1)
    async with replica(log, registry, cache) as one:
        await until(lambda: one.routed() == (1, None))
        await until(lambda: [path.name for path in cache.iterdir()] == [digest])
