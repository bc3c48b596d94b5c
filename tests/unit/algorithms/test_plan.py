"""Which examples make up which step, within a budget of tokens."""

from __future__ import annotations

from trainer.learn.plan import make_plan


def test_every_epoch_sees_every_row_once_in_another_order() -> None:
    plan = make_plan([1] * 10, per_step=4, epochs=2, seed=3, max_tokens=None)
    assert [len(rows) for rows in plan.steps] == [4, 4, 2, 4, 4, 2]
    assert plan.epochs == (0, 0, 0, 1, 1, 1)
    first, second = (
        [row for rows, its in zip(plan.steps, plan.epochs, strict=True) if its == epoch for row in rows]
        for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [plan.ends_epoch(step) for step in range(6)] == [False, False, True, False, False, True]
    assert (plan.size(0), plan.cut) == (10, False)


def test_a_budget_is_never_exceeded_and_a_larger_one_goes_on_from_the_same_steps() -> None:
    costs = [3, 5, 8, 13, 2, 7, 1]
    whole = make_plan(costs, per_step=2, epochs=2, seed=0, max_tokens=None)
    assert sum(whole.costs) == 2 * sum(costs)
    for budget in range(1, 80):
        plan = make_plan(costs, per_step=2, epochs=2, seed=0, max_tokens=budget)
        assert sum(plan.costs) <= budget
        assert plan.steps == whole.steps[: len(plan.steps)]
        assert plan.cut is (len(plan.steps) < len(whole.steps))
        if plan.cut:
            assert sum(plan.costs) + whole.costs[len(plan.steps)] > budget


def test_what_does_not_take_part_needs_no_place() -> None:
    plan = make_plan([10] * 6, per_step=2, epochs=1, seed=1, max_tokens=40)
    rows, packed = plan.compact()
    assert len(rows) == 4
    assert [[rows[place] for place in step] for step in packed.steps] == [list(step) for step in plan.steps]
    assert packed.ends_epoch(1)
