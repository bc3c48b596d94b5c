"""The engine's settings, and the vLLM flags they become. Knows flag names; loads no vLLM.

Every vLLM engine flag can be passed on by `vllm_args`. A few are Attune's own: recording needs them at one value, or
the HTTP front they speak of is not vLLM's here. Those are refused by name instead of being overridden in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from server.engine.errors import EngineSettingsError

FORCED: Mapping[str, JsonValue] = {
    "enable-lora": True,
    "logprobs-mode": "processed_logprobs",
    "api-server-count": 1,
    "worker-extension-cls": "server.engine.worker.AttuneWorker",
}
"""Flags that may be repeated at this value and at no other."""

OWNED_BY_SETTINGS = {
    "model": "engine.model",
    "model-tag": "engine.model",
    "served-model-name": "engine.base_names",
    "max-loras": "engine.max_loras",
    "max-lora-rank": "engine.max_lora_rank",
}
"""Flags that have a setting of their own."""

NOT_HERE = {
    "lora-modules": "adapters come from the registry, by the policy journal",
    "config": "a second configuration file could set flags unseen; give them in vllm_args",
    "headless": "the server needs the engine's OpenAI layer",
    "grpc": "the server speaks HTTP",
    "tokens-only": "the server needs the engine's OpenAI layer",
    **dict.fromkeys(
        (
            *("host", "port", "uds", "root-path", "middleware", "api-key", "allow-credentials", "allowed-origins"),
            *(
                "allowed-methods",
                "allowed-headers",
                "ssl-keyfile",
                "ssl-certfile",
                "ssl-ca-certs",
                "enable-ssl-refresh",
            ),
            *("ssl-cert-reqs", "ssl-ciphers", "h11-max-incomplete-event-size", "h11-max-header-count"),
            *("uvicorn-log-level", "disable-uvicorn-access-log"),
        ),
        "HTTP is served by Attune, so this flag of vLLM's own server would do nothing",
    ),
}
"""Flags that make no sense inside Attune, with the reason."""


class EngineSettings(BaseModel):
    """How to start vLLM inside the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="base model: a folder, or a Hugging Face name")
    base_names: tuple[str, ...] = Field(min_length=1, description="names the base answers to, e.g. support@v0")
    max_loras: int = Field(default=3, ge=3, description="adapters at once: stable, canary and one draining")
    max_lora_rank: int = Field(default=16, ge=1, description="largest LoRA rank that can be served")
    vllm_args: dict[str, JsonValue] = Field(
        default_factory=dict, description="any other `vllm serve` flag without its dashes, e.g. gpu-memory-utilization"
    )
    usage_stats: bool = Field(default=False, description="let vLLM send its usage statistics home")


def vllm_flags(settings: EngineSettings) -> list[str]:
    """The command line vLLM's own parser is given.

    True becomes `--flag`, False `--no-flag`, a list several values, an object JSON. Raises EngineSettingsError for a
    flag that Attune sets itself or that would do nothing here; the message names it.
    """
    flags: dict[str, JsonValue] = {}
    for key, value in settings.vllm_args.items():
        name = key.lstrip("-").replace("_", "-")
        where = f"engine.vllm_args.{key}"
        if name.removeprefix("no-") in FORCED:
            name, value = (name.removeprefix("no-"), False) if name.startswith("no-") else (name, value)
            if value != FORCED[name]:
                raise EngineSettingsError(
                    f"vLLM's --{name} is {json.dumps(FORCED[name])} in Attune and cannot be {json.dumps(value)}",
                    field=where,
                    remedy="Leave it out.",
                )
        elif name in OWNED_BY_SETTINGS:
            owner = OWNED_BY_SETTINGS[name]
            raise EngineSettingsError(f"vLLM's --{name} has its own setting", field=where, remedy=f"Set {owner}.")
        elif name in NOT_HERE:
            raise EngineSettingsError(
                f"vLLM's --{name} cannot be used here: {NOT_HERE[name]}", field=where, remedy="Leave it out."
            )
        flags[name] = value
    flags |= {**FORCED, "max-loras": settings.max_loras, "max-lora-rank": settings.max_lora_rank}
    flags |= {"model": settings.model, "served-model-name": list(settings.base_names)}
    return [word for name, value in flags.items() for word in flag_words(name, value)]


def flag_words(name: str, value: JsonValue) -> list[str]:
    """One flag as words of a command line; none where `value` is None."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}", *(str(item) for item in value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
