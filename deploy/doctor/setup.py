"""Rules over the settings of a server and a trainer that should belong together, and over the base model. Pure but for
reading one small file of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from deploy.doctor.findings import Finding, blocks, note, slows
from server.settings import ServerSettings
from trainer.settings import TrainerSettings

_MAX_BYTES = 2**20


def look_at_settings(server: ServerSettings | None, trainer: TrainerSettings) -> Iterator[Finding]:
    """Where the two do not meet, and what either does to learning."""
    if server is not None:
        yield from _apart(server, trainer)
    narrow = _narrowed(trainer.model)
    explored = server.chat.exploration_share if server is not None else None
    if narrow and not explored:
        yield slows(
            "generation_config",
            f"The model's generation_config.json sets {narrow}: requests that do not say otherwise are sampled from a "
            "cut distribution. The trainer replays top_p and top_k and leaves out what does not come out again; under "
            "min_p PPO cannot learn.",
            "Set `[chat] exploration_share` of the server to e.g. 0.2, or send these parameters with the requests.",
        )


def _apart(server: ServerSettings, trainer: TrainerSettings) -> Iterator[Finding]:
    section = server.server
    for name, here, there in (
        ("log", section.log, trainer.log),
        ("registry", section.registry, trainer.registry),
        ("keys", section.keys, trainer.keys),
    ):
        if here != there:
            yield blocks(
                f"other_{name}",
                f"Server and trainer do not meet: they name different places for `{name}`.",
                f"Give `{name}` the same value in both files.",
            )
    if trainer.policy not in section.policies:
        yield blocks(
            "other_policy",
            f"The trainer makes versions of {trainer.policy}, and the server serves {', '.join(section.policies)}.",
            "Name the policy in `[server] policies`, or train another.",
        )
    if server.engine.model != trainer.model:
        yield note(
            "other_model",
            "Server and trainer name their base model differently.",
            "It must be the same, byte for byte; answers of another base are left out.",
        )
    if server.engine.max_lora_rank < trainer.lora.rank:
        yield blocks(
            "rank",
            f"The trainer's adapters have rank {trainer.lora.rank}, and the server loads {server.engine.max_lora_rank} "
            "at most.",
            "Raise `[engine] max_lora_rank` of the server, or lower `[lora] rank` of the trainer.",
        )


def _narrowed(model: str) -> str:
    """What the model's own defaults cut from its distribution, in words; empty where nothing, or not on disk."""
    name = "generation_config.json"
    try:
        cached = None if Path(model).is_dir() else try_to_load_from_cache(model, name)
        file = Path(cached) if isinstance(cached, str) else Path(model) / name
        if not file.is_file() or file.stat().st_size > _MAX_BYTES:
            return ""
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(config, dict):
        return ""
    neutral = {"top_p": (None, 1, 1.0), "top_k": (None, 0, -1), "min_p": (None, 0, 0.0)}
    return " and ".join(f"{name} {config[name]}" for name, off in neutral.items() if config.get(name) not in off)
