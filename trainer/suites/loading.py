"""All fixed questions and lures of one trainer, from its files or as they ship. Knows files; knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.suites.cases import SuiteCase, built_in_suite, load_suite
from trainer.suites.lures import Lure, load_lures


@dataclass(frozen=True)
class Suites:
    """The fixed questions that every candidate and its parent answer, and the lures for the reward model."""

    ability: tuple[SuiteCase, ...]
    red_team: tuple[SuiteCase, ...]
    lures: tuple[Lure, ...] = ()


def load_suites(ability: Path | None, red_team: Path | None, lures: Path | None = None) -> Suites:
    """Suites from files; None stands for the built-in one. Raises InvalidInput, as `load_suite` does."""
    return Suites(
        built_in_suite("retained_ability") if ability is None else load_suite(ability),
        built_in_suite("red_team") if red_team is None else load_suite(red_team),
        load_lures(lures),
    )
