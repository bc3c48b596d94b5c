"""The demo's report on a terminal. Knows the report's fields; what they mean is said there."""

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from deploy import feedback
from deploy.demo.report import Report, SabotageReport
from deploy.demo.trace import Trace
from deploy.demo.variety import Diversity


def show(report: Report, console: Console) -> None:
    """Print the report."""
    promises = "\n".join(
        f"[green]✓[/green] {promise}" if held else f"[red]✗ {promise}[/red]"
        for promise, held in report.promises().items()
    )
    places = _pairs({name: escape(place) for name, place in report.artifacts.items()})
    parts: list[RenderableType] = [_numbers(report), "", _versions(report), ""]
    if report.gold_by_taste:
        parts += [_tastes(report), ""]
    if report.sabotage is not None:
        parts += [_sabotage(report.sabotage), ""]
    parts += [_examples(report), "", promises, "", places]
    console.print(Panel(Group(*parts), title="Report"))
    if report.trace is not None:
        _trace(report.trace, console)
    for failure in report.failures:
        console.print(f"[red]failed:[/red] {escape(failure)}")


def _numbers(report: Report) -> Table:
    low, high = report.gold_gain_ci95
    rows = {
        "users": f"taste {escape(report.taste)}{', verdicts dealt at random' if report.shuffled else ''}",
        "gold of the base": f"{report.gold_base:.3f}",
        f"gold of {report.policy_version}": f"{report.gold_policy:.3f}",
        "gain": f"{report.gold_gain:+.3f}  (95 % interval {low:+.3f} to {high:+.3f}, {report.questions} questions)",
    }
    if report.shuffled:
        rows["found"] = _shuffled(report)
    if report.best_constant is not None:
        constant = report.best_constant
        rows["best constant answer"] = f"{constant.gold:.3f}  [dim]{escape(constant.text)}[/dim]"
    for name, found in (("base", report.diversity_base), ("policy", report.diversity_policy)):
        if found is not None:
            rows[f"diversity of the {name}"] = _diversity(found)
    rows |= {
        "KL to the base": f"{report.kl_to_base:.2f} of {report.kl_budget:g} nats per sequence",
        "requests": f"{report.requests_sent} sent, {report.requests_failed} failed",
        "feedback": f"{report.feedback_acknowledged} acknowledged, {report.feedback_found} found in the log",
        f"rollback to first token{_everywhere(report)}": _seconds(report.rollback_seconds),
        "whole run": f"{report.seconds:.0f} s",
    }
    return _pairs(rows)


def _everywhere(report: Report) -> str:
    return f" of all {report.replicas} replicas" if report.replicas > 1 else ""


def _shuffled(report: Report) -> str:
    if report.policy_version.endswith("@v0"):
        return "no version was promoted: the base still serves, and there is no gain"
    low, high = report.gold_gain_ci95
    if low <= 0 <= high:
        return f"{report.policy_version} was promoted, and its gain cannot be told from zero"
    return f"the interval of {report.policy_version} excludes zero, which says that something is learnt from noise"


def _versions(report: Report) -> Table:
    table = Table("version", "stage", "gold", "KL to base", "publish to first token", title="Versions")
    for row in report.versions:
        gold = "" if row.gold is None else f"{row.gold:.3f}"
        swap = "" if row.swap_seconds is None else f"{row.swap_seconds:.2f} s"
        table.add_row(row.version, row.stage, gold, f"{row.kl:.2f} nats", swap)
    return table


def _tastes(report: Report) -> Table:
    table = Table("gold of", "base", report.policy_version, "gain", title="The same answers in the eyes of each taste")
    for name, found in report.gold_by_taste.items():
        low, high = found.gain_ci95
        gain = f"{found.gain:+.3f}  ({low:+.3f} to {high:+.3f})"
        table.add_row(escape(name), f"{found.base:.3f}", f"{found.policy:.3f}", gain)
    return table


def _sabotage(found: SabotageReport) -> Group:
    title = f"[b]Sabotage[/b]: {found.words} flipped words, without the gates {', '.join(found.opened_gates)}"
    if found.gold_served is None or found.gold_after is None:
        return Group(title, f"nothing was promoted: {escape(found.reason)}")
    gold = (
        f"gold {found.gold_before:.3f}, then {found.gold_served:.3f} with {found.version}, then {found.gold_after:.3f}"
    )
    return Group(title, f"{gold}; rollback to first token {_seconds(found.rollback_seconds)}")


def _examples(report: Report) -> Table:
    table = Table("question", "base", report.policy_version, title="Before and after", show_lines=True)
    for example in report.examples:
        table.add_row(
            escape(example.question),
            f"{escape(example.before)} [dim]({example.gold_before:.2f})[/dim]",
            f"{escape(example.after)} [dim]({example.gold_after:.2f})[/dim]",
        )
    return table


def _trace(trace: Trace, console: Console) -> None:
    console.print(f"[b]The way of one thumb[/b]: {trace.value} on an answer of {trace.answered_by}", highlight=False)
    console.print(f"  {escape(trace.question)}\n  {escape(trace.answer)}", highlight=False)
    feedback.show(trace.fate, console)


def _diversity(found: Diversity) -> str:
    return f"{found.distinct:.0%} distinct, mean distance {found.distance:.2f}, distinct-2 {found.distinct_2:.2f}"


def _pairs(rows: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def _seconds(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds:.2f} s"
