"""What was run is found again, also after a crash in the midst of a line; and what the tables make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.study import tables
from tests.bench.study.__main__ import RESULTS, write
from tests.bench.study.plan import BATCHES, jobs
from tests.bench.study.records import Records


def _record(arm: str, seed: int, *points: tuple[float, float]) -> dict[str, Any]:
    made = [
        {
            "kl": kl,
            "gold": gold,
            "groups": {"careful": gold, "hurried": -gold},
            "proxy": 10 * gold,
            "words": 20.0,
            "leaks": 0.1,
        }
        for kl, gold in points
    ]
    return {"arm": arm, "setting": "s", "seed": seed, "words": 300, "points": made, "world": {}}


def test_a_torn_line_is_run_again_and_whole_ones_are_not(tmp_path: Path) -> None:
    first, second = jobs("test", {})[:2]
    Records(tmp_path).add(first, {"gold": 0.123456789})
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"job": "torn", "gold"')
    records = Records(tmp_path)
    records.add(second, {})
    assert records.has(first)
    assert records.has(second)
    assert not records.has(jobs("test", {})[2])
    assert [one["gold"] for one in records.all() if one["job"] == first.name] == [0.12346]


def test_every_run_has_a_name_of_its_own_and_test_seeds_are_not_tuned_on() -> None:
    names = [job.name for batch in BATCHES for job in jobs(batch, {})]
    assert len(names) == len(set(names))
    tuned = {job.world.seed for job in jobs("tune", {})}
    assert not tuned & {job.world.seed for batch in ("test", "controls", "volume") for job in jobs(batch, {})}
    for arm in ("ppo", "dpo", "kto", "sft"):
        assert len({job.setting for job in jobs("tune", {}) if job.arm == arm}) <= 6


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    records = [
        _record("none", 1, (0.0, 0.4)),
        _record("none", 2, (0.0, 0.2)),
        _record("ppo", 1, (0.0, 0.4), (0.5, 0.5)),
        _record("ppo", 2, (0.0, 0.2), (0.5, 0.3)),
    ]
    assert tables.differences(records, theirs=("dpo",)).count("\n") == 1  # nothing to compare with yet: a head alone
    assert "| ppo less none | +0.100 (+0.100 to +0.100) | +0.020" in tables.differences(records, theirs=("none",))
    assert "| ppo | hurried -0.100 (-0.100 to -0.100) | +1.00 | 0.000 | 20.0 | 0.100 |" in tables.side_effects(records)
    assert "| ppo | 2 | +0.100 (+0.100 to +0.100) | 0.50 |" in tables.main_table(records)
    tables.plot(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_do_not_work_on_one_world(tmp_path: Path) -> None:
    with Records(tmp_path).holding("world") as first, Records(tmp_path).holding("world") as second:
        assert (first, second) == (True, False)
    with Records(tmp_path).holding("world") as again:
        assert again


def test_the_best_setting_is_that_of_the_largest_area_and_the_test_seeds_get_it() -> None:
    tried = [
        {**_record("dpo", 9001, (0.0, 0.4), (1.0, 0.5)), "setting": "slow"},
        {**_record("dpo", 9001, (0.0, 0.4), (0.1, 0.49)), "setting": "fast"},
    ]
    assert tables.best(tried) == {"dpo": "fast"}  # 0.09 within every budget, against 0.01, 0.025, 0.05 and 0.1
    assert {job.setting for job in jobs("test", tables.best(tried)) if job.arm == "dpo"} == {"fast"}


def test_the_document_keeps_its_head(tmp_path: Path) -> None:
    (tmp_path / "study.md").write_text(f"# Head\n\n{RESULTS}\nas it stood\n")
    run = _record("ppo", 1, (0.0, 0.4), (0.5, 0.5))
    write(
        [{**_record(arm, 1, (0.0, 0.4)), "batch": "test"} for arm in ("none", "dpo", "kto")]
        + [{**run, "batch": "test"}],
        tmp_path,
    )
    page = (tmp_path / "study.md").read_text()
    assert page.startswith("# Head\n")
    assert "ppo less kto | +0.100" in page
    assert "as it stood" not in page


def test_what_the_gates_refused_is_served_to_nobody() -> None:
    records = [_record("ppo", seed, (0.0, 0.4), (0.5, 0.6)) for seed in (1, 2)]
    records[0]["gates"] = {"passed": True, "refused_by": []}
    records[1]["gates"] = {"passed": False, "refused_by": ["audit_reward"]}
    unasked = _record("gold", 1, (0.0, 0.4), (0.5, 0.6))
    table = tables.at_gates([*records, unasked])
    assert "| ppo | 1 of 2 | audit_reward 1 | +0.100 (+0.000 to +0.200) | 0.0 |" in table
    assert "gold" not in table
