"""Every setting of the server process. Knows names, defaults and limits; opens nothing.

`[server]` is what one replica is, `[engine]` how vLLM starts, `[chat]` how requests are answered and recorded,
`[spool]` what happens while the log is away, `[swap]` how versions come and go.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, model_validator

from exchange.log.kafka.settings import KafkaSettings
from exchange.privacy.retention import RetentionDays
from exchange.settings import ModelRef, TomlSettings, describe, load_toml_settings
from schemas.base import Id, PolicyName, Slug, version_name
from schemas.completion import ConsentLevel
from server.engine.settings import EngineSettings

__all__ = ["ServerSettings", "describe", "load_settings"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProcessSection(_Section):
    """The process: where it listens and what it shares with others."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65_535, description="TCP port; 0 takes a free one")
    policies: tuple[PolicyName, ...] = Field(
        default=("support",), min_length=1, description="policies served here; each is a model name to clients"
    )
    log: str = Field(
        default="sqlite:///log.db", description="event log: `memory:`, `sqlite:///FILE` or `kafka://HOST:PORT,...`"
    )
    registry: str = Field(default="file:registry", description="adapters: `memory:`, `file:FOLDER` or any fsspec URL")
    keys: str = Field(
        default="sqlite:///keys.db", description="key store of sealed content: `memory:` or `sqlite:///FILE`"
    )
    api_keys: Path = Field(default=Path("api-keys.json"), description="hashed API keys, kept by `attune keys`")
    data_dir: Path = Field(default=Path("server-data"), description="this replica's own files: adapter cache, secret")
    retention_days: RetentionDays = Field(
        default_factory=dict,
        description="days that records of each retention class stay on an embedded log, e.g. `{ standard = 30 }`; "
        "classes not named are kept",
    )
    backups: Path | None = Field(
        default=None, description="folder that `attune backup` copies go under: erasures reach the keys in them too"
    )
    replica_id: Id = Field(
        default_factory=lambda: f"server-{socket.gethostname()[:100] or 'local'}",
        description="name of this replica in events and reports",
    )
    notice_seconds: float = Field(
        default=0.0,
        ge=0,
        description="seconds between SIGTERM (readyz says 503) and closing the port, for load balancers to notice",
    )
    drain_seconds: float = Field(default=30.0, ge=0, description="seconds that requests in flight then get to end")
    metrics_public: bool | None = Field(
        default=None,
        description="GET /metrics without an API key; default: only while listening on a loopback address, "
        "else a key with the scope `read` is needed",
    )

    @property
    def metrics_open(self) -> bool:
        """Whether /metrics answers without a key."""
        if self.metrics_public is not None:
            return self.metrics_public
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class EngineSection(_Section):
    """vLLM, which runs inside the server."""

    model: ModelRef = Field(description="base model: a folder, or a Hugging Face name")
    max_loras: int = Field(
        default=4, ge=3, description="adapters at once: stable, canary, the one before, one draining"
    )
    max_lora_rank: int = Field(default=16, ge=1, description="largest LoRA rank that can be served")
    vllm_args: dict[str, JsonValue] = Field(
        default_factory=dict, description="any other `vllm serve` flag without its dashes, e.g. gpu-memory-utilization"
    )
    usage_stats: bool = Field(default=False, description="let vLLM send its usage statistics home")


