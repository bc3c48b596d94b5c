"""Every setting of the learner, with its unit and where its default comes from.

"ours" marks a choice of this design that no paper makes. Knows nothing of files or environment: the trainer's settings
embed these models.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import Slug

_MICRO_BATCH = "tokens per forward pass, padding included; 1024 for a CPU, a GPU wants 8192 or more"
_WARM_UP = "share of steps with linear warm-up, then cosine to 10 %"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Settings):
    """Shape of every adapter: all linear layers but lm_head."""

    rank: int = Field(16, ge=1, le=512, description="rank r of the update (ours; vLLM's max_lora_rank must allow it)")
    alpha: int = Field(32, ge=1, description="the update is scaled by alpha / rank (Schulman et al. 2025: alpha 32)")


class FreshBaseConfig(_Settings):
    """A tiny Llama and its tokenizer, made from nothing (ours: 2.8 M parameters answer templates fluently)."""

    vocab_size: int = Field(1024, ge=300, description="entries of the byte-level BPE, specials included")
    hidden_size: int = Field(256, ge=16, description="width of the residual stream")
    layers: int = Field(4, ge=1, description="decoder layers")
    heads: int = Field(
        4, ge=1, description="attention heads; hidden_size / heads = head size, 64 for vLLM's CPU kernels"
    )
    intermediate_size: int = Field(512, ge=16, description="width of the MLP")
    max_positions: int = Field(1024, ge=64, description="context length in tokens")
    seed: int = Field(0, ge=0, description="of the random weights")


class SftConfig(_Settings):
    """Supervised fine-tuning on demonstrations."""

    method: Literal["full", "lora"] = Field("full", description="train all weights of the base, or an adapter on it")
    epochs: float = Field(3.0, gt=0, description="passes over the demonstrations")
    max_seconds: float | None = Field(None, gt=0, description="stop after this wall time in s (breaks repeatability)")
    learning_rate: float = Field(
        1e-3, gt=0, description="peak of AdamW; 1e-3 fits a fresh tiny model, 1e-5 a large one (ours)"
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description=_WARM_UP)
    batch_tokens: int = Field(4096, ge=1, description="padded tokens per optimiser step")
    micro_batch_tokens: int = Field(1024, ge=1, description=_MICRO_BATCH)
    train_on_prompt: bool = Field(
        False, description="count the prompt's tokens in the loss too; wanted for a fresh base"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW (PyTorch's default)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping, L2")
    autocast: Literal["off", "bfloat16"] = Field(
        "off", description="compute type of matrix products; weights stay float32"
    )
    seed: int = Field(0, ge=0, description="of the shuffle and of LoRA's start")


class AspectRule(_Settings):
    """What one aspect counts for in the reward of PPO."""

    weight: float = Field(
        0.0, ge=-10, le=10, description="reward for one standard deviation of the aspect, beside 1 for one of the score"
    )
    floor: float | None = Field(
        None, gt=-1, le=1, description="answers whose aspect is told to lie below this (-1 to 1, as people value it) "
        "get the lowest reward, whatever their other merits"
    )  # fmt: skip

    @property
    def counts(self) -> bool:
        """Whether it changes any reward."""
        return self.weight != 0 or self.floor is not None


class RewardConfig(_Settings):
    """Training of the reward model."""

    pooling: Literal["last", "mean"] = Field(
        "last", description="what the head reads: the state of the answer's last token (InstructGPT), or the mean over "
        "its tokens, which a tiny base needs: it keeps little of the whole in its last state (measured)"
    )  # fmt: skip
    probe_penalties: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1),
        min_length=1,
        description="ridge penalties tried for the linear probe that a fresh model starts from (ours)",
    )
    epochs: int = Field(
        1,
        ge=0,
        description="passes over the labels that train the adapter, after the probe (InstructGPT section 3.5: one, "
        "more overfits); 0 leaves it at the probe",
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW on the adapter (TRL reward modelling with LoRA)")
    head_learning_rate: float = Field(1e-3, gt=0, description="AdamW on head, cohorts and tie threshold (ours)")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description=_WARM_UP)
    batch_sets: int = Field(32, ge=1, description="rankings, lone pairs and thumbs per optimiser step (ours)")
    micro_batch_tokens: int = Field(1024, ge=1, description=_MICRO_BATCH)
    thumbs_coefficient: float = Field(
        0.5, ge=0, description="weight of the mean loss of thumbs and ratings beside that of pairs (ours)"
    )
    rater_deviation: float = Field(
        1.0,
        gt=0,
        description="standard deviation of the prior on each rater's offset, in logits: how much kinder or harsher "
        "than others a person's stars are taken to be before the answers are thought better or worse (ours)",
    )
    centring_coefficient: float = Field(0.01, ge=0, description="weight of mean(score^2) (Eisenstein et al. 2023; TRL)")
    initial_tie_threshold: float = Field(
        0.5, gt=0, description="Rao-Kupper eta at the start, in logits; learned (ours)"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping, L2")
    score_clip: float = Field(5.0, gt=0, description="bound of a standardised score, in standard deviations (ours)")
    aspects: dict[Slug, AspectRule] = Field(
        {}, description="what the aspects named in feedback count for in the reward of PPO, by name, e.g. "
        "`{ tone = { weight = 0.3 }, safety = { floor = 0.0 } }`; aspects not named are learnt and reported and count "
        "for nothing (ours)"
    )  # fmt: skip


class LearnerConfig(_Settings):
    """How the policy learns, whatever the method; what each method does is in the section of its name."""

    method: Literal["ppo", "dpo", "kto", "sft"] = Field(
        "ppo", description="`ppo`: on sampled answers and their scores; `dpo`: on pairs; `kto`: on thumbs and pairs; "
        "`sft`: imitates liked answers. docs/learning.md says how to choose"
    )  # fmt: skip
    max_tokens: int | None = Field(
        None, ge=1, description="compute budget of a turn: tokens of prompts and answers that may go through forward "
        "and backward passes, over all epochs and trained adapters; whole steps only, chosen by the seed. What does "
        "not fit is left out, also of the preparation. In tokens and not in seconds, so that equal data still give "
        "equal adapters (ours)"
    )  # fmt: skip
    micro_batch_tokens: int = Field(1024, ge=1, description=_MICRO_BATCH)
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping, L2")
    autocast: Literal["off", "bfloat16"] = Field(
        "off", description="compute type of matrix products in the policy's training; adapters stay float32"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep each layer's input only and compute it again for the gradient: activations of one "
        "layer instead of all, for a third more time"
    )  # fmt: skip
    kl_budget: float = Field(
        10.0, gt=0, description="hard bound on the KL to the frozen base over all publishes, nats per sequence (ours)"
    )
    kl_check_every: int = Field(
        8, ge=1, description="optimiser steps between measurements of the KL to the base (ours)"
    )
    kl_check_answers: int = Field(64, ge=1, description="logged answers each measurement looks at (ours)")
    kl_prefix_cap: float = Field(5.0, ge=1, description="largest importance weight of a prefix in a measurement (ours)")
    checkpoint_every: int = Field(
        8, ge=1, description="optimiser steps between checkpoints, if a folder is given (ours)"
    )


class PpoConfig(_Settings):
    """Offline PPO on logged answers."""

    epochs: int = Field(1, ge=1, le=4, description="passes over the logged answers (ours: 1 to 2)")
    minibatch_answers: int = Field(64, ge=1, description="answers per optimiser step (ours)")
    learning_rate: float = Field(2e-5, gt=0, description="AdamW on the policy; 1e-5 to 3e-5 for real models")

    beta: float = Field(
        0.05, ge=0, description="KL coefficient at the start, reward units per nat (Ziegler et al. 2019)"
    )
    kl_target: float = Field(6.0, gt=0, description="KL to the base that beta is adapted to, nats per sequence (same)")
    kl_horizon: float = Field(10_000.0, gt=0, description="time constant of beta, in sequences (same)")
    kl_error_clip: float = Field(0.2, gt=0, lt=1, description="largest relative error beta reacts to (same)")

    replay_tolerance: float = Field(
        1e-3, gt=0, description="answers sampled with top_p or top_k are used where the trainer's logprob of every "
        "token is within this of the logged one, nats; 1e-3 is for float32, half precision needs about 0.05 (ours)"
    )  # fmt: skip
    replay_max_kept: int = Field(
        1024, ge=1, description="such answers are left out where top_p kept more tokens than this at a place; "
        "bounds memory, 4 bytes each (ours)"
    )  # fmt: skip

    gamma: float = Field(1.0, ge=0, le=1, description="discount per token (Ziegler et al. 2019)")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation (same)")
    critic: Literal["lora", "ridge"] = Field(
        "ridge", description="`ridge`: a linear value head on the frozen base's states, fitted in closed form on the "
        "other half of the answers; a run's advantages come from it either way. `lora`: an adapter is trained from "
        "there beside the policy, for experiments in code: no turn goes on from it; it changes nothing of this run's "
        "policy, bit for bit, and doubles the time of the training passes"
    )  # fmt: skip
    critic_penalties: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0), description="ridge penalties tried in that fit, features standardised (ours)"
    )
    critic_learning_rate: float = Field(1e-4, gt=0, description="AdamW on the critic (ours)")
    value_clip: float = Field(0.2, gt=0, description="bound on the move of a value, reward units (Ziegler et al. 2019)")
    value_coefficient: float = Field(0.1, ge=0, description="weight of the value loss (same)")
    score_clip: float = Field(5.0, gt=0, description="bound of scores given from outside, standard deviations (ours)")

    clip_low: float = Field(0.8, gt=0, le=1, description="lower clip of the ratio (Schulman et al. 2017)")
    clip_high: float = Field(1.2, ge=1, description="upper clip of the ratio (same)")
    dual_clip: float = Field(3.0, gt=1, description="bound of the objective for negative advantages (Ye et al. 2020)")
    weight_cap: float = Field(2.0, ge=1, description="cut of pi_prox / pi_behaviour; 1 throughout in bypass")
    ratio_low: float = Field(0.5, gt=0, le=1, description="tokens with a lower ratio are left out (IcePop)")
    ratio_high: float = Field(2.0, ge=1, description="tokens with a higher ratio are left out (IcePop)")
    sequence_k3: float = Field(
        0.1, gt=0, description="answers with a higher mean k3 are left out, nats per token (ours)"
    )
    stop_mean_abs_log_ratio: float = Field(0.1, gt=0, description="stop above this, nats per token (ours)")
    stop_clip_fraction: float = Field(0.3, gt=0, le=1, description="stop above this share of kept tokens (ours)")
    stop_effective_sample_size: float = Field(0.3, ge=0, lt=1, description="stop below this share of the tokens (ours)")


class DpoConfig(_Settings):
    """Direct preference optimisation on pairs (Rafailov et al. 2023); ties are left out."""

    epochs: int = Field(1, ge=1, le=4, description="passes over the pairs (ours: 1 to 2)")
    minibatch_pairs: int = Field(32, ge=1, description="pairs per optimiser step (TRL; the paper: 64)")
    learning_rate: float = Field(
        1e-5, gt=0, description="peak of AdamW: ten times TRL's for all weights, as an adapter wants (Schulman et al. "
        "2025)"
    )  # fmt: skip
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description=_WARM_UP)
    beta: float = Field(0.1, gt=0, description="strength of the KL constraint in the loss (Rafailov et al. 2023)")


class KtoConfig(_Settings):
    """KTO (Ethayarajh et al. 2024) on thumbs, and on pairs as a liked and a disliked answer."""

    epochs: int = Field(1, ge=1, le=4, description="passes over the answers (the paper: 1)")
    minibatch_answers: int = Field(
        64, ge=2, description="answers per optimiser step, over all of which the reference point is taken (ours)"
    )
    learning_rate: float = Field(1e-5, gt=0, description="peak of AdamW; as for DPO")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description=_WARM_UP)
    beta: float = Field(0.1, gt=0, description="risk aversion, per nat (Ethayarajh et al. 2024)")
    liked_ratio: float = Field(
        1.0, gt=0, description="weight of all liked answers together over that of all disliked ones (the paper: 1 to "
        "4/3, equation 8)"
    )  # fmt: skip


class LikedConfig(_Settings):
    """Supervised fine-tuning on what people liked: answers with a thumb up, chosen ones of pairs, corrections."""

    epochs: int = Field(1, ge=1, le=4, description="passes over the answers (ours)")
    minibatch_answers: int = Field(64, ge=1, description="answers per optimiser step (ours)")
    learning_rate: float = Field(1e-4, gt=0, description="peak of AdamW on the adapter (ours)")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description=_WARM_UP)


PreferenceConfig = DpoConfig | KtoConfig | LikedConfig


class PolicyRecipe(_Settings):
    """The settings of a policy's training: those of all methods, of which one is chosen."""

    learner: LearnerConfig = LearnerConfig()
    ppo: PpoConfig = PpoConfig()
    dpo: DpoConfig = DpoConfig()
    kto: KtoConfig = KtoConfig()
    sft: LikedConfig = LikedConfig()

    @property
    def chosen(self) -> PpoConfig | PreferenceConfig:
        """The section of the method in use."""
        method: PpoConfig | PreferenceConfig = getattr(self, self.learner.method)
        return method
