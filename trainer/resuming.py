"""An interrupted turn under the settings of now: what of it may be gone on with.

Each finished step is taken as it lies there, so it must have been made as the version's manifest will say. Where it
was not, the snapshot alone stays, and only if it would be cut alike. Knows settings and the turn's folder; knows
nothing of what the steps do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from pydantic import TypeAdapter

from exchange.registry.port import Registry
from schemas.base import PolicyName, version_name
from trainer.settings import TrainerSettings
from trainer.snapshots.corpus import Corpus
from trainer.state import StateDir, TurnState
from trainer.suites.loading import Suites, load_suites


def settings_digest(settings: TrainerSettings) -> str:
    """Of all that decides what a turn's steps make of its snapshot: recipe, gates, seed, and what the suites say."""
    suites = TypeAdapter(Suites).dump_python(load_suites(*settings.suites.files), mode="json")
    decisive = [settings.recipe(), settings.suites.max_new_tokens, suites]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def outdated(turn: TurnState, stable: int, policy: PolicyName, registry: Registry, corpus: Corpus) -> str | None:
    """Why a turn must begin anew, its snapshot with it; None where it need not."""
    if turn.parent != stable:
        return f"{version_name(policy, stable)} is stable now"
    if not corpus.cuts_like(registry.snapshot(turn.snapshot)):
        return "its snapshot was cut for another base or under other settings of [feedback]"
    return None


def goes_on(
    turn: TurnState, state: StateDir, settings: TrainerSettings, registry: Registry, say: Callable[[str], None]
) -> TurnState:
    """The turn as it goes on. Made under other settings, or unknown ones, it loses every finished step but its
    snapshot; its number stays, unless that has been filled."""
    digest = settings_digest(settings)
    if turn.settings == digest:
        return turn
    say("the turn in progress was begun under other settings: it goes on from its snapshot, all else is made anew")
    filled = turn.reserved in registry.versions(settings.policy)
    # A filled number never changes. Nobody's now, it is given up where the canary is looked after.
    renewed = turn.model_copy(update={"settings": digest, "reserved": None if filled else turn.reserved})
    state.forget_steps()
    state.save_turn(renewed)
    return renewed
