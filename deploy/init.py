"""`attune init`: a server's and a trainer's configuration that belong together, and their first API keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from schemas.completion import ConsentLevel
from schemas.errors import ConfigError
from server.auth import KeyFile, Scope

_SERVER = """\
# An Attune server. Every setting is described in docs/configuration.md; `attune check-config` shows them all.
[server]
host = "127.0.0.1"
port = 8000
policies = [{policy}]
log = {log}
registry = "file:registry"
keys = "sqlite:///keys.db"
api_keys = "api-keys.json"
data_dir = "server-data"

[engine]
model = {model}

[engine.vllm_args]
# Any flag of `vllm serve` without its dashes:
# gpu-memory-utilization = 0.5

[chat]
# Many models sample with a top_p and top_k of their own. PPO learns most surely from answers that are sampled without:
# exploration_share = 0.2
"""

_TRAINER = """\
# The trainer beside it: the same policy, model, log, registry and keys.
policy = {policy}
log = {log}
registry = "file:registry"
keys = "sqlite:///keys.db"
state_dir = "trainer-state"
model = {model}
# dtype = "bfloat16"              # half the memory for the base; adapters stay float32

[feedback]
feedback_window_ms = 3600000   # milliseconds that every answer waits for feedback before it is judged
min_new_labels = 200           # labels since the last turn that begin a new one

[learner]
# gradient_checkpointing = true   # a large model's activations in less memory, for a third more time

[ppo]
# replay_tolerance = 0.05         # nats; where server or trainer compute in half precision
"""


@dataclass(frozen=True)
class Home:
    """What was written. The keys are shown once and stored hashed."""

    server: Path
    trainer: Path
    app_key: str
    admin_key: str


def write_home(folder: Path, *, model: str, policy: str, log: str) -> Home:
    """Write `server.toml`, `trainer.toml` and `api-keys.json` into `folder`.

    Raises:
        ConfigError: one of them is already there.
    """
    server, trainer, keys = (folder / name for name in ("server.toml", "trainer.toml", "api-keys.json"))
    for path in (server, trainer, keys):
        if path.exists():
            raise ConfigError(f"{path} is already there", remedy="Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model": json.dumps(model), "policy": json.dumps(policy), "log": json.dumps(log)}
    server.write_text(_SERVER.format(**values))
    trainer.write_text(_TRAINER.format(**values))
    key_file = KeyFile(keys)
    app = (Scope.CHAT, Scope.FEEDBACK)
    _, app_key = key_file.create(tenant=policy, scopes=app, default_consent=ConsentLevel.TRAIN, label="first app")
    _, admin_key = key_file.create(
        tenant=policy, scopes=tuple(Scope), default_consent=ConsentLevel.NONE, label="first operator"
    )
    return Home(server, trainer, app_key, admin_key)
