"""Candidate against parent, slice by slice: who is worse off, for all that the whole gained.

A slice is a part of the questions: of one language, domain or tenant. Two things are looked at: the reward of fresh
answers, and what held-out people's verdicts make of it (`trainer.gates.value`), where a slice has enough of them. A
fresh answer belongs to all who asked its prompt, a judged one to the slices of the request that it answered.
Knows numbers measured elsewhere; never samples, loads or scores anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from torch import Tensor

from schemas.manifests import GateResult
from trainer.data import JudgedAnswer
from trainer.gates.config import GateName, GateSettings
from trainer.gates.statistics import holm
from trainer.gates.value import Estimate, PolicyOnLog, compare_on_log, mean_estimate
from trainer.gates.words import measured, unmeasured

Slices = Mapping[tuple[int, ...], tuple[str, ...]]
"""Prompt -> the slices it belongs to."""


@dataclass(frozen=True)
class SliceGain:
    """What one slice has of the candidate, its parent's taken off."""

    name: str
    measure: Literal["reward", "liked"]
    """Standard deviations of the reward, or share of liked answers."""
    answers: int
    gain: Estimate


def slice_gains(
    prompts: Sequence[tuple[int, ...]], gains: Tensor, slices: Slices, settings: GateSettings, seed: int
) -> tuple[SliceGain, ...]:
    """The reward's gain on each slice of at least `min_answers` fresh answers, with a bootstrap over them.

    Args:
        gains: candidate's score minus parent's on each prompt, [N].
    """
    found = []
    for name, rows in _parts([slices.get(prompt, ()) for prompt in prompts], settings.min_answers).items():
        gain = mean_estimate(gains[rows].double(), settings.confidence, seed)
        found.append(SliceGain(name, "reward", len(rows), gain))
    return tuple(found)


def slice_values(
    judged: Sequence[JudgedAnswer],
    modelled: Tensor,
    candidate: PolicyOnLog,
    parent: PolicyOnLog,
    settings: GateSettings,
    seed: int,
) -> tuple[SliceGain, ...]:
    """The doubly robust gain on each slice that has verdicts, people and effective answers enough for it.

    Args:
        judged, modelled, candidate, parent: as `trainer.gates.value.compare_on_log` takes them.
    """
    found = []
    for name, rows in _parts([one.answer.slices for one in judged], settings.min_judged_answers).items():
        part = [judged[row] for row in rows]
        if len({one.group for one in part}) < settings.min_judging_people:
            continue
        compared = compare_on_log(
            part,
            modelled[rows],
            _on(candidate, rows),
            _on(parent, rows),
            cap=settings.max_value_ratio,
            confidence=settings.confidence,
            seed=seed,
        )
        effective = min(compared.candidate.effective_answers, compared.parent.effective_answers)
        if compared.finite and effective >= settings.min_judged_answers:
            found.append(SliceGain(name, "liked", len(rows), compared.robust_gain))
    return tuple(found)


def _parts(names: Sequence[tuple[str, ...]], least: int) -> dict[str, list[int]]:
    """Slice -> its rows, out of each row's slices; without those too small to tell, and those that are all there is."""
    rows: dict[str, list[int]] = {}
    for row, of_row in enumerate(names):
        for name in of_row:
            rows.setdefault(name, []).append(row)
    return {name: rows[name] for name in sorted(rows) if least <= len(rows[name]) < len(names)}


def _on(policy: PolicyOnLog, rows: list[int]) -> PolicyOnLog:
    return PolicyOnLog(policy.log_ratios[rows], policy.expected[rows])


def slices_gate(found: Sequence[SliceGain], settings: GateSettings) -> GateResult:
    """Whether more than `max_slices_worse` are worse off beyond their interval, corrected for their number (Holm).

    The p-value of a slice is one-sided and normal, with the deviation that its interval has; its level is that of one
    end of an interval of `confidence`.
    """
    name: GateName = "slices"
    unit, allowed = "slices worse off", settings.max_slices_worse
    if not found:
        because = f"No language, domain or tenant is a part of the answers with at least {settings.min_answers} of them"
        return unmeasured(name, settings, threshold=allowed, unit=unit, because=because)
    level = (1 - settings.confidence) / 2
    chances = holm([_chance_of_no_harm(one.gain, settings.confidence) for one in found])
    worse = [one for one, chance in zip(found, chances, strict=True) if chance < level]
    least = min(found, key=lambda one: one.gain.value)
    words = f"{len(found)} comparisons of candidate and parent by language, domain and tenant"
    if worse:
        tail = f": worse off, corrected for their number: {'; '.join(_words(one) for one in worse)}."
    else:
        tail = f", none worse off beyond its interval. The least: {_words(least)}."
    passed = len(worse) <= allowed
    return measured(name, passed, value=len(worse), threshold=allowed, unit=unit, explanation=words + tail)


def _chance_of_no_harm(gain: Estimate, confidence: float) -> float:
    width = gain.high - gain.low
    if width <= 0:
        return 0.0 if gain.value < 0 else 1.0
    deviation = width / (2 * NormalDist().inv_cdf(0.5 + confidence / 2))
    return NormalDist().cdf(gain.value / deviation)


def _words(one: SliceGain) -> str:
    if one.measure == "liked":
        gain = f"{100 * one.gain.value:+.1f} ({100 * one.gain.low:+.1f} to {100 * one.gain.high:+.1f}) points liked"
    else:
        gain = f"{one.gain.value:+.2f} ({one.gain.low:+.2f} to {one.gain.high:+.2f}) standard deviations of reward"
    return f"{one.name} {gain} on {one.answers} answers"
