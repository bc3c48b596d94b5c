"""Every setting of the trainer process. Knows names, defaults and limits; opens nothing.

The top level is what the process is and what it shares, the sections are what it does: `[feedback]` which labels count
and when a turn begins, `[lora]`, `[reward_model]` and `[learner]` how it learns
(and the section of the method that it names), `[gates]` and `[suites]` what a candidate
must keep to, `[raters]` whom to believe, `[promotion]` how votes decide. "ours" marks a choice of this design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from exchange.log.kafka.settings import KafkaSettings
from exchange.privacy.retention import RetentionDays
from exchange.settings import ModelRef, TomlSettings, load_toml_settings
from schemas.base import PolicyName
from trainer.gates.config import GateSettings
from trainer.intake.ingest import Answer
from trainer.joining.eligibility import MAX_VERSIONS_BEHIND
from trainer.learn.config import (
    DpoConfig,
    KtoConfig,
    LearnerConfig,
    LikedConfig,
    LoraSettings,
    PolicyRecipe,
    PpoConfig,
    RewardConfig,
)
from trainer.quality.review import RaterSettings
from trainer.release.promotion import PromotionSettings
from trainer.snapshots.selection import SnapshotSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeedbackSection(SnapshotSettings):
    """Which feedback counts, and when there is enough of it for a turn."""

    min_new_labels: int = Field(
        default=200, ge=1, description="usable labels since the last turn that begin a new one (ours)"
    )
    min_answers: int = Field(
        default=32,
        ge=1,
        description="answers (DPO: pairs) to learn from, below which a turn ends without a candidate (ours)",
    )
    max_imported_tokens: int = Field(
        default=4096,
        ge=1,
        description="tokens of an imported vote's conversation and answer, and likewise of a prompt with its corrected "
        "answer; longer ones do not train, nor what is longer than the model's context",
    )
    ai_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="what models say (`attune label`) weighs at most this share of what people say, pairs and thumbs "
        "each for themselves: at 0.5 people keep two thirds, and outvote a model that is wrong throughout; 0 leaves it "
        "out (ours)",
    )
    max_versions_behind: int = Field(
        default=MAX_VERSIONS_BEHIND, ge=0, description="answers of older versions do not train PPO"
    )


class SuitesSection(_Section):
    """Fixed questions that candidate and parent answer, and lures for the reward model."""

    retained_ability: Path | None = Field(
        default=None, description="JSONL of abilities to keep; default: a small general one that ships with Attune"
    )
    red_team: Path | None = Field(
        default=None, description="JSONL of attacks to withstand; default: a small general one that ships with Attune"
    )
    lures: Path | None = Field(
        default=None,
        description="JSONL of what makes an answer longer or more pleasing but no better, to try the reward model "
        "with; default: a few in English that ship with Attune",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="tokens; longest answer to a case")

    @property
    def files(self) -> tuple[Path | None, Path | None, Path | None]:
        """As `trainer.suites.loading.load_suites` takes them."""
        return self.retained_ability, self.red_team, self.lures


class TrainerSettings(TomlSettings):
    """The settings of one trainer process."""

    policy: PolicyName = Field(default="support", description="the policy that is trained; one trainer, one policy")
    log: str = Field(default="sqlite:///log.db", description="event log: `sqlite:///FILE` or `kafka://HOST:PORT,...`")
    registry: str = Field(default="file:registry", description="adapters and snapshots: `file:FOLDER` or fsspec URL")
    keys: str = Field(default="sqlite:///keys.db", description="key store of sealed content: `sqlite:///FILE`")
    state_dir: Path = Field(default=Path("trainer-state"), description="ledger, checkpoints, cache of this trainer")
    model: ModelRef = Field(description="base model: a folder, or a Hugging Face name; the same as the server's")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type of the base's weights; adapters are always float32"
    )
    device: str = Field(
        default="auto", description="where to train: cpu, cuda, cuda:1; auto takes a GPU if there is one"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads for training; 0 leaves it to PyTorch")
    seed: int = Field(default=0, ge=0, description="of everything random; equal seeds and data give equal adapters")
    poll_s: float = Field(default=1.0, gt=0, description="seconds between two looks at log and journal while idle")
    lease_s: float = Field(
        default=60.0, gt=0, description="seconds after which another trainer may take over from one that is gone"
    )
    on_records_lost: Answer = Field(
        default="stop",
        description="where the log deleted records before they were read: `stop`, or `continue` without them, counted",
    )
    on_log_replaced: Answer = Field(
        default="stop",
        description="where the log is not the one that the ledger was read from: `stop`, or `continue` and read the "
        "new one from its start, with the ledger kept",
    )
    retention_days: RetentionDays = Field(
        default_factory=dict,
        description="days that rows of each retention class stay in the ledger, e.g. `{ standard = 90 }`; classes not "
        "named are kept",
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="serve Prometheus metrics on this port of loopback; default: no"
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="how to talk to Kafka, where the log is it")
    feedback: FeedbackSection = Field(default_factory=FeedbackSection, description="which labels count, and how many")
    lora: LoraSettings = Field(default_factory=LoraSettings, description="shape of every adapter")
    reward_model: RewardConfig = Field(default_factory=RewardConfig, description="training of the reward model")
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="how the policy learns: the method")
    ppo: PpoConfig = Field(default_factory=PpoConfig, description="offline PPO on logged answers")
    dpo: DpoConfig = Field(default_factory=DpoConfig, description="DPO on pairs")
    kto: KtoConfig = Field(default_factory=KtoConfig, description="KTO on thumbs and pairs")
    sft: LikedConfig = Field(default_factory=LikedConfig, description="imitation of liked answers")
    gates: GateSettings = Field(default_factory=GateSettings, description="what a candidate must keep to")
    raters: RaterSettings = Field(default_factory=RaterSettings, description="whose words are believed")
    suites: SuitesSection = Field(default_factory=SuitesSection, description="fixed questions for the gates")
    promotion: PromotionSettings = Field(default_factory=PromotionSettings, description="when votes decide a canary")

    @property
    def policy_recipe(self) -> PolicyRecipe:
        """How the policy is trained, without what else a trainer does."""
        return PolicyRecipe(learner=self.learner, ppo=self.ppo, dpo=self.dpo, kto=self.kto, sft=self.sft)

    def recipe(self) -> dict[str, JsonValue]:
        """All that decides what is learnt, for a version's manifest: no paths and no addresses."""
        named = ("dtype", "seed", "feedback", "lora", "reward_model", "learner", self.learner.method, "gates", "raters")
        recipe: dict[str, JsonValue] = self.model_dump(mode="json", include=set(named), exclude={"raters": {"gold"}})
        return recipe


def load_settings(path: Path) -> TrainerSettings:
    """The trainer's settings from a TOML file and the environment (`ATTUNE_PPO__LEARNING_RATE=...`).

    Raises:
        ConfigError: the file is missing or no TOML, or a setting is unknown, missing or wrong; the message names it.
    """
    return load_toml_settings(TrainerSettings, path)