class ChatSection(_Section):
    """How requests are answered and recorded."""

    secret: SecretStr | None = Field(
        default=None,
        description="root of handle keys, pseudonyms and the routing salt, the same on all replicas; "
        "default: made once and kept in data_dir",
    )
    unread_consents: ConsentLevel = Field(
        default=ConsentLevel.NONE,
        description="the most that is kept of named people by a replica that has never been able to read who withdrew, "
        "because the log has been away since its first start; `train` keeps to what requests and keys say",
    )
    exploration_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of alias requests, with consent to train, sampled from the full distribution (top_p, top_k "
        "and penalties off, temperature 0 raised to 1), so that the trainer can learn from them; never those with a "
        "seed, tools or a prescribed format",
    )
    handle_days: float = Field(default=30.0, gt=0, description="days until a feedback handle expires")
    max_body_bytes: int = Field(default=1_000_000, gt=0, description="largest request body in bytes")
    queue_bytes: int = Field(
        default=64_000_000, gt=0, description="bytes of events that wait in memory for the log or the spool"
    )
    thumbs_metrics: tuple[Slug, ...] = Field(
        default=("thumbs_up",),
        description="boolean metrics of TensorZero's feedback body that are a person's thumbs (true is up); "
        "all other metrics are outcomes, which do not train",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="browser origins that may send feedback by handle, e.g. https://app.example.com"
    )


class SpoolSection(_Section):
    """Where events wait on this replica's disk (data_dir/spool) while the event log is away or slow."""

    max_bytes: int = Field(
        default=2**30,
        ge=2**16,
        description="cap in bytes; when it is reached the oldest are kept, feedback is refused with 503 and "
        "completions are dropped (these at nine tenths of it already), while chats go on",
    )
    after_seconds: float = Field(
        default=1.0, gt=0, description="seconds that the log may take for an answer before events go to the spool"
    )
    retry_seconds: float = Field(default=1.0, gt=0, description="seconds until a log that is away is tried again")


class SwapSection(_Section):
    """How versions are loaded, checked and let go."""

    max_adapter_bytes: int = Field(default=2_000_000_000, gt=0, description="largest adapter in bytes")
    probe_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest difference, in nats per token, between the trainer's logprobs of the manifest's probes "
        "and this engine's; default: 0.01 for a float32 engine, 0.25 for one of half precision",
    )
    retry_seconds: float = Field(
        default=5.0, gt=0, description="seconds until a version that could not be fetched is tried again"
    )
    report_seconds: float = Field(
        default=30.0, gt=0, description="seconds between two reports of what this replica serves, if nothing changes"
    )
    admin_wait_seconds: float = Field(
        default=30.0, gt=0, description="seconds that promote and rollback wait for this replica to route accordingly"
    )


class HealthSection(_Section):
    """When this replica says that it may take traffic."""

    idle_seconds: float = Field(
        default=10.0, gt=0, description="seconds without a token after which one background probe asks the engine"
    )
    probe_timeout_seconds: float = Field(default=30.0, gt=0, description="seconds that such a probe may take")


class ServerSettings(TomlSettings):
    """The settings of one server process."""

    server: ProcessSection = Field(default_factory=ProcessSection, description="the process and what it shares")
    engine: EngineSection = Field(description="vLLM, which runs inside the server")
    chat: ChatSection = Field(default_factory=ChatSection, description="how requests are answered and recorded")
    spool: SpoolSection = Field(
        default_factory=SpoolSection, description="where events wait on disk while the log is away"
    )
    swap: SwapSection = Field(default_factory=SwapSection, description="how versions are loaded, checked and let go")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="how to talk to Kafka, where the log is it")
    health: HealthSection = Field(default_factory=HealthSection, description="when this replica may take traffic")

    @model_validator(mode="after")
    def _distinct_policies(self) -> ServerSettings:
        if len(set(self.server.policies)) != len(self.server.policies):
            raise ValueError("server.policies names a policy twice")
        return self

    def engine_settings(self) -> EngineSettings:
        """What the engine is opened with: the base answers to `POLICY@v0` of every policy."""
        names = tuple(version_name(policy, 0) for policy in self.server.policies)
        return EngineSettings(base_names=names, **self.engine.model_dump())


def load_settings(path: Path) -> ServerSettings:
    """The server's settings from a TOML file and the environment (`ATTUNE_SERVER__PORT=...`).

    Raises:
        ConfigError: the file is missing or no TOML, or a setting is unknown, missing or wrong; the message names it.
    """
    return load_toml_settings(ServerSettings, path)
